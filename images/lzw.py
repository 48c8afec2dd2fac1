"""Streams of LZW codes in TIFF files, looked at before they are decoded.

imagecodecs' decoder ends the whole process (a segmentation fault) where a damaged stream has, after
a code that clears the table, a code that is not in the table yet.  All other damage it tells.
"""
from functools import lru_cache
from typing import NamedTuple

import numpy as np

CLEAR, END = 256, 257
FIRST = 258  # the first code that a stream defines itself
MOST = 5120  # codes after a CLEAR that imagecodecs takes; it tells of a longer table
WINDOW_BITS = 24  # bits: three bytes hold a code, wherever it begins


class Codes(NamedTuple):
    """Where the codes are that follow a CLEAR, MOST of each: (MOST,) int64."""
    ends: np.ndarray    # bits from the CLEAR's end to their own ends
    bytes: np.ndarray   # their first bytes, counted from that of the CLEAR's end
    shifts: np.ndarray  # bits of a window behind them
    masks: np.ndarray   # of their bits, then


@lru_cache(maxsize=None)
def place_codes(start, is_old):
    """The Codes after a CLEAR that ends at the bit `start`, 0 ... 7, of a byte.

    is_old: of a stream of the oldest files: the lowest bit comes first, and codes get wider one
    code later.
    """
    known = FIRST + np.maximum(np.arange(MOST) - 1, 0)  # codes in the table when one is read
    widths = 9 + sum((known >= limit - (not is_old)).astype(np.int64)
                     for limit in (512, 1024, 2048))
    ends = np.cumsum(widths)
    begins = start + ends - widths
    shifts = begins % 8 if is_old else WINDOW_BITS - begins % 8 - widths
    return Codes(ends, begins // 8, shifts, (1 << widths) - 1)


def check_lzw(stream):
    """Raise ValueError for a stream of LZW codes, bytes, that imagecodecs must not be given."""
    is_old = stream[:1] == b"\0"
    values = np.frombuffer(stream + bytes(4), np.uint8).astype(np.int64)
    one, two, three = (values[k:len(stream) + k] for k in range(3))
    windows = three << 16 | two << 8 | one if is_old else one << 16 | two << 8 | three
    place, end = 9, 8 * len(stream)  # any other first code is told
    while place < end:
        codes = place_codes(place % 8, is_old)
        count = int(np.searchsorted(codes.ends, end - place, "right"))  # those that are there
        here = windows[place // 8 + codes.bytes[:count]]
        found = (here >> codes.shifts[:count]) & codes.masks[:count]
        if count and found[0] >= FIRST:
            raise ValueError("damaged LZW codes")
        last = np.flatnonzero((found == CLEAR) | (found == END))[:1]
        if not len(last) or found[last[0]] == END:
            return
        place += int(codes.ends[last[0]])
