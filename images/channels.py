"""Channels and depths: what pixels of a file are, and the planes that a net takes.  NumPy only.

Pixels are (H, W) for one channel and (H, W, C) for more, in the dtype that the file has.
"""
import numpy as np

from command.errors import DataError

MOST_CHANNELS = 16  # that a net takes
# What a file's values may be.  Images of the first two are scaled to [0, 1]: their largest value is
# white.  All others stay in their own units: nobody knows which value is white there.
VALUE_DTYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32",
                "float16", "float32", "float64")
SCALED_DTYPES = VALUE_DTYPES[:2]


# --------------------------------------------------------------------------------------- what it is
def count_channels(pixels):
    """The number of channels of pixels (H, W) or (H, W, C)."""
    return 1 if len(pixels.shape) == 2 else pixels.shape[2]


def has_colours(pixels):
    """Whether pixels (H, W) or (H, W, 3) are in colour.  Grey values stored as RGB are not."""
    return pixels.ndim == 3 and bool((pixels != pixels[..., :1]).any())


def is_scaled(dtype):
    """Whether values of a dtype, or of its name, are scaled to [0, 1] for a net."""
    return np.dtype(dtype).name in SCALED_DTYPES


def describe_channels(channels):
    """So many channels, for people: 'grey', 'RGB' or '4 channels'."""
    return {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")


def describe_kind(dtype, channels):
    """'8-bit grey', '16-bit RGB', 'float32 grey' or 'float32, 4 channels': a kind of images."""
    dtype = np.dtype(dtype)
    depth = f"{8 * dtype.itemsize}-bit" if is_scaled(dtype) else dtype.name
    comma = "" if channels in (1, 3) else ","
    return f"{depth}{comma} {describe_channels(channels)}"


# ------------------------------------------------------------------------------- what becomes of it
def suits_channels(channels, n_channels):
    """Whether an image of so many channels can be read with `n_channels`.

    It has them, or it is grey and becomes RGB, or it is RGB and becomes grey.
    """
    return channels == n_channels or {channels, n_channels} == {1, 3}


def stored_channels(n_channels):
    """The `n_channels` with which an image is read as it is stored: None for 1 and for 3.

    These convert grey and RGB.  Any other number converts nothing.  It says that the pages of a
    file are its channels.
    """
    return None if n_channels in (1, 3) else n_channels


def to_channels(pixels, n_channels):
    """Pixels (H, W) or (H, W, C) with `n_channels`: (H, W) for 1, (H, W, n_channels) for more.

    RGB becomes grey by Pillow's luma (ITU-R 601-2); grey becomes RGB by repetition.  The dtype
    stays.  Raises DataError, without the file's name, for any other number of channels.
    """
    channels = count_channels(pixels)
    if channels == n_channels:
        return pixels
    if not suits_channels(channels, n_channels):
        raise DataError(f"{describe_channels(channels)}, but {n_channels} channels are needed; "
                        "give it as many, or another --n_channels")
    if channels == 1:
        return np.repeat(pixels[..., None], 3, axis=2)
    wide = np.uint32 if is_scaled(pixels.dtype) else np.float64
    red, green, blue = (pixels[..., k].astype(wide) for k in range(3))
    luma = 19595 * red + 38470 * green + 7471 * blue
    if is_scaled(pixels.dtype):
        return ((luma + 2 ** 15) >> 16).astype(pixels.dtype)
    luma = luma / 2 ** 16
    if pixels.dtype.kind != "f":
        luma = np.floor(luma + 0.5)
    return luma.astype(pixels.dtype)


def as_planes(pixels, white=None):
    """Pixels (H, W) or (H, W, C) as a net's planes: (C, H, W) float32.

    uint8 and uint16 values are scaled so that `white` becomes 1, by default the largest value of
    the dtype.  Values of other dtypes stay in their own units, and `white` has no meaning.
    """
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite: the survey says so
        planes = pixels.astype(np.float32)
    if is_scaled(pixels.dtype):
        planes /= white or np.iinfo(pixels.dtype).max
    if planes.ndim == 2:
        return planes[None]
    return np.ascontiguousarray(planes.transpose(2, 0, 1))


def as_pixels(planes):
    """Planes (C, H, W) in the layout of pixels: (H, W) for one channel, else (H, W, C)."""
    return planes[0] if len(planes) == 1 else planes.transpose(1, 2, 0)
