"""From an image's stored values to what a net takes, in training and in prediction.  NumPy only.

Values of 8 and 16 bits are scaled to [0, 1], others stay in their own units (as_planes).  Then they
are normalised by the training set's mean and standard deviation.
"""
from dataclasses import dataclass

import numpy as np

from images.channels import as_planes, is_scaled, to_channels
from images.reading import read_image


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of the training images' planes, in the units of `as_planes`."""
    mean: tuple      # a number per channel
    std: tuple       # a number per channel
    dtype: str = ""  # the name of the stored values', or "" where nobody knows

    @property
    def is_scaled(self):
        """Whether the planes are in [0, 1], which they are too where nobody knows the dtype."""
        return not self.dtype or is_scaled(self.dtype)


def normalise(image, statistics):
    """Planes (C, H, W) float32, brought to the training set's mean 0 and standard deviation 1."""
    mean, std = (np.asarray(values, np.float32)[:, None, None]
                 for values in (statistics.mean, statistics.std))
    return (image - mean) / std


def white_of(largest, dtype, statistics):
    """The stored value that becomes 1 in an image whose largest value is `largest`.

    dtype: uint8 or uint16.  In general it is the largest value of the dtype, as in training.  There
    is one exception, for cameras of 8, 12 or 14 bits that store 16: there it is the largest value
    of these bits.  It applies where the training images had 8 bits (or nobody knows), and where
    even the largest of 16-bit values is darker than the training images' mean.
    """
    full = np.iinfo(dtype).max
    if statistics.dtype == "uint16":
        return full
    mean = min(statistics.mean) or 1.0  # 0: nothing is known of the training images
    fitting = [white for white in (255, 4095, 16383) if largest <= white]
    if dtype == np.uint16 and largest < mean * full and fitting:
        return fitting[0]
    return full


class NormalisedRows:
    """An image whose rows are normalised when they are asked for; it need not fit into memory.

    It has what MirrorPadding's tilings need: `shape`, which is (C, H, W), and [:, top:bottom],
    which gives (C, rows, W) float32.
    """

    def __init__(self, pixels, n_channels, statistics, white):
        """pixels: (H, W) or (H, W, C) values, an array or an object whose [top:bottom] is one.

        n_channels: of the net; statistics: of the training images; white: see `as_planes`.
        """
        self.pixels, self.statistics, self.white = pixels, statistics, white
        self.shape = (n_channels, *pixels.shape[:2])

    def __getitem__(self, place):
        _, rows = place
        pixels = to_channels(self.pixels[rows], self.shape[0])
        return normalise(as_planes(pixels, self.white), self.statistics)


def load_image(path, n_channels):
    """The planes of an image file: (n_channels, H, W) float32, in the units of `as_planes`.

    RGB is read as grey for 1 channel, grey as RGB for 3.  Raises DataError as `read_image`.
    """
    return as_planes(read_image(path, n_channels))
