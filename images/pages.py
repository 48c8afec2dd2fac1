"""An image file as its header describes it, and what the readers of all formats share.

Pixels are (H, W) for one channel and (H, W, C) for more, in the file's own dtype.  NumPy only.
"""
import contextlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from command.errors import DataError, say_once

LARGE = 2 ** 26       # pixels, 8,192 x 8,192: a larger image is read in bands where it can be
MAX_PIXELS = 2 ** 28  # 16,384 x 16,384: of an image that is decoded whole
MOST_BYTES = 2 ** 32  # of its values


class ImageFile(NamedTuple):
    """An image file, as its header describes it.  An image is what a net takes at once."""
    path: Path
    height: int       # px, as shown
    width: int        # px, as shown
    channels: int     # of an image, alpha left out
    dtype: np.dtype   # of an image's values
    pages: tuple = ((0,),)   # an entry for each image: the numbers of its pages
    axes: str = ""           # what the images are: "T", "ZT" ...; "": pages without a meaning
    lengths: tuple = ()      # how many there are along each of the axes
    is_lossy: bool = False   # whether its compression changes values
    by_rows: bool = False    # whether bands of it can be read alone

    @property
    def is_large(self):
        return self.height * self.width > LARGE

    @property
    def bytes(self):
        """The size of an image's values in memory."""
        return self.height * self.width * self.channels * self.dtype.itemsize


class Stored(NamedTuple):
    """The values of a file as they are stored, for labels."""
    values: np.ndarray  # (H, W) or (H, W, C)
    alpha: np.ndarray   # (H, W); None where it has no such channel


def check_fits(path, height, width, size, why=""):
    """Raise DataError for an image that is too large to be decoded whole.

    size: of its values, in bytes; why: why it has to be.
    """
    if height * width > MAX_PIXELS or size > MOST_BYTES:
        limit = f"{MAX_PIXELS:,} pixels" if height * width > MAX_PIXELS else f"{MOST_BYTES:,} bytes"
        raise DataError(f"{path}: larger than {limit}{why}; cut it into smaller images")


@contextlib.contextmanager
def reading_errors(path, kind="image", advice="export it again as PNG or TIFF, grey or RGB"):
    """`with reading_errors(path):` turns whatever a damaged file raises into a DataError.

    kind, advice: words of the message.
    """
    try:
        yield
    except DataError as error:
        named = str(error).startswith(str(path))
        raise DataError(str(error) if named else f"{path}: {error}") from None
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except PermissionError:
        raise DataError(f"{path}: may not be read; check its permissions") from None
    except MemoryError:
        raise DataError(f"{path}: does not fit into memory; cut it into smaller images") from None
    except Exception as error:  # noqa: BLE001 - decoders raise almost any for a damaged file
        detail = " ".join(str(error).split())[:200]
        detail = f" ({detail})" if detail else ""
        raise DataError(f"{path}: not a readable {kind}{detail}; {advice}") from None


def say_change(path, what):
    """Say, once a folder, how images differ from their files."""
    say_once(f"{path.parent}: {what} (said once a folder)")


ALPHA = "alpha channels are left out"


# --------------------------------------------------------------------------------------- the pixels
def squeeze_channel(values):
    """(H, W, C) values as pixels: (H, W) where there is one channel."""
    return values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values


def common_dtype(dtype):
    """The dtype in which values of a dtype are handed on; DataError for what are no pixels.

    Truth values become uint8, integers of 64 bits become 32 (see `to_common`).
    """
    dtype = np.dtype(dtype).newbyteorder("=")
    narrower = {"bool": "uint8", "int64": "int32", "uint64": "uint32"}.get(dtype.name, dtype.name)
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise DataError(f"values of kind {dtype} are no pixels; save it as integers or floats")
    return np.dtype(narrower)


def to_common(values):
    """Values in their `common_dtype`: truth values as 0 and 255.

    Raises DataError where one of 64 bits does not fit into 32.
    """
    dtype = common_dtype(values.dtype)
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.itemsize == 8 and values.dtype.kind in "iu" and values.size:
        limits = np.iinfo(dtype)
        if values.min() < limits.min or values.max() > limits.max:
            raise DataError(f"has values beyond {dtype}; scale them")
    return values.astype(dtype, copy=False)


def orient(pixels, orientation):
    """Stored pixels (H, W, ...) as EXIF's and TIFF's tag Orientation, 1 ... 8, shows them."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def palette_values(indices, palette):
    """The values of a label with a palette: its indices, or 0 and 255 for a mask.

    indices: (H, W) integers; palette: (N, 3) colours, `white` being the largest of the dtype.
    It is a mask where all used colours are black or white, each once, and where the unused ones
    are greys, which tell no class.  White is foreground there, whatever its index.
    """
    used = np.unique(indices)
    if used[-1] >= len(palette):
        return indices
    white = np.iinfo(palette.dtype).max
    levels = palette[:, 0]
    is_grey = bool((palette == palette[:, :1]).all())
    shown = levels[used]
    two = np.isin(shown, (0, white)).all() and len(set(shown.tolist())) == len(shown)
    if is_grey and two and (levels == white).any():
        return np.where(levels[indices] == white, 255, 0).astype(np.uint8)
    return indices
