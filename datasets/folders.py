"""Your own images in our layout, `{train,test}/{imgs,labels}`, for `python MakeData.py folders`."""
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple, Optional

from command.bars import progress_bar
from command.errors import DataError
from datasets.class_colours import (CLASS_TABLE, list_colours, read_classes, read_colours,
                                    write_template)
from datasets.copies import MANIFEST
from datasets.entries import Entry
from datasets.layout import Source, content_of, lay_out, suffix_in_set
from datasets.pairs import check_folders_differ, find_ending, say_ending
from datasets.stacks import StackPair
from images.channels import stored_channels
from images.formats import IMAGE_SUFFIXES, check_same_size, list_images, pixels_suffix
from images.reading import read_image, read_label

# what Pillow reads and the other commands do not
CONVERTED_SUFFIXES = (".avif", ".gif", ".jp2", ".pbm", ".pgm", ".pnm", ".ppm", ".webp")


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
    if not labels:
        raise DataError(f"{label_folder}: no labels here ({', '.join(suffixes)}; Cellpose's "
                        "_seg.npy files are not read: save its masks as PNG or TIFF)")
    ending = find_ending(labels, images)
    partners = {stem.removesuffix(ending): path for stem, path in labels.items()}
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
    """The contents of an Entry: the paths of a pair, or the pixels of what becomes another file."""
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
    """Print how many of the files become PNG, which holds all that Pillow gives of them."""
    for suffix, count in Counter(path.suffix for path in paths).items():
        if suffix.lower() in CONVERTED_SUFFIXES:
            print(f"{count} {suffix} files become PNG")


def propose_colours(image_folder, label_folder, table):
    """Print the colours of the labels of two folders and write a table of them to be edited."""
    pairs, _ = pair_folders(image_folder, label_folder)
    write_template([label for _, label in pairs], table)


class FoldersWish(NamedTuple):
    """What the labels of two folders are, and what becomes of their files."""
    colours: Optional[Path]   # table of the classes that colours of the labels stand for
    split_pages: bool         # whether each page of a stack becomes an image
    n_channels: Optional[int] = None  # that the images should have; None: any number


def import_folders(image_folder, label_folder, folder, rule, wish):
    """Write the pairs of two folders into the set `folder`, split by the SplitRule.

    wish: a FoldersWish.  A table of colours is written into the set.  Returns its class numbers, or
    None.  Raises DataError, before anything is written, for what is no data set.
    """
    pairs, ending = pair_folders(image_folder, label_folder)
    rows = read_colours(wish.colours) if wish.colours else None
    sources = []
    for image, label in progress_bar(pairs, "reading", unit="pair"):
        if wish.colours:
            sources.append(colour_source(image, label, rows, wish))
        elif wish.split_pages:
            sources.append(stack_source(image, label, wish.n_channels))
        else:
            sources.append(pair_source(image, label, wish.n_channels))
    if ending:
        say_ending(label_folder, ending)
    stacks = [source for source in sources if len(source.stems) > 1]
    if stacks:
        print(f"{len(stacks)} stacks become {sum(len(source.stems) for source in stacks)} images")
    say_conversions([path for pair in pairs for path in pair])
    tables = [Entry((folder / CLASS_TABLE,), lambda: [list_colours(rows)], count=0)] if rows else []
    lay_out(sources, folder, rule, tables)
    return {row.number for row in rows} if rows else None


# --------------------------------------------------------------------------------- pairs as Sources
def pair_source(image, label, n_channels):
    """The Source of an image and its label; errors as `read_image`, `read_label`."""
    read = read_image(image, stored_channels(n_channels)), read_label(label)
    check_same_size(image, read[0].shape[:2], label, read[1].shape)
    suffixes = [suffix_in_set(path, pixels) for path, pixels in zip((image, label), read)]
    return Source(image, (image.stem,), suffixes, partial(convert_pair, (image, label)))


def stack_source(image, label, n_channels):
    """The Source of a stack and that of its labels, or of a pair; errors as StackPair."""
    stack = StackPair(image, label)
    if len(stack.stems) == 1:
        return pair_source(image, label, n_channels)
    return Source(image, stack.stems, stack.suffixes(), stack.contents)


def colour_source(image, label, rows, wish):
    """The Source of an image and a mask in colours; errors as `read_classes`."""
    pixels = read_image(image, stored_channels(wish.n_channels))
    classes = read_classes(label, rows, wish.colours)
    check_same_size(image, pixels.shape[:2], label, classes.shape)
    suffixes = [suffix_in_set(image, pixels), pixels_suffix(classes)]
    make = partial(recolour_pair, image, label, rows, wish.colours)
    return Source(image, (image.stem,), suffixes, make)
