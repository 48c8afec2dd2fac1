"""Bring data from elsewhere into our layout, `{train,test}/{imgs,labels}`: ISBI 2012, CoNSeP, and anybody's own images.

`python MakeData.py isbi|consep|folders` calls these functions.  Each set is first listed as entries, files that come
into being together, and then written: what is there with equal pixels is used as it is, what differs is never replaced.

ISBI 2012: Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for connectomics",
Frontiers in Neuroanatomy 9:142, 2015.  CoNSeP: Graham et al., "HoVer-Net: Simultaneous segmentation and classification
of nuclei in multi-tissue histology images", Medical Image Analysis 58:101563, 2019.
"""
import contextlib
import io
import logging
import os
from collections import Counter
from functools import partial

import numpy as np
import tifffile
from scipy.io import loadmat

from command.errors import DataError, say_once
from datasets.copies import MANIFEST
from datasets.entries import Entry, progress, write_set
from datasets.pairs import SPLITS, check_pair, pair_by_name
from datasets.splits import group_of, split_groups
from images.formats import IMAGE_SUFFIXES, check_same_size, list_images, read_image, read_label

ISBI_HOME = "https://imagej.net/events/isbi-2012-segmentation-challenge"
ISBI_PAGES = 30
CONSEP_HOME = "https://warwick.ac.uk/fac/cross_fac/tia/data/hovernet"
CONSEP_SPLITS = {"train": ("Train", 27), "test": ("Test", 14)}  # folder, images in it
# Nuclei are 1 other, 2 inflammatory, 3 healthy epithelial, 4 malignant epithelial, 5 fibroblast, 6 muscle or
# 7 endothelial.  The paper of HoVer-Net makes one class of 3 and 4, and one (spindle-shaped) of 5, 6 and 7.
CONSEP_MERGED = np.array([0, 1, 2, 3, 3, 4, 4, 4], np.uint8)
TILE = 512  # px
CONVERTED_SUFFIXES = (".gif", ".pbm", ".pgm", ".pnm", ".ppm", ".webp")  # what Pillow reads and other commands do not


