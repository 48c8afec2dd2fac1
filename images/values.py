"""From an image's stored values to what a net takes: scaled, normalised by the training set's statistics.  NumPy only.

Training and prediction share it.
"""
from dataclasses import dataclass

import numpy as np

from images.channels import as_planes, to_channels
from images.formats import read_image


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of the training images, per channel, of values scaled to [0, 1]."""
    mean: tuple
    std: tuple
    bits: int = 0  # of the training images' values, 8 or 16; 0: not known


def normalise(image, statistics):
    """(C, H, W) values in [0, 1], brought to mean 0 and standard deviation 1 by the training set's Statistics."""
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (statistics.mean, statistics.std))
    return (image - mean) / std


def white_of(largest, dtype, statistics):
    """The value that counts as 1 in an image whose largest value is `largest`: its dtype's largest, as in training.

    But where the training images had 8 bits, or nobody knows, and even the largest of 16-bit values is darker than their
    mean, it is the largest value of the 8, 12 or 14 bits in use.
    """
    full = np.iinfo(dtype).max
    if statistics.bits == 16:
        return full
    mean = min(statistics.mean) or 1.0  # 0: nothing is known of the training images
    fitting = [white for white in (255, 4095, 16383) if largest <= white]
    return fitting[0] if dtype == np.uint16 and largest < mean * full and fitting else full


class NormalisedRows:
    """An image as `MirrorPadding.tiled_logits` reads it: `shape` (C, H, W), and [:, top:bottom], (C, rows, W) float32.

    pixels: (H, W) or (H, W, 3) values, grey or RGB: an array, or an object with its shape whose [top:bottom] is one.
    """

    def __init__(self, pixels, n_channels, statistics, white):
        self.pixels, self.statistics, self.white = pixels, statistics, white
        self.shape = (n_channels, *pixels.shape[:2])

    def __getitem__(self, place):
        _, rows = place
        return normalise(as_planes(to_channels(self.pixels[rows], self.shape[0]), self.white), self.statistics)


def load_image(path, n_channels):
    """An image as (C, H, W) float32 in [0, 1]: grey for 1 channel, RGB for 3 (a grey file is repeated)."""
    return as_planes(read_image(path, grayscale=n_channels == 1))
