"""Shapes that a person has drawn, as a label: polygons, ellipses and runs of pixels.  NumPy only.

A pixel belongs to a shape if its centre lies inside: (x + 0.5, y + 0.5), from the upper left corner
of the image, x to the right, y down.
"""
from pathlib import Path
from typing import NamedTuple, Optional, Union

import numpy as np

OFF_EDGE = 0.5  # px: what lies further out than this can hold the centre of a pixel that is not
FARTHEST = 1e9  # px: no corner lies further from the image's own


class Patch(NamedTuple):
    """Some pixels of an image."""
    top: int          # px: the first row of `mask` in the image
    left: int         # px: its first column
    mask: np.ndarray  # (rows, columns) bool

    @property
    def place(self):
        """Where the mask lies in the image: an index."""
        rows, columns = self.mask.shape
        return np.s_[self.top:self.top + rows, self.left:self.left + columns]


class Bounds(NamedTuple):
    """The rectangle around a part of a shape, in px."""
    left: float
    top: float
    right: float
    bottom: float

    def reach_outside(self, height, width):
        """Whether the part may cover pixels that an image of this size does not have."""
        return (min(self.left, self.top) < -OFF_EDGE or self.right > width + OFF_EDGE
                or self.bottom > height + OFF_EDGE)


# ---------------------------------------------------------------------------------------- the parts
# A part of a shape has `bounds`, a Bounds, and `fill(height, width)`, its Patch of an image of this
# size.  `fill` raises ValueError for a part that cannot be drawn.
class Polygon(NamedTuple):
    """Rings of corners.  A point is inside where a line from it crosses the rings an odd number of
    times (the even-odd rule).  So a ring within another one is a hole."""
    rings: tuple  # of (corners, 2) float arrays: x, y; the last corner is joined to the first

    @property
    def bounds(self):
        corners = np.concatenate(self.rings)
        return Bounds(*corners.min(axis=0), *corners.max(axis=0))

    def fill(self, height, width):
        start, end = np.concatenate([np.stack([ring, np.roll(ring, -1, axis=0)], axis=1)
                                     for ring in self.rings]).transpose(1, 0, 2)
        is_downward = (start[:, 1] < end[:, 1])[:, None]  # neighbours compute a shared edge alike
        start, end = np.where(is_downward, start, end), np.where(is_downward, end, start)
        # an edge crosses the middles of these rows: its upper end belongs to it, its lower does not
        first = _clipped(start[:, 1], height)
        count = _clipped(end[:, 1], height) - first
        if not count.any():
            return NOTHING
        edge = np.repeat(np.arange(len(count)), count)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
        (x, y), (dx, dy) = start[edge].T, (end - start)[edge].T
        column = _clipped(x + (row + 0.5 - y) * dx / dy, width)  # the first one right of the edge
        top, left = row.min(), column.min()
        # whether a number is odd is all that counts, which 8 bits tell however large it is
        crossed = np.zeros((row.max() - top + 1, column.max() - left + 1), np.uint8)
        np.add.at(crossed, (row - top, column - left), 1)
        odd = np.cumsum(crossed, axis=1, dtype=np.uint8) % 2 == 1
        return Patch(int(top), int(left), odd[:, :-1])


class Ellipse(NamedTuple):
    """An ellipse whose axes are those of the image."""
    bounds: Bounds

    def fill(self, height, width):
        left, top, right, bottom = self.bounds
        rows = np.arange(_clipped(top, height), _clipped(bottom, height))
        columns = np.arange(_clipped(left, width), _clipped(right, width))
        if not len(rows) or not len(columns):
            return NOTHING
        down = (2 * rows + 1 - top - bottom) / (bottom - top)
        across = (2 * columns + 1 - left - right) / (right - left)
        inside = down[:, None] ** 2 + across ** 2 < 1
        return Patch(int(rows[0]), int(columns[0]), inside)


class Runs(NamedTuple):
    """Pixels as COCO writes them: lengths of runs of 0 and 1 in turn, down one column after the
    other."""
    lengths: Union[tuple, bytes]  # of int; or COCO's compressed form
    height: int                   # px: of its image
    width: int

    @property
    def bounds(self):
        return Bounds(0, 0, self.width, self.height)

    def fill(self, height, width):
        if (self.height, self.width) != (height, width):
            raise ValueError(f"is drawn on {self.height} x {self.width} px (height x width), but "
                             f"its image has {height} x {width}")
        lengths = self.lengths
        if isinstance(lengths, bytes):
            lengths = _decompressed(lengths)
        if sum(lengths) != height * width or min(lengths) < 0:
            raise ValueError("has runs that do not add up to its image")
        values = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
        return _cut_to_content(values.reshape(width, height).T)


