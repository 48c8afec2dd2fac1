"""Channels: grey or RGB values, and the planes that a net takes.  NumPy only."""
import numpy as np


def has_colours(pixels):
    """Whether pixels (H, W) or (H, W, 3) are in colour.  Grey values stored as RGB are not."""
    return pixels.ndim == 3 and bool((pixels != pixels[..., :1]).any())


def as_planes(pixels, white=None):
    """Unsigned pixels (H, W) or (H, W, 3) as planes: (C, H, W) float32 in [0, 1].

    white: the value that becomes 1; the largest of the dtype by default.
    """
    scaled = pixels.astype(np.float32) / (white or np.iinfo(pixels.dtype).max)
    if scaled.ndim == 2:
        return scaled[None]
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def to_channels(pixels, n_channels):
    """Pixels (H, W) or (H, W, 3) with `n_channels`: (H, W) for 1, (H, W, 3) for 3.

    RGB becomes grey by Pillow's luma (ITU-R 601-2); grey becomes RGB by repetition.  The dtype
    stays.
    """
    if pixels.ndim == 3 and n_channels == 1:
        red, green, blue = (pixels[..., k].astype(np.uint32) for k in range(3))
        luma = (19595 * red + 38470 * green + 7471 * blue + 2 ** 15) >> 16
        return luma.astype(pixels.dtype)
    if pixels.ndim == 2 and n_channels == 3:
        return np.repeat(pixels[..., None], 3, axis=2)
    return pixels
