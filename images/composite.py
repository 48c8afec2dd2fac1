"""Pixels of any depth and any number of channels as a picture for people.  NumPy only.

Grey and RGB are shown as they are.  Of two channels the first is shown red and the second green.
Of more than three the first three are shown as red, green and blue.
"""
from typing import NamedTuple, Union

import numpy as np

from images.channels import count_channels, is_scaled

MOST_SHOWN_CHANNELS = 3


class Shades(NamedTuple):
    """The values that are shown black and white: of all channels, or (C,) of each."""
    black: Union[float, np.ndarray]
    white: Union[float, np.ndarray]


def find_shades(pixels):
    """The Shades of pixels (H, W) or (H, W, C): 8 bits as they are, others from end to end.

    Grey and RGB have one range, other channels have one each.
    """
    if pixels.dtype == np.uint8:
        return Shades(0, 255)
    axes = None if count_channels(pixels) in (1, 3) else (0, 1)
    return Shades(pixels.min(axis=axes), pixels.max(axis=axes))


def show_pixels(pixels, shades=None):
    """Pixels (H, W) or (H, W, C) as a picture: (H, W) uint8 of grey ones, (H, W, 3) of others.

    shades: what is black and white; by default `find_shades`.
    """
    channels = count_channels(pixels)
    exact = np.float32 if is_scaled(pixels.dtype) else np.float64
    black, white = (np.asarray(values, exact)[..., :MOST_SHOWN_CHANNELS] if np.ndim(values) else
                    exact(values) for values in shades or find_shades(pixels))
    if channels > MOST_SHOWN_CHANNELS:
        pixels = pixels[..., :MOST_SHOWN_CHANNELS]
    span = np.where(white > black, white - black, 1).astype(exact)
    shown = np.rint((pixels.astype(exact) - black) * (255 / span)).clip(0, 255).astype(np.uint8)
    if channels == 2:
        shown = np.concatenate([shown, np.zeros_like(shown[..., :1])], axis=2)
    return shown
