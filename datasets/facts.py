"""What is known of a single file of a data set, from decoding it once.  NumPy only."""
import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from command.errors import DataError
from datasets.label_values import count_values
from images.channels import (as_planes, count_channels, describe_kind, has_colours,
                             stored_channels, to_channels)
from images.reading import examine_file, read_image, read_label


@dataclass(frozen=True)
class ImageFacts:
    """What is known of an image file."""
    height: int       # px
    width: int        # px
    dtype: str        # of a value, one of images.channels.VALUE_DTYPES
    channels: int     # that are stored
    is_colour: bool   # it has three channels, and these differ
    is_flat: bool     # all its pixels are equal
    sums: list        # [sums (channels), sums of squares (channels)] of the values of its planes
    grey_sums: list   # [[sum], [sum of squares]] of its grey values; [] where it is not grey or RGB
    of_pages: bool    # its channels are pages of the file, because so many were asked for
    pixels: str       # SHA-256 of shape, kind and pixels
    content: str      # SHA-256 of the file

    @property
    def kind(self):
        """'8-bit grey', 'float32, 4 channels', ...: see `describe_kind`."""
        return describe_kind(self.dtype, self.channels)

    def sums_for(self, n_channels):
        """`sums` of its planes for a net of `n_channels`."""
        if n_channels == 1:
            return self.grey_sums
        return [each * (n_channels // self.channels) for each in self.sums]


@dataclass(frozen=True)
class LabelFacts:
    """What is known of a label file."""
    height: int    # px
    width: int     # px
    values: dict   # {stored value: how many pixels have it}
    content: str   # SHA-256 of the file
    notes: dict = field(default_factory=dict)  # of `Survey.note`

    def class_counts(self, n_classes, ignore_label=None):
        """The pixels of each class, (n_classes or more,) int64, as `load_label` tells classes."""
        counts = np.zeros(n_classes, np.int64)
        for value, pixels in self.values.items():
            if value == ignore_label:
                continue
            index = int(value > 0) if n_classes == 2 else value
            if index >= len(counts):
                counts = np.pad(counts, (0, index + 1 - len(counts)))
            counts[index] += pixels
        return counts


def examine_image(path, n_channels=None):
    """Decode an image file as it is stored: ImageFacts.

    n_channels: what is asked for, or None; a file of so many pages has them as channels.  Raises
    DataError where it cannot be read.
    """
    content = digest_file(path)
    of_pages = len(examine_file(path).pages) > 1
    pixels = read_image(path, stored_channels(n_channels) if of_pages else None)
    channels, (height, width) = count_channels(pixels), pixels.shape[:2]
    sums, grey_sums = sums_of(as_planes(pixels)), []
    if not np.isfinite(sums).all():
        raise DataError(f"{path}: values beyond those of 32-bit floats; scale them down")
    if channels in (1, 3):
        grey_sums = sums if channels == 1 else sums_of(as_planes(to_channels(pixels, 1)))
    kind = describe_kind(pixels.dtype, channels)
    digest = hashlib.sha256(f"{(height, width)} {kind} ".encode() + pixels.tobytes()).hexdigest()
    return ImageFacts(height, width, pixels.dtype.name, channels,
                      channels == 3 and has_colours(pixels), bool(pixels.min() == pixels.max()),
                      sums, grey_sums, of_pages, digest, content)


def sums_of(planes):
    """[sums, sums of squares] over the pixels of (C, H, W) float32, each a list of C floats."""
    sums, squares = [], []
    for plane in planes:  # one after the other: several threads may have a large image each
        values = plane.ravel().astype(np.float64)
        sums.append(float(values.sum()))
        squares.append(float(np.square(values, out=values).sum()))
    return [sums, squares]


def examine_label(path):
    """Decode a label file: LabelFacts.  Raises DataError where it cannot be read."""
    content = digest_file(path)
    label = read_label(path)
    return LabelFacts(*label.shape, count_values(label), content)


def digest_file(path):
    """SHA-256 of a file's content; what cannot be opened is told by whoever decodes it."""
    with suppress(OSError):
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return ""
