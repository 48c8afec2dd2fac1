"""Channels: grey or RGB values, as planes."""
import numpy as np


def has_colours(pixels):
    """Whether values (H, W) or (H, W, 3) are in colour: grey ones that are stored as RGB are not."""
    return pixels.ndim == 3 and bool((pixels != pixels[..., :1]).any())


def as_planes(pixels, white=None):
    """Unsigned values (H, W) or (H, W, 3) as (C, H, W) float32 in [0, 1].

    white: the value that counts as 1; the dtype's largest by default.
    """
    scaled = pixels.astype(np.float32) / (white or np.iinfo(pixels.dtype).max)
    return scaled[None] if scaled.ndim == 2 else np.ascontiguousarray(scaled.transpose(2, 0, 1))


def to_channels(pixels, n_channels):
    """Values (H, W) or (H, W, 3) as (H, W) for 1 channel, by Pillow's luma (ITU-R 601-2), or as (H, W, 3) for 3."""
    if pixels.ndim == 3 and n_channels == 1:
        red, green, blue = (pixels[..., k].astype(np.uint32) for k in range(3))
        return ((19595 * red + 38470 * green + 7471 * blue + 2 ** 15) >> 16).astype(pixels.dtype)
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 and n_channels == 3 else pixels
