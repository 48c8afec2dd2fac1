"""Write a data set: files that are made together, and never over a file that is there."""
import re
import shutil
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np

from command.bars import progress_bar
from command.errors import DataError
from command.files import atomic_write, make_folder
from command.names import canonical, stem_of
from images.formats import IMAGE_SUFFIXES, list_images, write_pixels
from images.reading import read_image, read_label


class Entry(NamedTuple):
    """Files of a data set that are made together, such as an image and its label."""
    paths: tuple    # of Path: where the files go
    make: Callable  # without arguments; a list of their contents, in the same order
    count: int = 1  # of the things that the description of `write_set` counts
    # A content is pixels, which `write_pixels` writes, or the Path of a file that is copied, or a
    # text.


def has_content(path, content):
    """Whether the file `path` has the text, or the pixels and the dtype, of an Entry's content."""
    if isinstance(content, str):
        return path.read_bytes() == content.encode()
    read = read_label if path.parent.name == "labels" else read_image
    if isinstance(content, Path):
        if path.read_bytes() == content.read_bytes():
            return True
        content = read(content)
    there = read(path)
    return there.dtype == content.dtype and np.array_equal(there, content)


def missing_entries(entries):
    """The Entries of which at least one file is missing.

    Raises DataError for a file whose name an Entry needs and whose pixels differ.  Raises it, where
    anything is missing, for an image that belongs to another set.  Copies that DataAugmentation.py
    made of an Entry's image (`frame_0001-0.png`) may stay.
    """
    missing = []
    for entry in progress_bar(entries, "comparing", unit="entry"):
        there = [path.exists() for path in entry.paths]
        if not all(there):
            missing.append(entry)
        for path, content in zip(entry.paths, entry.make() if any(there) else ()):
            if path.exists() and not has_content(path, content):
                raise DataError(f"{path}: another file of this name is there already and is left "
                                "as it is; choose another --Data_directory")
    if missing:
        check_no_others({path for entry in entries for path in entry.paths})
    return missing


def check_no_others(own):
    """Raise DataError for an image in a folder of the paths `own` that is not of their set."""
    own = {path for path in own if path.suffix.lower() in IMAGE_SUFFIXES}
    stems = {path.parent / stem_of(path) for path in own}
    for parent in sorted({path.parent for path in own if path.parent.is_dir()}):
        for path in list_images(parent).values():
            copy = re.fullmatch(r"(.+)-\d+\.(png|tif)", path.name)
            is_copy = copy and parent / canonical(copy[1]) in stems
            if path not in own and not is_copy:
                raise DataError(f"{path}: not of this data set; choose another --Data_directory")


def write_content(path, content):
    """Write a content of an Entry, whole or not at all."""
    if isinstance(content, np.ndarray):
        write_pixels(path, content)
        return
    with atomic_write(path) as temporary:
        if isinstance(content, str):
            temporary.write_bytes(content.encode())
        else:
            shutil.copyfile(content, temporary)


def write_set(entries, description):
    """Write the files of the Entries that are missing.

    Prints one line: `description`, and how many of what it counts are new.  Errors as
    `missing_entries`.
    """
    missing = missing_entries(entries)
    for entry in progress_bar(missing, "writing", unit="entry"):
        for path, content in zip(entry.paths, entry.make()):
            if path.exists():
                continue
            make_folder(path.parent)
            write_content(path, content)
    new = sum(entry.count for entry in missing)
    done = f"{new} of them new" if missing else "all there already: used as they are"
    print(f"{description}, {done}")
