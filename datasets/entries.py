"""Writing a data set: files that come into being together, nothing ever overwritten."""
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
from tqdm import tqdm

from command.errors import DataError
from command.files import atomic_write, make_folder
from images.formats import list_images, read_image, read_label, write_png

progress = partial(tqdm, delay=1, leave=False, disable=None)


# --------------------------------------------------------------------------------------------------- writing a data set
class Entry(NamedTuple):
    """Files that come into being together: `make()` gives the content of each of `paths`.

    A content is pixels, (H, W) uint8/uint16 or (H, W, 3) uint8, to be written as PNG, or the Path of a file to copy.
    """
    paths: tuple
    make: Callable


def holds(path, content):
    """Whether the image file `path` has the pixels and the bit depth of `content` (see Entry)."""
    read = read_label if path.parent.name == "labels" else read_image
    if isinstance(content, Path):
        if path.read_bytes() == content.read_bytes():
            return True
        content = read(content)
    there = read(path)
    return there.dtype == content.dtype and np.array_equal(there, content)


def missing_entries(entries):
    """The entries of which a file is still missing.

    Raises DataError naming a file that would be overwritten by other pixels, or, where anything is missing, an image
    that belongs to some other set.  Augmented copies (`frame_0001-0.png`) may stay.
    """
    missing = []
    for entry in progress(entries, "comparing", unit="entry"):
        there = [path.exists() for path in entry.paths]
        if not all(there):
            missing.append(entry)
        for path, content in zip(entry.paths, entry.make() if any(there) else ()):
            if path.exists() and not holds(path, content):
                raise DataError(f"{path}: another file of this name is there already and is left as it is; "
                                "choose another --Data_directory")
    ours = {path for entry in entries for path in entry.paths}
    stems = {path.with_suffix("") for path in ours}
    for parent in sorted({path.parent for path in ours}) if missing else ():
        for path in list_images(parent).values() if parent.is_dir() else ():
            copy = re.fullmatch(r"(.+)-\d+\.png", path.name)
            if path not in ours and not (copy and parent / copy[1] in stems):
                raise DataError(f"{path}: not of this data set; choose another --Data_directory")
    return missing


def write_set(entries, description):
    """Write what is missing of a data set, and print `description` with what has been done."""
    missing = missing_entries(entries)
    for entry in progress(missing, "writing", unit="entry"):
        for path, content in zip(entry.paths, entry.make()):
            if path.exists():
                continue
            make_folder(path.parent)
            if isinstance(content, Path):
                with atomic_write(path) as temporary:
                    shutil.copyfile(content, temporary)
            else:
                write_png(path, content)
    print(f"{description}, " + (f"{len(missing)} of them new" if missing else "all there already: used as they are"))
