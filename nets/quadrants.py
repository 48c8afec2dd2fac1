"""The reference's protocol: a 512 px image as four quadrants, and their logits together again.

It exists to repeat what the system did that this project reproduces.  Each quadrant is mirrored
at its own edges, although the real neighbourhood is in the image.
"""
import numpy as np

from command.errors import DataError
from images.mirror import mirrored

REFERENCE_SIDE = 512    # px: the one image side that the protocol is made for
REFERENCE_BLOCK = 256   # px: a quadrant
REFERENCE_OUTPUT = 260  # px: the logits' side of a quadrant, for either kind of net


def reference_blocks(image, geometry):
    """The four 256² quadrants of a (C, 512, 512) image, each mirrored at its own edges.

    Returns (4, C, s, s) float32 in reading order; s: 448 for U-Net, 260 for nets that keep the
    size.  Raises DataError for any other image side.
    """
    if image.shape[-2:] != (REFERENCE_SIDE, REFERENCE_SIDE):
        height, width = image.shape[-2:]
        raise DataError(f"--tile reference: made for {REFERENCE_SIDE} x {REFERENCE_SIDE} px "
                        f"images, not for {height} x {width}; use --tile full")
    image = image[:, :REFERENCE_SIDE]
    half = REFERENCE_BLOCK
    pad = geometry.reference_input - half
    inside = mirrored(half, pad // 2, pad - pad // 2)
    return np.stack([image.take(top + inside, axis=-2).take(left + inside, axis=-1)
                     for top in (0, half) for left in (0, half)])


def stitch_reference(logits, concatenate):
    """(4N, K, 260, 260) logits of quadrants -> (N, K, 512, 512).

    Each quadrant drops the 2 pixels beyond the image.  The 4 pixels in which quadrants then
    overlap are averaged, first left with right, then top with bottom.
    concatenate: np.concatenate for arrays, jt.concat for Vars.
    """
    middle = REFERENCE_BLOCK + 2                  # of 258 px that are left
    outer = REFERENCE_OUTPUT - REFERENCE_BLOCK    # 4 px overlap
    n = logits.shape[0] // 4
    blocks = logits.reshape((n, 4, *logits.shape[1:]))
    first, second = slice(2, 2 + middle), slice(0, middle)
    rows = []
    for top, kept in ((0, first), (2, second)):
        left = blocks[:, top, :, kept, first]
        right = blocks[:, top + 1, :, kept, second]
        shared = (left[:, :, :, middle - outer:] + right[:, :, :, :outer]) / 2
        rows.append(concatenate([left[:, :, :, :middle - outer], shared,
                                 right[:, :, :, outer:]], 3))
    top, bottom = rows
    shared = (top[:, :, middle - outer:] + bottom[:, :, :outer]) / 2
    return concatenate([top[:, :, :middle - outer], shared, bottom[:, :, outer:]], 2)
