"""What input sizes a net takes, and where tiles lie."""
from dataclasses import dataclass, replace
from typing import Optional

import numpy as np

from command.errors import DataError

REFERENCE_SIDE = 512     # px: the one image side that the reference's protocol is made for
WHOLE = 2 ** 21          # pixels, 1,448 x 1,448: up to here a net without exact tiles sees all at once (U2net: 4 GB)
WINDOW = 1024            # px: the side of the tiles that larger images are cut into


@dataclass(frozen=True)
class Geometry:
    """What input sizes a net takes, and what comes out of it.  Sides in pixels."""
    margin: int           # input side - output side: what valid convolutions cost (half on each side)
    multiple: int         # output sides repeat with this period: the product of the poolings
    remainder: int        # output side modulo `multiple`
    smallest: int         # smallest output side
    edge: Optional[int]   # outer pixels of a tile's output that differ from the whole image's; None: no tile is exact
    reference_input: int  # input side of the reference's quadrants

    def output_side(self, length):
        """The smallest output side (px) that covers `length` pixels."""
        length = max(length, self.smallest)
        return length + (self.remainder - length) % self.multiple


UNET_BILINEAR = Geometry(margin=184, multiple=16, remainder=4, smallest=4, edge=15, reference_input=448)
UNET_TRANSPOSED = Geometry(margin=184, multiple=16, remainder=4, smallest=4, edge=0, reference_input=448)
UNET_ALIGNED = replace(UNET_BILINEAR, edge=None)  # `align_corners`: where it looks depends on the size of its input
UNET_PADDED = Geometry(margin=0, multiple=16, remainder=0, smallest=32, edge=None, reference_input=260)
U2NET = Geometry(margin=0, multiple=32, remainder=0, smallest=64, edge=None, reference_input=260)


def geometry_of(mode, bilinear=True, padding=0, align_corners=False):
    """The Geometry of a net as `Model.build_model` builds it."""
    if mode != "Unet":
        return U2NET
    if padding:
        return UNET_PADDED
    if bilinear:
        return UNET_ALIGNED if align_corners else UNET_BILINEAR
    return UNET_TRANSPOSED


# ------------------------------------------------------------------------------------------------------------ overlap-tile
@dataclass(frozen=True)
class Span:
    """One tile along one axis, in pixels of the logits of the whole canvas."""
    start: int   # where the tile's logits begin
    length: int  # how many there are
    keep: slice  # which of the canvas' logits are taken from this tile


def exact_spans(total, tile, geometry):
    """Tiles along one axis whose logits equal those of one pass over all `total` of them: list of Span.

    total: px, an output side of the geometry; tile: px, the wanted side of a tile's output.
    Raises DataError for a tile too small to keep anything of.
    """
    length = geometry.output_side(tile)
    if length >= total:
        return [Span(0, total, slice(0, total))]
    stride = (length - 2 * geometry.edge) // geometry.multiple * geometry.multiple
    if stride <= 0:
        smallest = geometry.output_side(geometry.multiple + 2 * geometry.edge)
        raise DataError(f"--tile {tile}: too small for this net, {smallest} is the smallest")
    starts = [*range(0, total - length, stride), total - length]
    # each border between two neighbours lies where both are exact: at the end of the former's exact part
    ends = [start + length - geometry.edge for start in starts[:-1]] + [total]
    return [Span(start, length, slice(begin, end)) for start, begin, end in zip(starts, [0, *ends], ends)]


def check_tile(tile, geometry):
    """Raise DataError where exact tiles of this side (px) would keep nothing."""
    if isinstance(tile, int) and geometry.edge is not None:
        exact_spans(geometry.output_side(10 * tile), tile, geometry)


def blended_starts(total, length):
    """Starts of tiles of `length` px that overlap by at least half and together cover `total` px."""
    count = 1 if total <= length else -(-(total - length) // max(1, length // 2)) + 1
    return [round(i * (total - length) / max(1, count - 1)) for i in range(count)]


def gaussian_window(length):
    """Weights of a blended tile along one axis, (length,) float32: a Gaussian of sigma = length / 8, as in nnU-Net."""
    distance = np.arange(length) - (length - 1) / 2
    return np.maximum(np.exp(-0.5 * (distance / (length / 8)) ** 2), 1e-3).astype(np.float32)


def automatic_tile(geometry, height, width):
    """The tile for an image (px) that nobody asked to be cut: one pass, as far as that fits into common memories."""
    exact = geometry.edge is not None  # then tiles change nothing but the memory that they take
    return "full" if not exact and height * width <= WHOLE else WINDOW