# ------------------------------------------------------------------------------------------------------------ ISBI 2012
def read_stack(path):
    """One of the challenge's three stacks: uint8 (30, H, W).  Raises DataError for a missing or damaged file."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; ISBI 2012 is to be had at {ISBI_HOME}")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it would log each page that a damaged file has lost
    try:
        stack = tifffile.imread(path)
    except Exception as error:  # noqa: BLE001 - of a damaged file tifffile raises almost any
        raise DataError(f"{path}: not a readable TIFF stack ({error}); get it again from {ISBI_HOME}") from None
    if stack.ndim != 3 or len(stack) != ISBI_PAGES or stack.dtype != np.uint8:
        pages = len(stack) if stack.ndim == 3 else 1
        raise DataError(f"{path}: {pages} page(s) of {stack.dtype} values, but the challenge's file has {ISBI_PAGES} "
                        f"of uint8 values; get it again from {ISBI_HOME}")
    return stack


def hold_out(pages, count, how, seed):
    """The numbers, from 0, of the sections kept for testing: `count` of `pages`, rising.

    last: the last ones, of which only one borders on a training section.  spread: one drawn from each of `count`
    equally long runs of sections; neighbours look alike, so that these are easier to predict.
    """
    if how == "last":
        return list(range(pages - count, pages))
    rng = np.random.default_rng(seed)
    bounds = np.linspace(0, pages, count + 1).astype(int)
    return [int(rng.integers(low, high)) for low, high in zip(bounds[:-1], bounds[1:])]


def page_of(stacks, page):
    """The same page of some stacks: what the entries of ISBI 2012 are made of."""
    return [stack[page] for stack in stacks]


def import_isbi(source, folder, test_slices, how, seed):
    """Write the challenge's training volume as training and test pairs, and its test volume as `challenge/imgs`.

    The challenge scores its test volume itself; the test pairs here are `test_slices` held-out training sections.
    """
    volume, labels, challenge = (read_stack(source / f"{name}.tif")
                                 for name in ("train-volume", "train-labels", "test-volume"))
    check_same_size(source / "train-volume.tif", volume.shape[1:], source / "train-labels.tif", labels.shape[1:])
    if not np.isin(labels, (0, 255)).all():
        raise DataError(f"{source / 'train-labels.tif'}: other values than 0 (membrane) and 255 (cell); "
                        f"get it again from {ISBI_HOME}")
    held_out = hold_out(ISBI_PAGES, test_slices, how, seed)
    drawn = "the last" if how == "last" else f"spread, seed {seed}"
    print(f"held out of the training volume for testing ({drawn}): sections {', '.join(str(k + 1) for k in held_out)}")
    entries = []
    for page in range(ISBI_PAGES):
        split, name = SPLITS[page in held_out], f"frame_{page + 1:04d}.png"
        entries.append(Entry((folder / split / "imgs" / name, folder / split / "labels" / name),
                             partial(page_of, (volume, labels), page)))
        entries.append(Entry((folder / "challenge" / "imgs" / name,), partial(page_of, (challenge,), page)))
    write_set(entries, f"{folder}: {ISBI_PAGES - test_slices} training and {test_slices} test pairs of "
                       f"{labels.shape[1]} x {labels.shape[2]} px, {ISBI_PAGES} images without labels in challenge")


# --------------------------------------------------------------------------------------------------------------- CoNSeP
def read_nuclei(path, image, size):
    """The two maps of a CoNSeP label file, each of `size`, which is that of its image file `image`.

    Returns the number of the nucleus at each pixel, uint16 (H, W), and its type, 1 ... 7, uint8 (H, W); 0 elsewhere.
    """
    try:
        maps = loadmat(path, variable_names=("inst_map", "type_map"))
    except NotImplementedError:  # SciPy's word for the HDF5 files of MATLAB 7.3
        raise DataError(f"{path}: a MATLAB 7.3 file; save it again with MATLAB's option -v7") from None
    except Exception as error:  # noqa: BLE001 - of a damaged file SciPy raises almost any
        raise DataError(f"{path}: not a readable MATLAB file ({error}); get it again from {CONSEP_HOME}") from None
    found = []
    for key, dtype, most in (("inst_map", np.uint16, 65535), ("type_map", np.uint8, len(CONSEP_MERGED) - 1)):
        if key not in maps:
            raise DataError(f"{path}: has no {key}; get it again from {CONSEP_HOME}")
        values = maps[key]
        check_same_size(image, size, path, values.shape[:2])
        if values.ndim != 2 or values.dtype.kind not in "uif":
            raise DataError(f"{path}: {key} is no map of numbers; get it again from {CONSEP_HOME}")
        with np.errstate(invalid="ignore"):  # of NaN: not equal to whatever it becomes
            found.append(values.astype(dtype))
        if (found[-1] != values).any() or found[-1].max() > most:
            raise DataError(f"{path}: {key} has other values than whole numbers from 0 to {most}; "
                            f"get it again from {CONSEP_HOME}")
    return found


def cut(pixels, layout):
    """An image in pieces, as `layout` has it: [whole], or the four tiles of 512 x 512 px at its corners, row by row."""
    if layout == "whole":
        return [pixels]
    ends = slice(TILE), slice(-TILE, None)
    return [pixels[rows, columns] for rows in ends for columns in ends]


def consep_pieces(image_path, label_path, layout, labels):
    """Image, label and instance map of each piece of one CoNSeP image, in one list."""
    with contextlib.redirect_stderr(io.StringIO()):  # no remark on their alpha channels, which mean nothing
        image = read_image(image_path, grayscale=False)
    if layout == "tiles" and min(image.shape[:2]) < TILE:
        raise DataError(f"{image_path}: {image.shape[0]} x {image.shape[1]} px, smaller than a tile of {TILE} x {TILE} "
                        "px; choose --layout whole")
    instances, types = read_nuclei(label_path, image_path, image.shape[:2])
    label = CONSEP_MERGED[types] if labels == "typed" else np.where(instances > 0, 255, 0).astype(np.uint8)
    return [piece for pieces in zip(*(cut(pixels, layout) for pixels in (image, label, instances))) for piece in pieces]


def import_consep(source, folder, layout, labels):
    """Write CoNSeP's images, with labels 0/255 ("binary") or 0 ... 4 ("typed"), and the instance maps (`instances`)."""
    entries, counts = [], []
    for split, (name, expected) in CONSEP_SPLITS.items():
        places = source / name / "Images", source / name / "Labels"
        for place in places:
            if not place.is_dir():
                raise DataError(f"{place}: no such folder; CoNSeP is to be had at {CONSEP_HOME}")
        pairs = pair_by_name(*places, label_suffixes=(".mat",))
        counts.append(len(pairs))
        if len(pairs) != expected:
            say_once(f"{source / name}: {len(pairs)} images, but CoNSeP has {expected} here; is the download complete?")
        for image, label in pairs:
            names = [image.stem] if layout == "whole" else [f"{image.stem}_{k}" for k in range(4)]
            paths = tuple(folder / split / kind / f"{name}.png"
                          for name in names for kind in ("imgs", "labels", "instances"))
            entries.append(Entry(paths, partial(consep_pieces, image, label, layout, labels)))
    for entry in progress(entries, "reading", unit="image"):
        entry.make()  # whatever is wrong with a file is said before the first one is written
    pieces = "whole" if layout == "whole" else f"each in 4 tiles of {TILE} x {TILE} px"
    write_set(entries, f"{folder}: {counts[0]} training and {counts[1]} test images ({pieces}, {labels} labels)")


