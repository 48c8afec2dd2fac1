"""Tiles of an image, forward through a net: rows of them, and those that are blended.

A net that pads its convolutions sees beyond any tile, so that no tile is exact.  Such tiles
overlap by half and are averaged with Gaussian weights, as in nnU-Net (Isensee et al., Nature
Methods 2021).  The U-Net paper's exact tiles are in MirrorPadding.py.
"""
import numpy as np

from images.mirror import mirrored
from nets.geometry import Part, blended_starts, gaussian_window


def read_rows(source, rows):
    """The rows of a source (C, H, W) that `rows` names, however often: (C, len(rows), W)."""
    first = rows.min()
    return source[:, first:rows.max() + 1].take(rows - first, axis=-2)


def forward_in_batches(forward, band, indices, batch):
    """Yield the logits (K, h, w) of each tile of a row of tiles.

    band: (C, h, W), the row's pixels.  indices: of each tile's columns.  batch: tiles per call.
    """
    for first in range(0, len(indices), batch):
        tiles = [band.take(columns, axis=-1) for columns in indices[first:first + batch]]
        yield from forward(np.stack(tiles))


def blended_parts(source, forward, geometry, side, batch):
    """Yield the Parts of an image, as wide as the image, from blended tiles of `side` px."""
    height, width = source.shape[-2:]
    largest = geometry.output_side(side)
    sides = [largest if length > largest else geometry.output_side(length)
             for length in (height, width)]
    canvas = [max(length, part) for length, part in zip((height, width), sides)]
    half = geometry.margin // 2
    rows, columns = (mirrored(length, half, total - length + half)
                     for length, total in zip((height, width), canvas))
    tops, lefts = (blended_starts(total, part) for total, part in zip(canvas, sides))
    seen = [columns[left:left + sides[1] + geometry.margin] for left in lefts]
    window = gaussian_window(sides[0])[:, None] * gaussian_window(sides[1])
    logits, weights = None, np.zeros((sides[0], canvas[1]), np.float32)
    for top, following in zip(tops, [*tops[1:], canvas[0]]):
        band = read_rows(source, rows[top:top + sides[0] + geometry.margin])
        for left, part in zip(lefts, forward_in_batches(forward, band, seen, batch)):
            if logits is None:
                logits = np.zeros((len(part), *weights.shape), np.float32)
            logits[..., left:left + sides[1]] += window * part
            weights[:, left:left + sides[1]] += window
        done = following - top  # rows that no later tile reaches
        complete = logits[:, :done] / weights[:done]
        yield Part(top, 0, complete[:, :height - top, :width])
        logits, weights = _drop_rows(logits, done), _drop_rows(weights, done)


def _drop_rows(sums, done):
    """Sums (..., H, W) without their first `done` rows, and with as many zeros at the end."""
    return np.concatenate([sums[..., done:, :], np.zeros_like(sums[..., :done, :])], axis=-2)
