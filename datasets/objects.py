"""Numbered objects of a label: the separation border between those that touch, and its return.

Ronneberger et al. 2015, section 3: "The separation border is computed using morphological
operations."  A net learns the foreground without this border, so that no two objects touch.  Its
answer's components are the objects, and they get the border's pixels back.
"""
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import scipy  # its parts load when they are first used, which keeps --help fast

BORDER = 1  # px that each of two touching objects loses
LARGEST_NUMBER = 2 ** 31 - 1  # the largest number of an object


class BorderLoss(NamedTuple):
    """What the separation border does to the objects of a label."""
    vanished: int  # objects of which no pixel is left
    parted: int    # objects that are in more pieces than before


# ------------------------------------------------------------------------------------- the border
def separation_border(objects, width=BORDER):
    """The pixels of objects that have another object within `width` px: (H, W) bool.

    objects: (H, W) integers up to LARGEST_NUMBER; an object's pixels share a number above 0.
    width: px, along rows, columns and diagonals alike (Chebyshev).
    """
    highest, lowest = _extremes(objects, width)
    return (objects > 0) & ((highest != objects) | (lowest != objects))


def training_target(objects, width=BORDER):
    """`objects` without their separation border, which is background: no two objects touch.

    objects: (H, W) integers, as for `separation_border`.  0 and IGNORED (-1) stay.
    """
    return np.where(separation_border(objects, width), 0, objects).astype(objects.dtype)


def give_back_border(components, width=BORDER):
    """`components`, numbered objects, with the border between them: (H, W) of the same dtype.

    A background pixel becomes part of its nearest component where it lies between this and another
    one: on a straight line of pixels from one to the other, no longer than across the border, which
    is 2 `width` px wide.  So an outline that faces background does not move.  Of components that
    are equally near, by Chebyshev and then by Euclidean distance, the one in the row above, then
    the one to the left, has the pixel.

    components: (H, W) integers up to LARGEST_NUMBER, 0 is background.
    """
    reach = 2 * width
    highest, lowest = _extremes(components, reach)
    rows, columns = np.nonzero((components == 0) & (highest > lowest))
    padded, steps = np.pad(components, reach), _steps(reach)
    numbers = [padded[rows + reach + step.rows, columns + reach + step.columns] for step in steps]
    nearest = np.zeros(len(rows), components.dtype)
    for number in numbers:
        np.copyto(nearest, number, where=nearest == 0)
    is_between = np.zeros(len(rows), bool)
    is_nearest = [(number == nearest) & (number > 0) for number in numbers]
    is_other = [(number != nearest) & (number > 0) for number in numbers]
    for first, last in _lines_across(reach):
        is_between |= is_nearest[first] & is_other[last]
    whole = components.copy()
    whole[rows[is_between], columns[is_between]] = nearest[is_between]
    return whole


class Step(NamedTuple):
    """The way from a pixel to one near it."""
    rows: int     # px down
    columns: int  # px to the right


@lru_cache(maxsize=4)
def _steps(reach):
    """The Steps to all pixels up to `reach` px away, the nearest first.  Do not write into it."""
    sides = range(-reach, reach + 1)
    steps = [Step(row, column) for row in sides for column in sides if row or column]
    return sorted(steps, key=lambda step: (max(map(abs, step)), step.rows ** 2 + step.columns ** 2))


@lru_cache(maxsize=4)
def _lines_across(reach):
    """The pairs of indices of `_steps` whose line goes through the pixel in between: a list."""
    steps = list(enumerate(_steps(reach)))
    return [(k, m) for k, first in steps for m, last in steps
            if _line_passes(first, last, reach + 1)]


def _line_passes(first, last, longest):
    """Whether the line of pixels from Step `first` to `last` goes through the pixel in between.

    longest: px, Chebyshev; a longer line is none.
    """
    moves = last.rows - first.rows, last.columns - first.columns
    length = max(map(abs, moves))
    return length <= longest and any(
        all(2 * abs(start * length + move * k) <= length for start, move in zip(first, moves))
        for k in range(1, length))


def _extremes(objects, reach):
    """[largest, smallest] number above 0 up to `reach` px from each pixel, each (H, W).

    Where there is none they are 0 and LARGEST_NUMBER.
    """
    objects = objects.astype(np.int32, copy=False)  # SciPy's filters compute in float64
    none, side = LARGEST_NUMBER, 2 * reach + 1
    return [scipy.ndimage.maximum_filter(np.maximum(objects, 0), side, mode="constant", cval=0),
            scipy.ndimage.minimum_filter(np.where(objects > 0, objects, none), side,
                                         mode="constant", cval=none)]


# ------------------------------------------------------------------------------------- the pieces
def count_pieces(objects):
    """The 8-connected pieces of each object: {number: pieces}.

    objects: (H, W) integers, as for `separation_border`.
    """
    from skimage.measure import label
    pieces = label(np.maximum(objects, 0), background=0, connectivity=2)
    number_of_piece = np.zeros(pieces.max(initial=0) + 1, np.int64)
    number_of_piece[pieces] = objects  # all pixels of a piece say the same
    numbers, counts = np.unique(number_of_piece[1:], return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist()))


def border_loss(objects, width=BORDER):
    """The BorderLoss of a label's objects, (H, W) integers."""
    before = count_pieces(objects)
    after = count_pieces(training_target(objects, width))
    return BorderLoss(len(before) - len(after),
                      sum(pieces > before[number] for number, pieces in after.items()))
