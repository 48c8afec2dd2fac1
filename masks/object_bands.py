"""The objects of an image that is predicted from the top down, in bands: their border, their size.

Which pixels belong to one object is known at the end of the image: two pieces may be joined at its
bottom.  So all bands are kept, compressed, until then.
"""
import zlib
from functools import lru_cache

import numpy as np
import scipy  # its parts load when they are first used: so --help stays fast

from datasets.objects import give_back_border
from masks.objects import connected_components, number_large


def fill_bands(bands, border, smallest=0):
    """Yield class maps of objects and background with the separation border given back.

    bands: class maps (rows, width) uint8, from the top down.  border: px, its width on each side.
    smallest: px of the smallest object.
    The result is that of `masks.objects.whole_objects` for the whole image, in the same bands.
    """
    kept = KeptBands(bands)
    is_object = number_large(kept.pixels, smallest) > 0
    reach = 2 * border
    for index in range(len(kept)):
        before, here, after = kept.rows(index, -1, reach), kept[index], kept.rows(index, 1, reach)
        whole = give_back_border(np.concatenate([before, here, after]), border)
        yield is_object[whole[len(before):len(before) + len(here)]].astype(np.uint8)


class KeptBands:
    """The numbered components of an image's bands: `kept[k]` is (rows, width) int32.

    A component has one number in all bands, and `pixels[number]` pixels.
    """

    def __init__(self, bands):
        self.packed, self.shapes, firsts, joined, pixels = [], [], [0], [], [[0]]
        last_row = None
        for band in bands:
            mask = band > 0
            self.packed.append(zlib.compress(np.packbits(mask).tobytes(), 1))
            self.shapes.append(mask.shape)
            numbers = connected_components(mask)
            if last_row is not None:
                joined.append(_touching(last_row, numbers[0]) + [[firsts[-2]], [firsts[-1]]])
            last_row = numbers[-1]
            firsts.append(firsts[-1] + int(numbers.max(initial=0)))
            pixels.append(np.bincount(numbers.ravel(), minlength=1)[1:])
        self.firsts = firsts[:-1]
        self.numbers = _number_joined(firsts[-1], joined)
        self.pixels = np.bincount(self.numbers, np.concatenate(pixels))
        self.label = lru_cache(maxsize=4)(self._label)

    def __len__(self):
        return len(self.packed)

    def __getitem__(self, index):
        return self.label(index)

    def rows(self, index, step, count):
        """Up to `count` rows before (`step` -1) or after (1) band `index`."""
        rows, at = self[index][:0], index + step
        while len(rows) < count and 0 <= at < len(self):
            pair = [rows, self[at]]
            rows = np.concatenate(pair[::step])
            at += step
        return rows[:count] if step > 0 else rows[max(0, len(rows) - count):]

    def _label(self, index):
        height, width = self.shapes[index]
        bits = np.frombuffer(zlib.decompress(self.packed[index]), np.uint8)
        mask = np.unpackbits(bits, count=height * width).reshape(height, width)
        numbers = connected_components(mask)
        return np.where(numbers > 0, self.numbers[numbers + self.firsts[index]], 0)


def _touching(upper, lower):
    """The pairs of numbers that touch, of a row and of the one below it: (2, P) integers."""
    pairs = []
    for move in (-1, 0, 1):
        ends = slice(max(0, move), len(upper) + min(0, move))
        others = slice(max(0, -move), len(upper) + min(0, -move))
        pairs.append(np.stack([upper[ends], lower[others]]))
    pairs = np.concatenate(pairs, axis=1)
    return np.unique(pairs[:, (pairs > 0).all(axis=0)], axis=1)


def _number_joined(count, joined):
    """One number above 0 for each joined group of the numbers 1 ... `count`: (count + 1,) int32.

    joined: arrays (2, P) of numbers that are one.
    """
    pairs = np.concatenate(joined, axis=1) if joined else np.zeros((2, 0), int)
    graph = scipy.sparse.coo_array((np.ones(pairs.shape[1]), tuple(pairs)), (count + 1, count + 1))
    return 1 + scipy.sparse.csgraph.connected_components(graph, directed=False)[1]
