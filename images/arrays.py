"""NumPy's files: `.npy` arrays as images."""
import contextlib

import numpy as np

from command.errors import DataError
from images.channels import MOST_CHANNELS
from images.pages import ImageFile, Stored, check_fits, common_dtype, squeeze_channel, to_common


@contextlib.contextmanager
def open_npy(path):
    """`with open_npy(path) as array:` an opened Array; a damaged file raises anything.

    The file is mapped into memory: a header that promises more than the file holds is an error.
    Nothing in it is executed.
    """
    yield Array(path, channels_last(np.load(path, mmap_mode="r", allow_pickle=False)))


def channels_last(array):
    """An array (H, W), (H, W, C) or (C, H, W), where C is at most 16, as (H, W) or (H, W, C)."""
    if array.ndim == 2 and array.size:
        return array
    if array.ndim == 3 and array.size and array.shape[2] <= MOST_CHANNELS:
        return squeeze_channel(array)
    if array.ndim == 3 and array.size and array.shape[0] <= MOST_CHANNELS:
        return squeeze_channel(np.moveaxis(array, 0, 2))
    raise DataError(f"an array {array.shape} is no image; save (H, W), (H, W, C) or (C, H, W) "
                    f"with at most {MOST_CHANNELS} channels")


class Array:
    """An array as an opened image file: `header`, an ImageFile, and `read`.

    pixels: (H, W) or (H, W, C), as they are shown and as they are stored.
    """

    def __init__(self, path, pixels):
        self.path, self.pixels = path, pixels
        channels = pixels.shape[2] if pixels.ndim == 3 else 1
        self.header = ImageFile(path, *pixels.shape[:2], channels, common_dtype(pixels.dtype),
                                by_rows=True)

    def read(self, entry, as_label=False, rows=None):
        """The pixels, all or those of the slice `rows`; for a label, the Stored values.

        entry: of the header's `pages`; here there is one.
        """
        if rows is None:
            check_fits(self.header)
        part = np.array(self.pixels if rows is None else self.pixels[rows])
        return Stored(part, None) if as_label else to_common(part)
