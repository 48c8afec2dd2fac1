"""Which pixels a mirrored image shows.  NumPy only."""
import numpy as np


def mirrored(length, before, after):
    """Indices into `length` pixels, mirrored at both ends for as far as asked.

    As `np.pad`'s `reflect` of NumPy 2.  NumPy 1 loses the period where the widths differ and
    exceed the image.
    """
    period = max(1, 2 * (length - 1))
    index = np.arange(-before, length + after) % period
    return np.minimum(index, period - index)
