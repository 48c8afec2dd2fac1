"""Your own images in our layout, `{train,test}/{imgs,labels}`, for `python MakeData.py folders`."""
import os
from collections import Counter
from functools import partial

from command.bars import progress_bar
from command.errors import DataError
from datasets.class_colours import (CLASS_TABLE, list_colours, read_classes, read_colours,
                                    write_template)
from datasets.copies import MANIFEST
from datasets.entries import Entry
from datasets.layout import Source, content_of, lay_out, suffix_in_set
from datasets.pairs import check_folders_differ, check_pair
from images.formats import IMAGE_SUFFIXES, check_same_size, list_images
from images.reading import read_image, read_label

# what Pillow reads and the other commands do not
CONVERTED_SUFFIXES = (".gif", ".pbm", ".pgm", ".pnm", ".ppm", ".webp")


def common_endings(stems):
    """What all stems end with, from a separator on, the shortest first: [""] or ["", "_mask"]."""
    shared = os.path.commonprefix([stem[::-1] for stem in stems])[::-1]
    return [""] + [shared[k:] for k in reversed(range(len(shared))) if shared[k] in "_-. "]


def pair_folders(image_folder, label_folder):
    """(pairs, ending): the (image, label) paths of two folders, matched by stem, sorted by name.

    The stems of the labels may share an ending, such as `_mask`; it is the second result.
    Raises DataError for a folder that cannot be used, and for the first file without a partner.
    """
    check_folders_differ(image_folder, label_folder, "--images and --labels")
    check_no_copies(image_folder)
    suffixes = IMAGE_SUFFIXES + CONVERTED_SUFFIXES
    images, labels = (list_images(folder, suffixes=suffixes)
                      for folder in (image_folder, label_folder))
    if not images:
        raise DataError(f"{image_folder}: no images here ({', '.join(suffixes)})")
    by_ending = {ending: {stem[:len(stem) - len(ending)]: path for stem, path in labels.items()}
                 for ending in common_endings(labels)}
    ending = max(by_ending, key=lambda each: len(by_ending[each].keys() & images.keys()))
    partners = by_ending[ending]
    for stem, path in images.items():
        if stem not in partners:
            raise DataError(f"{path}: no label {stem + ending} in {label_folder} (an ending such "
                            "as _mask has to be the same for all labels); "
                            "add one or move the image away")
    for stem, path in partners.items():
        if stem not in images:
            raise DataError(f"{path}: no image {stem} in {image_folder}; "
                            "add one or move the label away")
    return [(path, partners[stem]) for stem, path in images.items()], ending


def convert_pair(pair):
    """The contents of an Entry: the paths of a pair, or the pixels of what is to become PNG."""
    return [content_of(path, read) for path, read in zip(pair, (read_image, read_label))]


def recolour_pair(image, label, rows, table):
    """The contents of an Entry: an image, and its mask in colours as class numbers."""
    return [content_of(image, read_image), read_classes(label, rows, table)]


def check_no_copies(image_folder):
    """Raise DataError for a folder in which copies of DataAugmentation.py lie."""
    if (image_folder / MANIFEST).exists():
        raise DataError(f"{image_folder}: DataAugmentation.py's copies lie here, and could end in "
                        "the other split than their originals; take them away with its --clean")


def say_conversions(paths):
    """Print how many of the files become PNG."""
    for suffix, count in Counter(path.suffix for path in paths).items():
        if suffix.lower() in CONVERTED_SUFFIXES:
            print(f"{count} {suffix} files become PNG")


def propose_colours(image_folder, label_folder, table):
    """Print the colours of the labels of two folders and write a table of them to be edited."""
    pairs, _ = pair_folders(image_folder, label_folder)
    write_template([label for _, label in pairs], table)


def import_folders(image_folder, label_folder, folder, rule, colours=None):
    """Write the pairs of two folders into the set `folder`, split by the SplitRule.

    colours: None, or the table of the classes that colours of the labels stand for (see
    datasets.class_colours); it is written into the set.  Returns its class numbers, or None.
    Raises DataError as `pair_folders`, `check_pair`, `read_classes` and `lay_out`.
    """
    pairs, ending = pair_folders(image_folder, label_folder)
    rows = read_colours(colours) if colours else None
    sources = []
    for image, label in progress_bar(pairs, "reading", unit="pair"):
        if colours:
            make = partial(recolour_pair, image, label, rows, colours)
            check_same_size(image, read_image(image).shape[:2], label, make()[1].shape)
            suffixes = [suffix_in_set(image), ".png"]
        else:
            check_pair((image, label))
            make = partial(convert_pair, (image, label))
            suffixes = [suffix_in_set(path) for path in (image, label)]
        sources.append(Source(image, (image.stem,), suffixes, make))
    if ending:
        print(f"{label_folder}: the labels' common ending {ending} is left out of their names")
    say_conversions([path for pair in pairs for path in pair])
    tables = [Entry((folder / CLASS_TABLE,), lambda: [list_colours(rows)])] if colours else []
    lay_out(sources, folder, rule, tables)
    return {row.number for row in rows} if colours else None
