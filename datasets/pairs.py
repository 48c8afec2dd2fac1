"""The image/label pairs of a data set, `{train,test}/{imgs,labels}`, matched by file name."""
import os
from pathlib import Path

from command.errors import DataError
from command.files import make_folder
from images.channels import stored_channels
from images.formats import IMAGE_SUFFIXES, check_same_size, list_images
from images.reading import image_size, read_image, read_label

SPLITS = ("train", "test")
NO_SUCH_FOLDER = ("no such folder; `python MakeData.py sample` makes ./data/sample (then "
                  "--Data_directory ./data/sample), `python MakeData.py folders` splits images of "
                  "your own into train and test, data/README.md says how such a folder is laid "
                  "out")


def check_folders_differ(image_folder, label_folder, flags):
    """Raise DataError for a folder that is missing, or that both `flags` name."""
    for folder in (image_folder, label_folder):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder")
    if image_folder.samefile(label_folder):
        raise DataError(f"{label_folder}: both {flags}; keep images and labels in two folders")


def common_endings(stems):
    """What all stems end with, from a separator on, the shortest first: [""] or ["", "_mask"]."""
    shared = os.path.commonprefix([stem[::-1] for stem in stems])[::-1]
    return [""] + [shared[k:] for k in reversed(range(len(shared))) if shared[k] in "_-. "]


def find_ending(labels, images):
    """The ending of all label stems without which most are stems of images, such as `_mask`."""
    return max(common_endings(labels),
               key=lambda ending: sum(stem.removesuffix(ending) in images for stem in labels))


def say_ending(label_folder, ending):
    """Print that the names of labels are taken without an ending."""
    print(f"{label_folder}: the labels' common ending {ending} is left out of their names")


def pair_by_name(image_folder, label_folder, ignore=frozenset(), label_suffixes=IMAGE_SUFFIXES):
    """The (image, label) paths of two folders, matched by file stem, sorted by name.

    Paths in `ignore` are passed over; labels are the files with `label_suffixes`.
    Raises DataError naming the first file without a partner, or a folder without images.
    """
    images = list_images(image_folder, ignore)
    labels = list_images(label_folder, ignore, label_suffixes)
    if not images:
        raise DataError(f"{image_folder}: no images here ({', '.join(IMAGE_SUFFIXES)})")
    for stem, path in images.items():
        if stem not in labels:
            raise DataError(f"{path}: no label of this name in {label_folder}; "
                            "add one or move the image away")
    for stem, path in labels.items():
        if stem not in images:
            raise DataError(f"{path}: no image of this name in {image_folder}; "
                            "add one or move the label away")
    return [(path, labels[stem]) for stem, path in images.items()]


def find_pairs(data_directory):
    """The pairs of a data set: {"train": [(image path, label path), ...], "test": [...]}.

    Raises DataError where a folder is missing or empty, a file has no partner, or a name would not
    fit on one line.
    """
    data_directory = Path(data_directory)
    folders = [data_directory / split / kind
               for split in SPLITS for kind in ("", "imgs", "labels")]
    for folder in (data_directory, *folders):
        if not folder.is_dir():
            raise DataError(f"{folder}: {NO_SUCH_FOLDER}")
    pairs = {}
    for split in SPLITS:
        pairs[split] = pair_by_name(data_directory / split / "imgs",
                                    data_directory / split / "labels")
    for path in (path for split in SPLITS for pair in pairs[split] for path in pair):
        if "\n" in str(path):
            raise DataError(f"{str(path)!r}: a line break in the name; rename it")
    return pairs


def read_pair(pair, n_channels=None):
    """(image, label) of two paths; n_channels: what --n_channels asks for, or None.

    Raises DataError where one cannot be read, or their sizes differ.
    """
    image, label = read_image(pair[0], stored_channels(n_channels)), read_label(pair[1])
    check_same_size(pair[0], image.shape[:2], pair[1], label.shape)
    return image, label


def make_preview_folder(path, pair):
    """Make the folder of a preview; DataError where a file of the pair that it shows lies there."""
    folder = make_folder(path.parent)
    if any(folder.samefile(each.parent) for each in pair):
        raise DataError(f"{path}: lies among the training pairs; choose another folder")


def check_sizes(pairs):
    """Raise DataError for the first pair whose sizes differ; reads the files' headers only."""
    for image, label in pairs:
        check_same_size(image, image_size(image), label, image_size(label))
