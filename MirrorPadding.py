"""Mirror padding and the overlap-tile strategy (Ronneberger et al. 2015, section 2, figure 2).

    python MirrorPadding.py --image F            # the image before and after its mirror padding, as one picture

A valid-convolution net predicts the middle of what it sees.  To predict a whole image, the image is mirrored beyond its
edges; to predict a large one in little memory, it is cut into tiles, each of which sees the *real* image around its own
part and mirrored pixels only beyond the image's edge.  This file is the arithmetic of it, in NumPy alone: what a net takes
and gives (`Geometry`), how much to mirror, where tiles lie, and how their logits come together again.

Tiles of a U-Net are exact: where they start at multiples of 16 pixels, every pool sees the same pixel pairs as in the
whole image, and every logit is the same.  Bilinear up-sampling looks one pixel beyond its edge at each of four levels:
the outer 15 pixels of such a tile's output differ, and are not used.
"""
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from command.errors import DataError, run
from command.files import atomic_write, make_folder
from command.flags import Parser, number, picture
from images.figures import use_agg
from images.formats import read_image
from nets.geometry import (REFERENCE_SIDE, UNET_BILINEAR, Geometry, Span, blended_starts,
                           exact_spans, gaussian_window)

REFERENCE_BLOCK = 256    # px: a quadrant
REFERENCE_OUTPUT = 260   # px: the logits' side of a quadrant, for either kind of net


# -------------------------------------------------------------------------------------------------------------- mirroring
def mirror_pad(image, top, bottom, left, right):
    """Mirror an image (..., H, W) beyond its edges, without repeating the edge pixel (NumPy's `reflect`).

    Wider than the image, the mirror image is mirrored again.  Returns (..., top + H + bottom, left + W + right).
    """
    rows, columns = mirrored(image.shape[-2], top, bottom), mirrored(image.shape[-1], left, right)
    return image.take(rows, axis=-2).take(columns, axis=-1)


def mirrored(length, before, after):
    """Indices into `length` pixels, mirrored at both ends for as far as asked.

    As `np.pad`'s `reflect` of NumPy 2: NumPy 1 loses the period where the widths differ and exceed the image.
    """
    period = max(1, 2 * (length - 1))
    index = np.arange(-before, length + after) % period
    return np.minimum(index, period - index)


def mirror_padding(image, pad_size):
    """Mirror `pad_size` pixels in total onto each axis of (..., H, W): half on each side, the odd one bottom and right."""
    before, after = pad_size // 2, pad_size - pad_size // 2
    return mirror_pad(image, before, after, before, after)


def mirrored_before(geometry, canvas):
    """How many pixels `pad_for` mirrors before the first of `canvas` pixels."""
    return (geometry.output_side(canvas) - canvas) // 2 + geometry.margin // 2


def mirrored_around(geometry, canvas, own):
    """How many pixels `pad_for` mirrors before and after an image's `own` pixels on a canvas of `canvas` pixels."""
    before = mirrored_before(geometry, canvas)
    return before, geometry.output_side(canvas) + geometry.margin - before - own


def pad_for(geometry, image, height, width):
    """Mirror `image` (..., h, w) into the input that gives logits for a canvas of `height` x `width` >= h x w.

    The canvas lies in the middle of the logits (`crop_logits` cuts it out) and begins with the image's first pixel.
    """
    rows, columns = (mirrored_around(geometry, *sides) for sides in zip((height, width), image.shape[-2:]))
    return mirror_pad(image, *rows, *columns)


def crop_logits(logits, height, width):
    """The middle `height` x `width` of logits (..., H, W): what `pad_for` put there.  Arrays and Vars alike."""
    top, left = (logits.shape[-2] - height) // 2, (logits.shape[-1] - width) // 2
    return logits[..., top:top + height, left:left + width]


def _forward_in_batches(forward, band, indices, batch):
    """Yield the logits (K, h, w) of the tiles of a row of tiles; band: (C, h, W); indices: of each tile's columns."""
    for first in range(0, len(indices), batch):
        yield from forward(np.stack([band.take(columns, axis=-1) for columns in indices[first:first + batch]]))


def _read_rows(source, rows):
    """The rows of a source (C, H, W) that `rows` names, in that order and however often: (C, len(rows), W)."""
    first = rows.min()
    return source[:, first:rows.max() + 1].take(rows - first, axis=-2)


