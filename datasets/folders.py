"""Your own images in our layout, `{train,test}/{imgs,labels}`, for `python MakeData.py folders`."""
import os
from collections import Counter
from functools import partial

from command.bars import progress_bar
from command.errors import DataError
from datasets.copies import MANIFEST
from datasets.entries import Entry, write_set
from datasets.pairs import SPLITS, check_folders_differ, check_pair
from datasets.splits import group_of, split_groups
from images.formats import IMAGE_SUFFIXES, list_images, read_image, read_label

# what Pillow reads and the other commands do not
CONVERTED_SUFFIXES = (".gif", ".pbm", ".pgm", ".pnm", ".ppm", ".webp")


def common_endings(stems):
    """What all stems end with, from a separator on, the shortest first: [""] or ["", "_mask"]."""
    shared = os.path.commonprefix([stem[::-1] for stem in stems])[::-1]
    return [""] + [shared[k:] for k in reversed(range(len(shared))) if shared[k] in "_-. "]


def pair_folders(image_folder, label_folder):
    """(pairs, ending): the (image, label) paths of two folders, matched by stem, sorted by name.

    The stems of the labels may share an ending, such as `_mask`; it is the second result.
    Raises DataError for a folder without images, and for the first file without a partner.
    """
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
    return [path if path.suffix.lower() in IMAGE_SUFFIXES else read(path)
            for path, read in zip(pair, (read_image, read_label))]


def check_folders(image_folder, label_folder):
    """Raise DataError for two folders that `import_folders` cannot take."""
    check_folders_differ(image_folder, label_folder, "--images and --labels")
    if (image_folder / MANIFEST).exists():
        raise DataError(f"{image_folder}: DataAugmentation.py's copies lie here, and could end in "
                        "the other split than their originals; take them away with its --clean")


def import_folders(image_folder, label_folder, folder, test_fraction, seed, pattern):
    """Write the pairs of two folders, split into training and test.

    folder: of the new set; test_fraction: share of the pairs that become test pairs; seed: of the
    split; pattern: a regular expression whose groups stay together (see `group_of`), or None.
    Raises DataError as `pair_folders`, `check_pair` and `write_set`.
    """
    check_folders(image_folder, label_folder)
    pairs, ending = pair_folders(image_folder, label_folder)
    groups = [group_of(image, pattern) for image, _ in pairs]
    if len(set(groups)) == 1:
        raise DataError(f"{image_folder}: only one {'group' if pattern else 'image'}, "
                        "nothing to hold out for testing")
    for pair in progress_bar(pairs, "reading", unit="pair"):
        check_pair(pair)
    in_test = split_groups(groups, test_fraction, seed)
    entries = []
    for pair, group in zip(pairs, groups):
        paths = []
        for path, kind in zip(pair, ("imgs", "labels")):
            suffix = path.suffix if path.suffix.lower() in IMAGE_SUFFIXES else ".png"
            paths.append(folder / SPLITS[group in in_test] / kind / (pair[0].stem + suffix))
        entries.append(Entry(tuple(paths), partial(convert_pair, pair)))
    if ending:
        print(f"{label_folder}: the labels' common ending {ending} is left out of their names")
    for suffix, count in Counter(path.suffix for pair in pairs for path in pair).items():
        if suffix.lower() in CONVERTED_SUFFIXES:
            print(f"{count} {suffix} files become PNG")
    test = sum(group in in_test for group in groups)
    kept = ""
    if pattern:
        kept = f", {len(set(groups))} groups kept whole, {len(in_test)} of them in test"
    write_set(entries, f"{folder}: split by seed {seed}{kept}: "
                       f"{len(pairs) - test} training and {test} test pairs")
