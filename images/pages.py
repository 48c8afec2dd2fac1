"""An image file as its header describes it, and what the readers of all formats share.

Pixels are (H, W) for one channel and (H, W, C) for more, in the file's own dtype.  NumPy only.
A DataError that is raised here or in a reader says what is wrong; `reading_errors` names the file.
"""
import contextlib
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from command.errors import DataError, say_once

LARGE = 2 ** 26       # pixels, 8,192 x 8,192: a larger image is read in bands where it can be
MAX_PIXELS = 2 ** 28  # 16,384 x 16,384: of an image that is decoded whole
MOST_BYTES = 2 ** 32  # of the values of such an image
ALPHA = "alpha channels are left out"


class ImageFile(NamedTuple):
    """An image file, as its header describes it.  An image is what a net takes at once."""
    path: Path
    height: int       # px, as shown
    width: int        # px, as shown
    channels: int     # of an image, alpha left out
    dtype: np.dtype   # of an image's values
    pages: tuple = ((0,),)   # an entry for each image: the numbers of its pages in the file
    axes: str = ""           # what the images are: "T", "ZT" ...; "": pages without a meaning
    lengths: tuple = ()      # how many there are along each of the axes
    is_lossy: bool = False   # whether its compression changes values
    by_rows: bool = False    # whether bands of a large image can be read alone

    @property
    def is_large(self):
        return self.height * self.width > LARGE


class Stored(NamedTuple):
    """The values of a file as they are stored, for labels."""
    values: np.ndarray            # (H, W) or (H, W, C)
    alpha: Optional[np.ndarray]   # (H, W); None where it has no such channel


# -------------------------------------------------------------------------- what is said of a file
@contextlib.contextmanager
def reading_errors(path):
    """`with reading_errors(path):` turns whatever a file raises into a DataError that names it."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except PermissionError:
        raise DataError(f"{path}: may not be read; check its permissions") from None
    except MemoryError:
        raise DataError(f"{path}: does not fit into memory; cut it into smaller images") from None
    except Exception as error:  # noqa: BLE001 - decoders raise almost any for a damaged file
        words = " ".join(str(error).split())
        detail = f" ({words[:200]})" if words else ""
        raise DataError(f"{path}: not a readable image{detail}; export it again as PNG or "
                        "TIFF") from None


def check_fits(file, why=""):
    """Raise DataError for an ImageFile whose images are too large to be decoded whole.

    why: words of the message, why they have to be.
    """
    pixels = file.height * file.width
    if pixels > MAX_PIXELS or pixels * file.channels * file.dtype.itemsize > MOST_BYTES:
        limit = f"{MAX_PIXELS:,} pixels" if pixels > MAX_PIXELS else f"{MOST_BYTES:,} bytes"
        raise DataError(f"larger than {limit}{why}; cut it into smaller images")


def say_change(path, what):
    """Say once a folder how pixels differ from what its files store."""
    say_once(f"{path.parent}: {what} (said once a folder)")


# --------------------------------------------------------------------------------------- the pixels
def squeeze_channel(values):
    """(H, W, C) values as pixels: (H, W) where there is one channel."""
    return values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values


def common_dtype(dtype):
    """The dtype of an image's values of which a file stores this one.

    Truth values become uint8, integers of 64 bits become 32.  Raises DataError for what is no
    number.
    """
    dtype = np.dtype(dtype)
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise DataError(f"values of kind {dtype} are no pixels; save integers or floats")
    return np.dtype({"bool": "uint8", "int64": "int32", "uint64": "uint32"}.get(dtype.name,
                                                                               dtype.name))


def to_common(values):
    """Values in their `common_dtype`; truth values as 0 and 255.

    Raises DataError where one of 64 bits does not fit into 32.
    """
    dtype = common_dtype(values.dtype)
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        limits = np.iinfo(dtype)
        if values.min() < limits.min or values.max() > limits.max:
            raise DataError(f"values of 64 bits, beyond those of {dtype}; scale them")
    return values.astype(dtype, copy=False)


def swaps_sides(orientation):
    """Whether the tag Orientation makes rows of what is stored as columns."""
    return orientation in (5, 6, 7, 8)


def orient(pixels, orientation):
    """Stored pixels (H, W, ...) as EXIF's and TIFF's tag Orientation, 1 ... 8, shows them."""
    if swaps_sides(orientation):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def palette_values(indices, palette):
    """The values of a label with a palette: its indices, or 0 and 255 for a mask.

    indices: (H, W) integers; palette: (N, 3) uint8 colours.
    It is a mask where all used colours are black or white, each once, and where the others are
    greys, which tell no class.  White is foreground there, whatever its index.
    """
    used = np.unique(indices)
    if used[-1] >= len(palette):
        return indices
    levels = palette[:, 0]
    shown = levels[used].tolist()
    is_grey = bool((palette == palette[:, :1]).all())
    if is_grey and (levels == 255).any() and shown in ([0], [255], [0, 255], [255, 0]):
        return levels[indices]
    return indices
