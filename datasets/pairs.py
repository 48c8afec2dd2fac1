"""The image/label pairs of a data set."""
from pathlib import Path

from command.errors import DataError
from images.formats import (IMAGE_SUFFIXES, check_same_size, image_size, list_images, read_image,
                            read_label)
from nets.geometry import REFERENCE_SIDE


def pair_by_name(image_folder, label_folder, ignore=frozenset(), label_suffixes=IMAGE_SUFFIXES):
    """The (image, label) paths of two folders, matched by file stem: list of (Path, Path) sorted by name.

    Paths in `ignore` are passed over; labels are the files with `label_suffixes`.

    Raises DataError naming the first file without a partner, or a folder without images.
    """
    images, labels = list_images(image_folder, ignore), list_images(label_folder, ignore, label_suffixes)
    if not images:
        raise DataError(f"{image_folder}: no images here ({', '.join(IMAGE_SUFFIXES)})")
    for stem, path in images.items():
        if stem not in labels:
            raise DataError(f"{path}: no label of this name in {label_folder}; add one or move the image away")
    for stem, path in labels.items():
        if stem not in images:
            raise DataError(f"{path}: no image of this name in {image_folder}; add one or move the label away")
    return [(path, labels[stem]) for stem, path in images.items()]

SPLITS = ("train", "test")
HELP = ("`python MakeData.py sample` makes ./data/sample (then --Data_directory ./data/sample), `python MakeData.py folders` "
        "splits images of your own into train and test, data/README.md says how such a folder is laid out")


def find_pairs(data_directory):
    """The pairs of a data set: {"train": [(image_path, label_path), ...], "test": [...]}, each sorted by name.

    Raises DataError where a folder is missing or empty, a file has no partner, or a name would not fit on one line.
    """
    data_directory = Path(data_directory)
    folders = [data_directory / split / kind for split in SPLITS for kind in ("", "imgs", "labels")]
    for folder in (data_directory, *folders):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; {HELP}")
    pairs = {split: pair_by_name(data_directory / split / "imgs", data_directory / split / "labels")
             for split in SPLITS}
    for path in (path for split in SPLITS for pair in pairs[split] for path in pair):
        if "\n" in str(path):
            raise DataError(f"{str(path)!r}: a line break in the name; rename it")
    return pairs


# ------------------------------------------------------------------------------------------------------ the processes
def check_pair(pair):
    """Decode both files of a pair: a DataError where one is unreadable or their sizes differ."""
    image, label = read_image(pair[0]), read_label(pair[1])
    check_same_size(pair[0], image.shape[:2], pair[1], label.shape)


def check_pairs(pairs, tile):
    """Raise DataError for the first pair whose sizes differ or do not suit `tile`; reads the files' headers only."""
    for image, label in pairs:
        size = image_size(image)
        check_same_size(image, size, label, image_size(label))
        if tile == "reference" and size != (REFERENCE_SIDE, REFERENCE_SIDE):
            raise DataError(f"{image}: {size[0]} x {size[1]} px, but --tile reference is made for "
                            f"{REFERENCE_SIDE} x {REFERENCE_SIDE} px; use --tile full")