# ----------------------------------------------------------------------------------------------------- one's own images
def common_endings(stems):
    """What all stems end with, from a separator on, shortest first: [""] or ["", "_mask"], say."""
    shared = os.path.commonprefix([stem[::-1] for stem in stems])[::-1]
    return [""] + [shared[k:] for k in reversed(range(len(shared))) if shared[k] in "_-. "]


def pair_folders(image_folder, label_folder):
    """The (image, label) paths of two folders, matched by stem; the labels' stems may share an ending (`_mask`).

    Returns the pairs sorted by name, and the ending.  Raises DataError naming the first file without a partner.
    """
    images, labels = (list_images(folder, suffixes=IMAGE_SUFFIXES + CONVERTED_SUFFIXES)
                      for folder in (image_folder, label_folder))
    if not images:
        raise DataError(f"{image_folder}: no images here ({', '.join(IMAGE_SUFFIXES + CONVERTED_SUFFIXES)})")
    by_ending = {ending: {stem[:len(stem) - len(ending)]: path for stem, path in labels.items()}
                 for ending in common_endings(labels)}
    ending, partners = max(by_ending.items(), key=lambda item: len(item[1].keys() & images.keys()))
    for stem, path in images.items():
        if stem not in partners:
            raise DataError(f"{path}: no label {stem + ending} in {label_folder} (an ending such as _mask has to be "
                            "the same for all labels); add one or move the image away")
    for stem, path in partners.items():
        if stem not in images:
            raise DataError(f"{path}: no image {stem} in {image_folder}; add one or move the label away")
    return [(path, partners[stem]) for stem, path in images.items()], ending


def contents_of(pair):
    """A pair as it goes into the data set: files that the other commands read are copied, others become PNG."""
    return [path if path.suffix.lower() in IMAGE_SUFFIXES else read(path)
            for path, read in zip(pair, (read_image, read_label))]


def import_folders(image_folder, label_folder, folder, test_fraction, seed, pattern):
    """Write the pairs of two folders, split into training and test; groups (see `group_of`) stay together."""
    for place in (image_folder, label_folder):
        if not place.is_dir():
            raise DataError(f"{place}: no such folder")
    if image_folder.samefile(label_folder):
        raise DataError(f"{label_folder}: both --images and --labels; keep images and labels in two folders")
    if (image_folder / MANIFEST).exists():
        raise DataError(f"{image_folder}: DataAugmentation.py's copies lie here, and could end in the other split than "
                        "their originals; take them away with its --clean")
    pairs, ending = pair_folders(image_folder, label_folder)
    groups = [group_of(image, pattern) for image, _ in pairs]
    if len(set(groups)) == 1:
        raise DataError(f"{image_folder}: only one {'group' if pattern else 'image'}, nothing to hold out for testing")
    for pair in progress(pairs, "reading", unit="pair"):
        check_pair(pair)
    in_test = split_groups(groups, test_fraction, seed)
    entries = []
    for pair, group in zip(pairs, groups):
        suffixes = [path.suffix if path.suffix.lower() in IMAGE_SUFFIXES else ".png" for path in pair]
        paths = tuple(folder / SPLITS[group in in_test] / kind / (pair[0].stem + suffix)
                      for kind, suffix in zip(("imgs", "labels"), suffixes))
        entries.append(Entry(paths, partial(contents_of, pair)))
    if ending:
        print(f"{label_folder}: the labels' common ending {ending} is left out of their names")
    for suffix, count in Counter(path.suffix for pair in pairs for path in pair).items():
        if suffix.lower() in CONVERTED_SUFFIXES:
            print(f"{count} {suffix} files become PNG")
    test = sum(group in in_test for group in groups)
    whole = f", {len(set(groups))} groups kept whole, {len(in_test)} of them in test" if pattern else ""
    write_set(entries, f"{folder}: split by seed {seed}{whole}: {len(pairs) - test} training and {test} test pairs")
