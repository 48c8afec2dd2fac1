"""From the samples that a TIFF page stores to an image's values, or to a label's.

Samples are (H, W, S).  The page is a tifffile.TiffPage.
"""
from typing import NamedTuple, Optional

import numpy as np

from command.errors import DataError
from images.lossy import JPEG
from images.pages import Stored, common_dtype, palette_values, squeeze_channel, to_common

MINISWHITE, MINISBLACK, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6  # photometric kinds
SAMPLES = {MINISWHITE: 1, MINISBLACK: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
READ_AS_RGB = {PALETTE: "palette", CMYK: "CMYK"}
ALPHAS = (1, 2)                # kinds of extra samples: associated and unassociated alpha


class Kind(NamedTuple):
    """What a page's samples are."""
    photometric: int
    bits: int             # of a sample
    samples: int          # of a pixel, as stored
    alpha: Optional[int]  # number of the sample that is alpha
    channels: int         # of the image
    dtype: np.dtype       # of the image's values


def find_kind(page):
    """The Kind of a page.  Raises DataError for one that cannot be read."""
    photometric, samples = int(page.photometric), page.samplesperpixel
    if samples < SAMPLES.get(photometric, samples + 1):
        name = getattr(page.photometric, "name", photometric)
        raise DataError(f"{samples} channels of kind {name}; save it as grey or RGB")
    if page.dtype is None or not isinstance(page.bitspersample, int):
        raise DataError("values of an odd size; save it with 8 or 16 bits")
    extra = [int(each) for each in page.extrasamples]
    if photometric == RGB and samples == 4 and not extra:
        extra = ALPHAS[:1]  # without a word of it the fourth sample is alpha, as for other readers
    kinds = [0] * (samples - len(extra)) + list(extra)
    alpha = next((k for k, each in enumerate(kinds) if each in ALPHAS), None)
    channels, dtype = samples - (alpha is not None), common_dtype(page.dtype)
    if photometric in (PALETTE, CMYK):
        channels, dtype = 3, np.dtype(np.uint8)
    return Kind(photometric, page.bitspersample, samples, alpha, channels, dtype)


def show(samples, page, kind):
    """Samples as the image's values, (H, W, C), as viewers show them."""
    if kind.photometric == PALETTE:
        return _palette_of(page)[samples[..., 0]]
    values = _without_alpha(samples, kind)
    if kind.photometric == CMYK:
        return _convert(values, "CMYK")
    if kind.photometric == YCBCR and int(page.compression) not in JPEG:  # that is RGB by now
        return _convert(values, "YCbCr")
    if kind.photometric == MINISWHITE:
        values = _invert(values, kind.bits)
    if kind.bits in (2, 4):
        values = values * np.uint8(255 // (2 ** kind.bits - 1))
    return to_common(values)


def store(samples, page, kind):
    """Samples as Stored values of a label.  They stay as they are, even where white is zero."""
    if kind.photometric == PALETTE:
        return Stored(palette_values(samples[..., 0], _palette_of(page)), None)
    if kind.photometric in (CMYK, YCBCR):
        return Stored(show(samples, page, kind), None)
    values = squeeze_channel(_without_alpha(samples, kind))
    return Stored(values, None if kind.alpha is None else samples[..., kind.alpha])


def _without_alpha(samples, kind):
    if kind.alpha is None:
        return samples
    return samples[..., [k for k in range(kind.samples) if k != kind.alpha]]


def _invert(values, bits):
    """Values of which 0 is white, with 0 for black.  Floats have no largest value: they stay."""
    if values.dtype.kind == "u":
        return values.dtype.type(2 ** bits - 1) - values
    return values if values.dtype.kind == "f" else ~values


def _convert(values, mode):
    """(H, W, C) values of Pillow's `mode` as RGB."""
    from PIL import Image
    if values.dtype != np.uint8:
        raise DataError(f"{mode} colours of {values.dtype}; save it as RGB")
    image = Image.frombytes(mode, values.shape[1::-1], np.ascontiguousarray(values).tobytes())
    return np.array(image.convert("RGB"))


def _palette_of(page):
    """The colours of a page's palette, (N, 3) uint8.  TIFF stores 16 bits; some writers but 8."""
    colours = page.colormap.T
    return (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)
