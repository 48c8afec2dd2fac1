"""Parts of an image or a label that need not fit into memory: no more is read than is asked for.

NumPy only.
"""
import numpy as np


class Windows:
    """What is computed from stored pixels, for each part when it is asked for.

    As an array (C, H, W) it has a `shape` and gives slices: [:, top:bottom], [:, ::9, ::9].
    `window_of` gives any part of it, also of values without channels, (H, W).
    """

    def __init__(self, stored, compute, channels=None):
        """stored: (H, W) or (H, W, C) values, an array that may lie in a file (`np.memmap`).

        compute: a function from a part of it, (h, w) or (h, w, C), to the values: (channels, h, w),
        or (h, w) where `channels` is None.  Each value depends on its own pixel alone.
        """
        self.stored, self.compute = stored, compute
        self.shape = stored.shape[:2] if channels is None else (channels, *stored.shape[:2])

    def __getitem__(self, place):
        return self.compute(self.stored[place[1:]])

    def then(self, function):
        """The Windows of what `function` makes of these values, (channels, h, w) as they are."""
        return Windows(self.stored, lambda part: function(self.compute(part)), self.shape[0])


def open_array(path):
    """The array in an .npy file, of which no part is read before it is used.

    It must not be written into.  The file stays open for as long as the array is used.
    Raises OSError or ValueError for a file that is missing, cut off or no array.
    """
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except EOFError as error:  # an empty file
        raise ValueError(str(error)) from None


def window_of(values, rows, columns):
    """The values at these rows and columns: (..., len(rows), len(columns)).

    values: an array (..., H, W), or Windows.  rows, columns: indices, in any order, however often.
    """
    if isinstance(values, Windows):
        return values.compute(_take(values.stored, rows, columns, axis=0))
    return _take(values, rows, columns, axis=values.ndim - 2)


def _take(array, rows, columns, axis):
    """The part of an array at rows, along `axis`, and at columns, along the axis after it."""
    spans = [slice(places.min(), places.max() + 1) for places in (rows, columns)]
    # this first: of an array in a file `take` would read rows in their whole width
    part = array[(slice(None),) * axis + tuple(spans)]
    return part.take(rows - spans[0].start, axis).take(columns - spans[1].start, axis + 1)
