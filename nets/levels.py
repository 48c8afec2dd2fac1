"""Whether a trained net can take an image file, and what its values mean for the net."""
from typing import NamedTuple, Optional

import numpy as np

from command.errors import DataError, say_once
from images.channels import describe_channels, is_scaled, suits_channels
from images.composite import Shades
from images.reading import pages_of, row_bands
from images.values import white_of

ALIKE = "give it images as they were stored for training"


class Levels(NamedTuple):
    """Values of a file's images, the same for all images of a stack."""
    white: Optional[int]  # it counts as 1 for the net; None: values stay in their own units
    shades: Shades        # what is shown black and white in an overlay


class Ends(NamedTuple):
    """The smallest and the largest value of each channel, (C,) each."""
    lowest: np.ndarray
    highest: np.ndarray


# ------------------------------------------------------------------------------ by its header alone
def check_suits(file, net):
    """Raise DataError where a TrainedNet cannot take an ImageFile, by its header alone."""
    if not suits_channels(file.channels, net.n_channels):
        raise DataError(f"{file.path}: {describe_channels(file.channels)}, but the net takes "
                        f"{describe_channels(net.n_channels)}; choose images of its kind")
    trained = net.statistics.dtype
    if net.statistics.is_scaled == is_scaled(file.dtype):
        return
    if trained:
        raise DataError(f"{file.path}: {file.dtype} values, but the net was trained on {trained} "
                        f"values, which have other units; {ALIKE}")
    if file.dtype.kind != "f":
        raise DataError(f"{file.path}: {file.dtype} values, and nobody knows in which units the "
                        "net was trained; convert them to 8 or 16 bits without a sign, or to "
                        "floats from 0 to 1")


def say_conversion(file, net):
    """Say what a TrainedNet makes of the channels and values of an ImageFile that it can take."""
    trained = net.statistics.dtype
    if (file.channels, net.n_channels) == (3, 1):
        say_once("RGB images are turned grey: the net takes one channel")
    elif (file.channels, net.n_channels) == (1, 3):
        say_once("Grey images are taken as RGB: the net takes three channels")
    if (file.dtype, trained) == (np.uint8, "uint16"):
        say_once("Images of 8 bits, but the net was trained on 16 bits: give it the images "
                 "as the microscope stored them; an export in 8 bits does not say how "
                 "bright they were")
    if trained and not is_scaled(file.dtype) and trained != file.dtype:
        say_once(f"Images of {file.dtype}, but the net was trained on {trained}: the values are "
                 "taken as they are")


# ---------------------------------------------------------------------------------- by its values
def find_levels(file, pixels, net, is_shown):
    """The Levels of an ImageFile whose first image is `pixels`, for a TrainedNet.

    is_shown: whether an overlay is made.  All images are read only where something depends on it.
    Of 16 bits a camera may fill 12: what is brightest is shown white.  Raises DataError for floats
    beyond 0 ... 1 where nobody knows in which units the net was trained.
    """
    if file.dtype == np.uint8:
        return Levels(255, Shades(0, 255))
    trained = net.statistics.dtype
    if not is_shown and trained == "uint16":
        return Levels(white_of(np.iinfo(file.dtype).max, file.dtype, net.statistics), Shades(0, 1))
    if not is_shown and trained and file.dtype != np.uint16:
        return Levels(None, Shades(0, 1))
    ends = find_ends([pixels] if len(file.pages) == 1 else pages_of(file))
    low, high = ends.lowest.min(), ends.highest.max()
    together = file.channels in (1, 3)
    if file.dtype != np.uint16:
        if not trained and not 0 <= low <= high <= 1:
            raise DataError(f"{file.path}: values from {low:g} to {high:g}, and nobody knows in "
                            "which units the net was trained; scale them to 0 ... 1")
        return Levels(None, Shades(low, high) if together else Shades(*ends))
    white = white_of(int(high), file.dtype, net.statistics)
    if white != np.iinfo(np.uint16).max:
        say_once(f"{file.path}: 16-bit values up to {high:,}: {white:,} counts as white, "
                 "for the training images were brighter")
    return Levels(white, Shades(0, max(int(high), 1)) if together else Shades(*ends))


def find_ends(pages):
    """The Ends over all pages: (H, W) or (H, W, C) each, an array or a LargePage."""
    lowest = highest = None
    for page in pages:
        for band in row_bands(page):
            values = band.reshape(*band.shape[:2], -1)
            low, high = values.min(axis=(0, 1)), values.max(axis=(0, 1))
            lowest = low if lowest is None else np.minimum(lowest, low)
            highest = high if highest is None else np.maximum(highest, high)
    return Ends(lowest, highest)