class ExactTile(NamedTuple):
    """A tile along one axis of an image."""
    pixels: np.ndarray  # the image's pixels that it sees, mirrored ones among them
    keep: slice         # the image's pixels whose logits are taken from it
    inside: slice       # where these lie in its logits


def _exact_axis(length, tile, geometry):
    """The ExactTiles along an axis of `length` px, in order."""
    total = geometry.output_side(length)
    before = (total - length) // 2  # logits before that of the image's first pixel
    pixels = mirrored(length, before + geometry.margin // 2, total - before - length + geometry.margin // 2)
    spans = [Span(0, total, slice(0, total))] if tile == "full" else exact_spans(total, tile, geometry)
    tiles = []
    for span in spans:
        begin, end = max(span.keep.start, before), min(span.keep.stop, before + length)
        if begin < end:  # the logits of mirrored pixels alone are nobody's
            tiles.append(ExactTile(pixels[span.start:span.start + span.length + geometry.margin],
                                   slice(begin - before, end - before), slice(begin - span.start, end - span.start)))
    return tiles


def _exact_tiles(source, forward, geometry, tile, batch):
    rows, columns = (_exact_axis(length, tile, geometry) for length in source.shape[-2:])
    for row in rows:
        band, seen = _read_rows(source, row.pixels), [column.pixels for column in columns]
        for column, part in zip(columns, _forward_in_batches(forward, band, seen, batch)):
            yield row.keep.start, column.keep.start, part[:, row.inside, column.inside]


def _blended_tiles(source, forward, geometry, tile, batch):
    """Overlapping tiles, weighted by a Gaussian; the parts are as wide as the image."""
    height, width = source.shape[-2:]
    side = geometry.output_side(tile)
    sides = [side if length > side else geometry.output_side(length) for length in (height, width)]
    canvas = [max(length, part) for length, part in zip((height, width), sides)]
    half = geometry.margin // 2
    rows, columns = (mirrored(length, half, total - length + half) for length, total in zip((height, width), canvas))
    tops, lefts = (blended_starts(total, part) for total, part in zip(canvas, sides))
    seen = [columns[left:left + sides[1] + geometry.margin] for left in lefts]
    window = gaussian_window(sides[0])[:, None] * gaussian_window(sides[1])
    logits, total = 0, np.zeros((sides[0], canvas[1]), np.float32)
    for top, following in zip(tops, [*tops[1:], canvas[0]]):
        band = _read_rows(source, rows[top:top + sides[0] + geometry.margin])
        for left, part in zip(lefts, _forward_in_batches(forward, band, seen, batch)):
            if np.isscalar(logits):
                logits = np.zeros((len(part), *total.shape), np.float32)
            logits[..., left:left + sides[1]] += window * part
            total[:, left:left + sides[1]] += window
        done = following - top  # rows that no later tile reaches
        yield top, 0, (logits[:, :done] / total[:done])[:, :height - top, :width]
        logits, total = (np.concatenate([sums[..., done:, :], np.zeros_like(sums[..., :done, :])], axis=-2)
                         for sums in (logits, total))


def tiled_logits(source, forward, geometry, tile="full", batch=1):
    """Yield a whole image's logits part by part: (top, left, (K, h, w) float32), h and w as the parts come.

    source: an array (C, H, W), or an object with its `shape` whose [:, top:bottom] is an array: it is only asked for
    the rows of one row of tiles at a time.  Parts come in reading order; those of one row of tiles share their rows and
    together fill the width.  batch: tiles per call of `forward`.  forward, tile: as for `overlap_tile`.
    """
    if tile == "reference":
        yield 0, 0, stitch_reference(forward(reference_blocks(source, geometry)), np.concatenate)[0]
    elif tile == "full" or geometry.edge is not None:
        yield from _exact_tiles(source, forward, geometry, tile, batch)
    else:
        yield from _blended_tiles(source, forward, geometry, tile, batch)


def overlap_tile(image, forward, geometry, tile="full"):
    """Logits of a whole image, by any tiling.

    image: (C, H, W) float32, normalised.  forward: a function from a batch of inputs (N, C, h, w) to its logits
    (N, K, h - margin, w - margin), both NumPy.  tile: 'full' (one pass), a side N in pixels, or 'reference'.
    Returns (K, H, W) float32.
    """
    logits = None
    for top, left, part in tiled_logits(image, forward, geometry, tile):
        if logits is None:
            logits = np.empty((len(part), *image.shape[-2:]), np.float32)
        logits[:, top:top + part.shape[1], left:left + part.shape[2]] = part
    return logits


# ------------------------------------------------------------------------------------------------ the reference's protocol
def reference_blocks(image, geometry):
    """The reference's protocol, in: the four 256² quadrants of a (C, 512, 512) image, each mirrored at its own edges.

    Returns (4, C, s, s) float32 in reading order; s: 448 for U-Net, 260 for nets that keep the size.  Raises DataError for
    any other image side.
    """
    if image.shape[-2:] != (REFERENCE_SIDE, REFERENCE_SIDE):
        raise DataError(f"--tile reference: made for {REFERENCE_SIDE} x {REFERENCE_SIDE} px images, not for "
                        f"{image.shape[-2]} x {image.shape[-1]}; use --tile full")
    image = image[:, :REFERENCE_SIDE]
    half, pad = REFERENCE_BLOCK, geometry.reference_input - REFERENCE_BLOCK
    return np.stack([mirror_padding(image[:, top:top + half, left:left + half], pad)
                     for top in (0, half) for left in (0, half)])


def stitch_reference(logits, concatenate):
    """The reference's protocol, out: (4N, K, 260, 260) logits of quadrants -> (N, K, 512, 512).

    Each quadrant drops the 2 pixels beyond the image; the 4 pixels in which quadrants then overlap are averaged, first
    left with right, then top with bottom.  `concatenate`: np.concatenate for arrays, jt.concat for Vars.
    """
    middle, outer = REFERENCE_BLOCK + 2, REFERENCE_OUTPUT - REFERENCE_BLOCK  # 258 px are left, 4 of them overlap
    n = logits.shape[0] // 4
    blocks = logits.reshape((n, 4, *logits.shape[1:]))
    first, second = slice(2, 2 + middle), slice(0, middle)
    rows = []
    for top, rows_kept in ((0, first), (2, second)):
        left = blocks[:, top, :, rows_kept, first]
        right = blocks[:, top + 1, :, rows_kept, second]
        shared = (left[:, :, :, middle - outer:] + right[:, :, :, :outer]) / 2
        rows.append(concatenate([left[:, :, :, :middle - outer], shared, right[:, :, :, outer:]], 3))
    top, bottom = rows
    shared = (top[:, :, middle - outer:] + bottom[:, :, :outer]) / 2
    return concatenate([top[:, :, :middle - outer], shared, bottom[:, :, outer:]], 2)


# -------------------------------------------------------------------------------------------------------------- the picture
def draw(image, geometry, path):
    """Write the before/after picture of an image's mirror padding: (H, W) or (H, W, 3) values, any depth."""
    pyplot = use_agg()
    from matplotlib.patches import Rectangle
    planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    height, width = planes.shape[-2:]
    after = pad_for(geometry, planes, height, width)
    top, left = (mirrored_before(geometry, length) for length in (height, width))
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 5.4), layout="constrained")
    for axis, pixels, title in zip(axes, (planes, after), ("image", "input")):
        shown = pixels.transpose(1, 2, 0).astype(np.float64) / max(1, planes.max())
        axis.imshow(shown if len(planes) == 3 else shown[..., 0], cmap="gray", interpolation="nearest")
        axis.set_title(f"{title}: {pixels.shape[-2]} x {pixels.shape[-1]} px")
        axis.set_axis_off()
    axes[0].set(xlim=(-left - 0.5, after.shape[-1] - left - 0.5), ylim=(after.shape[-2] - top - 0.5, -top - 0.5))
    axes[1].add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor="#ffd400", linewidth=1.5))
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)


def main():
    parser = Parser("Write a picture of an image before and after the mirror padding that U-Net needs.")
    parser.add_argument("--image", required=True, type=Path, help="image file")
    parser.add_argument("--output", type=picture, help="picture to write (default: <image>_mirrored.png, here)")
    parser.add_argument("--pad_size", type=number(int, 0, 4096), help="pixels to mirror onto each axis, in total "
                        "(default: what U-Net needs)")
    args = parser.parse_args()
    image = read_image(args.image)
    geometry = UNET_BILINEAR
    if args.pad_size is not None:
        geometry = Geometry(args.pad_size, 1, 0, 1, None, 0)
    output = args.output or Path(f"{args.image.stem}_mirrored.png")
    make_folder(output.parent)
    draw(image, geometry, output)
    print(f"{output}: {args.image.name} before and after mirror padding")


if __name__ == "__main__":
    sys.exit(run(main))
