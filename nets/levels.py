"""What the values of an image file mean for a trained net, and which are shown black and white."""
from typing import NamedTuple

import numpy as np

from command.errors import say_once
from images.channels import count_channels
from images.composite import Shades
from images.reading import pages_of, row_bands
from images.values import white_of


class Levels(NamedTuple):
    """Values of a file's images, the same for all pages of a stack."""
    white: int      # it counts as 1 for the net
    shades: Shades  # what is shown black and white in an overlay


def find_levels(file, pixels, net):
    """The Levels of an ImageFile whose first page is `pixels`, for a TrainedNet.

    Of 16 bits a camera may fill 12: what is brightest is shown white.
    """
    say_conversion(count_channels(pixels), net.n_channels)
    full = int(np.iinfo(pixels.dtype).max)
    if pixels.dtype != np.uint16:
        if net.statistics.dtype == "uint16":
            say_once("Images of 8 bits, but the net was trained on 16 bits: give it the images "
                     "as the microscope stored them; an export in 8 bits does not say how "
                     "bright they were")
        return Levels(full, Shades(0, full))
    every = [pixels] if len(file.pages) == 1 else pages_of(file)
    largest = max(int(band.max()) for page in every for band in row_bands(page))
    white = white_of(largest, pixels.dtype, net.statistics)
    if white != full:
        say_once(f"{file.path}: 16-bit values up to {largest:,}: {white:,} counts as white, "
                 "for the training images were brighter")
    return Levels(white, Shades(0, max(largest, 1)))


def say_conversion(channels, n_channels):
    """Say that images of so many channels are converted for a net of `n_channels`."""
    if (channels, n_channels) == (3, 1):
        say_once("RGB images are turned grey: the net takes one channel")
    elif (channels, n_channels) == (1, 3):
        say_once("Grey images are taken as RGB: the net takes three channels")
