"""Images of one's own, with labels from wherever, split into training and test and written."""
from pathlib import Path
from typing import Callable, NamedTuple

from command.errors import DataError
from command.names import canonical
from datasets.entries import Entry, write_set
from datasets.pairs import SPLITS
from datasets.splits import group_of, split_groups
from images.formats import IMAGE_SUFFIXES, pixels_suffix


class Source(NamedTuple):
    """An image file of one's own with its label: a pair, or several where it is a stack."""
    image: Path     # the file
    stems: tuple    # of the pairs' names in the set
    suffixes: list  # of the names of an image and of a label, with the dot
    make: Callable  # without arguments; the contents for an Entry: image, label, image, label, ...


def suffix_in_set(path, pixels):
    """The suffix that a file of these pixels has in a set: its own, or that of another format."""
    return path.suffix if path.suffix.lower() in IMAGE_SUFFIXES else pixels_suffix(pixels)


def content_of(path, read):
    """The content for an Entry: the path of a file that is copied, or the pixels of another one.

    read: `read_image` or `read_label`.
    """
    return path if path.suffix.lower() in IMAGE_SUFFIXES else read(path)


def lay_out(sources, folder, rule, more=()):
    """Write the pairs of all Sources into the set `folder`, split by the SplitRule.

    Without a pattern the pairs of one Source stay in one split.  more: Entries to write with them.
    Raises DataError where there is nothing to hold out, and as `group_of` and `write_set`.
    """
    groups = {}
    for source in sources:
        for stem in source.stems:
            if stem in groups:
                raise DataError(f"{source.image}: two images would have the name {stem}; "
                                "rename one of the files")
            path = source.image.with_name(stem + source.image.suffix)
            groups[stem] = group_of(path if rule.pattern else source.image, rule.pattern)
    if len(set(groups.values())) == 1:
        what, advice = "group" if rule.pattern else "image", ""
        if len(groups) > 1 and not rule.pattern:
            what, advice = "stack", " (--group '(.*)' lets each of its pages go by itself)"
        raise DataError(f"{sources[0].image.parent}: only one {what}, "
                        f"nothing to hold out for testing{advice}")
    in_test = split_groups([*groups.values()], rule.test_fraction, rule.seed)
    entries = [*more]
    for source in sources:
        paths = tuple(folder / SPLITS[groups[stem] in in_test] / kind / (canonical(stem) + suffix)
                      for stem in source.stems
                      for kind, suffix in zip(("imgs", "labels"), source.suffixes))
        entries.append(Entry(paths, source.make, len(source.stems)))
    test = sum(group in in_test for group in groups.values())
    kept = ""
    if rule.pattern:
        kept = (f", {len(set(groups.values()))} groups kept whole, "
                f"{len(in_test)} of them in test")
    write_set(entries, f"{folder}: split by seed {rule.seed}{kept}: "
                       f"{len(groups) - test} training and {test} test pairs")
