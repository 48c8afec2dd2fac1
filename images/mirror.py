"""Which pixel of an image a mirror beyond its edges shows.  NumPy only."""
import numpy as np


def mirrored(length, before, after):
    """The indices of a line of `length` pixels, mirrored at both ends.

    before, after: how many pixels to add at each end.  Returns (before + length + after,) int64.
    The pixel at the edge is not repeated.  An end longer than the line is mirrored again.

    Equal to `np.pad(..., mode="reflect")` of NumPy 2.  NumPy 1 loses the period where the two ends
    differ and are longer than the line.
    """
    period = max(1, 2 * (length - 1))
    index = np.arange(-before, length + after) % period
    return np.minimum(index, period - index)
