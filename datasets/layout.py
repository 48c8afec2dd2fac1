"""Images of one's own, with labels from wherever, split into training and test and written."""
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np

from command.errors import DataError
from command.names import canonical
from datasets.entries import Entry, write_set
from datasets.pairs import SPLITS
from datasets.splits import group_of, split_groups
from images.formats import IMAGE_SUFFIXES


class Source(NamedTuple):
    """An image file of one's own with its label: a pair, or several where it is a stack."""
    image: Path     # the file
    stems: tuple    # of the pairs' names in the set
    suffixes: list  # of the names of an image and of a label, with the dot
    make: Callable  # without arguments; the contents for an Entry: image, label, image, label, ...


def suffix_in_set(path):
    """The suffix that a file has in a set: its own, or .png where it is to become another one."""
    return path.suffix if path.suffix.lower() in IMAGE_SUFFIXES else ".png"


def content_of(path, read):
    """The content for an Entry: the path of a file that is copied, or the pixels of another one.

    read: `read_image` or `read_label`.
    """
    return path if path.suffix.lower() in IMAGE_SUFFIXES else read(path)


def suffix_of_label(label):
    """The suffix of the file that holds a label, (H, W) unsigned integers."""
    return ".tif" if label.dtype == np.uint32 else ".png"


def lay_out(sources, folder, rule, more=()):
    """Write the pairs of all Sources into the set `folder`, split by the SplitRule.

    Without a pattern the pairs of one Source stay in one split.  more: Entries to write with them.
    Raises DataError where there is nothing to hold out, and as `group_of` and `write_set`.
    """
    groups = {}
    for source in sources:
        for stem in source.stems:
            path = source.image.with_name(stem + source.image.suffix)
            groups[stem] = group_of(path if rule.pattern else source.image, rule.pattern)
    if len(set(groups.values())) == 1:
        what = "group" if rule.pattern else "image"
        raise DataError(f"{sources[0].image.parent}: only one {what}, "
                        "nothing to hold out for testing")
    in_test = split_groups([*groups.values()], rule.test_fraction, rule.seed)
    entries = [*more]
    for source in sources:
        paths = tuple(folder / SPLITS[groups[stem] in in_test] / kind / (canonical(stem) + suffix)
                      for stem in source.stems
                      for kind, suffix in zip(("imgs", "labels"), source.suffixes))
        entries.append(Entry(paths, source.make))
    test = sum(group in in_test for group in groups.values())
    kept = ""
    if rule.pattern:
        kept = (f", {len(set(groups.values()))} groups kept whole, "
                f"{len(in_test)} of them in test")
    write_set(entries, f"{folder}: split by seed {rule.seed}{kept}: "
                       f"{len(groups) - test} training and {test} test pairs")
