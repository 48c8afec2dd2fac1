"""CoNSeP in our layout, `{train,test}/{imgs,labels,instances}`, for `python MakeData.py consep`.

Graham et al., "HoVer-Net: Simultaneous segmentation and classification of nuclei in multi-tissue
histology images", Medical Image Analysis 58:101563, 2019.
"""
import contextlib
import io
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.io import loadmat

from command.bars import progress_bar
from command.errors import DataError, say_once
from datasets.entries import Entry, write_set
from datasets.pairs import pair_by_name
from images.formats import check_same_size
from images.reading import read_image

CONSEP_HOME = "https://warwick.ac.uk/fac/cross_fac/tia/data/hovernet"
CONSEP_TILE = 512  # px: side of the pieces of --layout tiles
# The types of nuclei are 1 other, 2 inflammatory, 3 healthy epithelial, 4 malignant epithelial,
# 5 fibroblast, 6 muscle, 7 endothelial.  The paper makes one class of 3 and 4, and another one
# (spindle-shaped) of 5, 6 and 7.
CONSEP_MERGED = np.array([0, 1, 2, 3, 3, 4, 4, 4], np.uint8)  # the class of each type


class ConsepPart(NamedTuple):
    """A split as CoNSeP has it."""
    split: str   # its name here
    folder: str  # its name there
    images: int  # how many there are


class ConsepMap(NamedTuple):
    """A map of a label file."""
    key: str         # its name in the file
    dtype: type      # that its values fit into
    largest: int     # that a value may be


CONSEP_PARTS = (ConsepPart("train", "Train", 27), ConsepPart("test", "Test", 14))
CONSEP_MAPS = (ConsepMap("inst_map", np.uint16, 65535),
               ConsepMap("type_map", np.uint8, len(CONSEP_MERGED) - 1))


def read_nuclei(path, image, size):
    """The two maps of a label file: [numbers of nuclei, uint16; their types 1 ... 7, uint8].

    Both are (H, W), with 0 where no nucleus is.  image, size: the image file of this label and
    its (height, width).  Raises DataError for a file that is damaged or has other maps.
    """
    try:
        maps = loadmat(path, variable_names=[each.key for each in CONSEP_MAPS])
    except NotImplementedError:  # what SciPy raises for the HDF5 files of MATLAB 7.3
        raise DataError(f"{path}: a MATLAB 7.3 file; "
                        "save it again with MATLAB's option -v7") from None
    except Exception as error:  # noqa: BLE001 - SciPy raises almost any for a damaged file
        raise DataError(f"{path}: not a readable MATLAB file ({error}); "
                        f"get it again from {CONSEP_HOME}") from None
    found = []
    for key, dtype, largest in CONSEP_MAPS:
        if key not in maps:
            raise DataError(f"{path}: has no {key}; get it again from {CONSEP_HOME}")
        values = maps[key]
        check_same_size(image, size, path, values.shape[:2])
        if values.ndim != 2 or values.dtype.kind not in "uif":
            raise DataError(f"{path}: {key} is no map of numbers; get it again from {CONSEP_HOME}")
        with np.errstate(invalid="ignore"):  # NaN becomes a number, which it then does not equal
            found.append(values.astype(dtype))
        if (found[-1] != values).any() or found[-1].max() > largest:
            raise DataError(f"{path}: {key} has other values than whole numbers from 0 to "
                            f"{largest}; get it again from {CONSEP_HOME}")
    return found


def cut_pieces(pixels, layout):
    """The pieces of an image (H, W) or (H, W, 3): a list.

    layout: "whole" gives the image itself, "tiles" four squares of CONSEP_TILE px at its corners,
    row by row.
    """
    if layout == "whole":
        return [pixels]
    ends = slice(CONSEP_TILE), slice(-CONSEP_TILE, None)
    return [pixels[rows, columns] for rows in ends for columns in ends]


def make_pieces(image_path, label_path, layout, labels):
    """The contents of an Entry: image, label and instance map of the first piece, then the next.

    layout, labels: see `import_consep`.  Raises DataError as `read_image` and `read_nuclei`, and
    for an image that is smaller than a tile.
    """
    with contextlib.redirect_stderr(io.StringIO()):  # their alpha channels mean nothing
        image = read_image(image_path, 3)
    height, width, _ = image.shape
    if layout == "tiles" and min(height, width) < CONSEP_TILE:
        raise DataError(f"{image_path}: {height} x {width} px, smaller than a tile of "
                        f"{CONSEP_TILE} x {CONSEP_TILE} px; choose --layout whole")
    instances, types = read_nuclei(label_path, image_path, (height, width))
    if labels == "objects":
        label = instances
    elif labels == "typed":
        label = CONSEP_MERGED[types]
    else:
        label = np.where(instances > 0, 255, 0).astype(np.uint8)
    pieces = zip(*(cut_pieces(pixels, layout) for pixels in (image, label, instances)))
    return [pixels for piece in pieces for pixels in piece]


def import_consep(source, folder, layout, labels):
    """Write CoNSeP's images, labels and instance maps.

    source: the folder of Train and Test; folder: of the new set; layout: see `cut_pieces`.
    labels: "binary" gives 0 and 255 (nucleus), "typed" gives the paper's classes 0 ... 4,
    "objects" gives the numbers of the nuclei.
    Raises DataError as `make_pieces` and `write_set`.
    """
    entries, counts = [], []
    for part in CONSEP_PARTS:
        places = source / part.folder / "Images", source / part.folder / "Labels"
        for place in places:
            if not place.is_dir():
                raise DataError(f"{place}: no such folder; download CoNSeP from {CONSEP_HOME}")
        pairs = pair_by_name(*places, label_suffixes=(".mat",))
        counts.append(len(pairs))
        if len(pairs) != part.images:
            say_once(f"{source / part.folder}: {len(pairs)} images, but CoNSeP has {part.images} "
                     "here; is the download complete?")
        for image, label in pairs:
            if layout == "whole":
                names = [image.stem]
            else:
                names = [f"{image.stem}_{k}" for k in range(4)]
            paths = tuple(folder / part.split / kind / f"{name}.png"
                          for name in names for kind in ("imgs", "labels", "instances"))
            entries.append(Entry(paths, partial(make_pieces, image, label, layout, labels)))
    for entry in progress_bar(entries, "reading", unit="image"):
        entry.make()  # a bad file is named before the first file is written
    if layout == "whole":
        pieces = "whole"
    else:
        pieces = f"each in 4 tiles of {CONSEP_TILE} x {CONSEP_TILE} px"
    write_set(entries, f"{folder}: {counts[0]} training and {counts[1]} test images "
                       f"({pieces}, {labels} labels)")
