"""What input sizes a net takes, and where tiles lie: arithmetic along one axis, in pixels.

Tiles of a U-Net are exact: where they start at multiples of 16 pixels, every pool sees the same
pixel pairs as in the whole image, and every logit is the same.  Bilinear up-sampling looks one
pixel beyond its edge at each of four levels: the outer 15 pixels of such a tile's output differ
and are not used.
"""
from dataclasses import dataclass, replace
from typing import NamedTuple, Optional

import numpy as np

from command.errors import DataError
from images.mirror import mirrored


@dataclass(frozen=True)
class Geometry:
    """What input sizes a net takes, and what comes out of it.  Sides in pixels."""
    margin: int           # input side - output side: what valid convolutions cost, half each side
    multiple: int         # output sides repeat with this period: the product of the poolings
    remainder: int        # output side modulo `multiple`
    smallest: int         # smallest output side
    edge: Optional[int]   # outer pixels of a tile's output that differ from the whole image's;
                          # None: no tile is exact
    reference_input: int  # input side of the reference's quadrants

    def output_side(self, length):
        """The smallest output side (px) that covers `length` pixels."""
        length = max(length, self.smallest)
        return length + (self.remainder - length) % self.multiple

    def input_side(self, length):
        """The input side (px) whose output covers `length` pixels."""
        return self.output_side(length) + self.margin

    def before(self, length):
        """How many pixels the input shows before the first of `length` pixels."""
        return (self.output_side(length) - length) // 2 + self.margin // 2

    def around(self, length, own):
        """(pixels before, pixels after) the first `own` of `length` pixels in their input."""
        before = self.before(length)
        return before, self.input_side(length) - before - own


UNET_BILINEAR = Geometry(margin=184, multiple=16, remainder=4, smallest=4, edge=15,
                         reference_input=448)
UNET_TRANSPOSED = replace(UNET_BILINEAR, edge=0)
# with `align_corners` the up-sampling's coordinates depend on the size of its input
UNET_ALIGNED = replace(UNET_BILINEAR, edge=None)
UNET_PADDED = Geometry(margin=0, multiple=16, remainder=0, smallest=32, edge=None,
                       reference_input=260)
U2NET = Geometry(margin=0, multiple=32, remainder=0, smallest=64, edge=None, reference_input=260)


class Part(NamedTuple):
    """The logits of a part of an image."""
    top: int            # px, in the image
    left: int           # px
    logits: np.ndarray  # (K, h, w) float32


# ------------------------------------------------------------------------------------ exact tiles
@dataclass(frozen=True)
class Span:
    """One tile along one axis, in pixels of the logits of the whole canvas."""
    start: int   # where the tile's logits begin
    length: int  # how many there are
    keep: slice  # which of the canvas' logits are taken from this tile


def exact_spans(total, side, geometry):
    """Tiles along one axis whose logits equal those of one pass over all of them: list of Span.

    total: px, an output side of the geometry; side: px, the wanted side of a tile's output.
    Raises DataError for a tile too small to keep anything of.
    """
    length = geometry.output_side(side)
    if length >= total:
        return [Span(0, total, slice(0, total))]
    stride = (length - 2 * geometry.edge) // geometry.multiple * geometry.multiple
    if stride <= 0:
        smallest = geometry.output_side(geometry.multiple + 2 * geometry.edge)
        raise DataError(f"--tile {side}: too small for this net, {smallest} is the smallest")
    starts = [*range(0, total - length, stride), total - length]
    # two neighbours meet where both are exact: at the end of the former's exact part
    ends = [start + length - geometry.edge for start in starts[:-1]] + [total]
    return [Span(start, length, slice(begin, end))
            for start, begin, end in zip(starts, [0, *ends], ends)]


class ExactTile(NamedTuple):
    """A tile along one axis of an image."""
    pixels: np.ndarray  # the image's pixels that it sees, mirrored ones among them
    keep: slice         # the image's pixels whose logits are taken from it
    inside: slice       # where these lie in its logits


def exact_axis(length, side, geometry):
    """The ExactTiles along an axis of `length` px, in order; side: px of a tile's output."""
    total = geometry.output_side(length)
    before = (total - length) // 2  # logits before that of the image's first pixel
    half = geometry.margin // 2
    pixels = mirrored(length, before + half, total - before - length + half)
    tiles = []
    for span in exact_spans(total, side, geometry):
        begin, end = max(span.keep.start, before), min(span.keep.stop, before + length)
        if begin < end:  # the logits of mirrored pixels alone are nobody's
            seen = pixels[span.start:span.start + span.length + geometry.margin]
            tiles.append(ExactTile(seen, slice(begin - before, end - before),
                                   slice(begin - span.start, end - span.start)))
    return tiles


# ---------------------------------------------------------------------------------- blended tiles
def blended_starts(total, length):
    """Starts of tiles of `length` px that overlap by half or more and cover `total` px."""
    count = 1 if total <= length else -(-(total - length) // max(1, length // 2)) + 1
    return [round(i * (total - length) / max(1, count - 1)) for i in range(count)]


def gaussian_window(length):
    """Weights of a blended tile along one axis, (length,) float32.

    A Gaussian of sigma = length / 8, as in nnU-Net (Isensee et al., Nature Methods 2021).
    """
    distance = np.arange(length) - (length - 1) / 2
    return np.maximum(np.exp(-0.5 * (distance / (length / 8)) ** 2), 1e-3).astype(np.float32)