NOTHING = Patch(0, 0, np.zeros((0, 0), bool))


def _clipped(position, end):
    """The first pixel whose middle is not before `position`, in px; 0 ... end."""
    return np.clip(np.ceil(np.asarray(position, float) - 0.5), 0, end).astype(np.int64)


def _decompressed(text):
    """The lengths in COCO's compressed form.

    A number is written in groups of 5 bits, the lowest first, in two's complement.  Bit 5 says that
    another group follows; 48 is added, for a character.  From the fourth number on it is the
    difference to the last but one.
    """
    lengths, value, shift = [], 0, 0
    for character in text:
        group = character - 48
        if not 0 <= group < 64:
            raise ValueError("has runs that are damaged")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value, shift = 0, 0
    return lengths


def _cut_to_content(values):
    """(H, W) bool pixels as a Patch."""
    rows, columns = (np.flatnonzero(values.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return NOTHING
    return Patch(int(rows[0]), int(columns[0]),
                 values[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1])


# --------------------------------------------------------------------------------------- the shapes
class Shape(NamedTuple):
    """What a person has drawn around one thing."""
    name: str     # of its class; "" where it has none
    parts: tuple  # each a Polygon, an Ellipse or Runs; a pixel of any part is the shape's
    place: str    # where it stands in its file, for people: "shape 3"
    is_crowd: bool = False  # whether it may hold many things

    def fill(self, height, width):
        """The shape's Patch of an image of this size; ValueError as its parts."""
        patches = [part.fill(height, width) for part in self.parts]
        patches = [patch for patch in patches if patch.mask.any()]
        if len(patches) < 2:
            return patches[0] if patches else NOTHING
        top, left = (min(patch[k] for patch in patches) for k in (0, 1))
        bottom, right = (max(patch[k] + patch.mask.shape[k] for patch in patches) for k in (0, 1))
        union = np.zeros((bottom - top, right - left), bool)
        for patch in patches:
            union[patch._replace(top=patch.top - top, left=patch.left - left).place] |= patch.mask
        return Patch(top, left, union)


class Drawing(NamedTuple):
    """What an annotation file says of an image."""
    path: Path                      # of the annotation file
    shapes: list                    # of Shape
    left_out: list                  # lines for people: what has no area, and why
    size: Optional[tuple] = None    # (height, width) of the image, where the file says it


def ring_of(points):
    """Stored points, pairs of x and y, as a ring of a Polygon; ValueError for anything else."""
    ring = np.asarray(points, float).reshape(-1, 2)
    if not len(ring) or not (np.abs(ring) < FARTHEST).all():
        raise ValueError("has corners that are no places in an image")
    return ring


class Drawn(NamedTuple):
    """Shapes as a label."""
    label: np.ndarray  # (H, W) uint32: 0 background, else the number of the shape on top
    contested: int     # pixels that shapes of different numbers cover
    empty: set         # indices of the shapes without a pixel
    hidden: set        # indices of those of which others, which are smaller, cover each pixel


def draw_shapes(shapes, numbers, height, width):
    """Draw shapes of these numbers, 1 and up, into an image of this size: Drawn.

    Where two overlap the one of fewer pixels lies on top; of two that are equally large, the later.
    Raises ValueError that begins with the place of a shape that cannot be drawn.
    """
    patches = []
    for shape in shapes:
        try:
            patches.append(shape.fill(height, width))
        except ValueError as error:
            raise ValueError(f"{shape.place} {error}") from None
    areas = [int(patch.mask.sum()) for patch in patches]
    label, on_top = (np.zeros((height, width), np.uint32) for _ in range(2))
    contested = np.zeros((height, width), bool)
    for k in sorted(range(len(shapes)), key=lambda k: -areas[k]):  # stable: the later comes later
        place, mask = patches[k].place, patches[k].mask
        contested[place] |= mask & (label[place] != 0) & (label[place] != numbers[k])
        label[place][mask] = numbers[k]
        on_top[place][mask] = k + 1
    empty = {k for k, area in enumerate(areas) if not area}
    seen = {int(k) - 1 for k in np.unique(on_top)}
    return Drawn(label, int(contested.sum()), empty, set(range(len(shapes))) - empty - seen)
