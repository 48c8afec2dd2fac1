"""ISBI 2012 in our layout, `{train,test}/{imgs,labels}`, for `python MakeData.py isbi`.

Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for
connectomics", Frontiers in Neuroanatomy 9:142, 2015.
"""
import logging
from functools import partial

import numpy as np
import tifffile

from command.errors import DataError
from datasets.entries import Entry, write_set
from datasets.pairs import SPLITS
from images.formats import check_same_size

ISBI_HOME = "https://imagej.net/events/isbi-2012-segmentation-challenge"
ISBI_PAGES = 30  # sections of each stack


def read_stack(path):
    """One of the challenge's three stacks: uint8 (30, H, W).

    Raises DataError for a file that is missing, damaged or another one.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; download ISBI 2012 from {ISBI_HOME}")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs each page that is lost
    try:
        stack = tifffile.imread(path)
    except Exception as error:  # noqa: BLE001 - tifffile raises almost any for a damaged file
        raise DataError(f"{path}: not a readable TIFF stack ({error}); "
                        f"get it again from {ISBI_HOME}") from None
    if stack.ndim != 3 or len(stack) != ISBI_PAGES or stack.dtype != np.uint8:
        pages = len(stack) if stack.ndim == 3 else 1
        raise DataError(f"{path}: {pages} page(s) of {stack.dtype} values, but the challenge's "
                        f"file has {ISBI_PAGES} of uint8 values; get it again from {ISBI_HOME}")
    return stack


def hold_out(pages, count, how, seed):
    """The numbers, from 0, of the sections that are kept for testing: a rising list of `count`.

    how: "last" takes the last sections.  Only one of them borders on a training section.
    "spread" draws one from each of `count` equally long runs of sections.  Neighbours look alike,
    so these are easier to predict.  seed: of "spread"; pages: sections in all.
    """
    if how == "last":
        return list(range(pages - count, pages))
    rng = np.random.default_rng(seed)
    bounds = np.linspace(0, pages, count + 1).astype(int)
    return [int(rng.integers(low, high)) for low, high in zip(bounds[:-1], bounds[1:])]


def take_page(stacks, page):
    """The same page of each of some stacks: the contents of an Entry."""
    return [stack[page] for stack in stacks]


def import_isbi(source, folder, test_slices, how, seed):
    """Write the training volume as training and test pairs, the test volume as `challenge/imgs`.

    The challenge alone can score its test volume.  The test pairs here are `test_slices` sections
    of the training volume; how, seed: see `hold_out`.  source: the folder of the three stacks;
    folder: of the new set.  Raises DataError as `read_stack` and `write_set`.
    """
    names = ("train-volume", "train-labels", "test-volume")
    volume, labels, challenge = (read_stack(source / f"{name}.tif") for name in names)
    label_path = source / "train-labels.tif"
    check_same_size(source / "train-volume.tif", volume.shape[1:], label_path, labels.shape[1:])
    if not np.isin(labels, (0, 255)).all():
        raise DataError(f"{label_path}: other values than 0 (membrane) and 255 (cell); "
                        f"get it again from {ISBI_HOME}")
    held_out = hold_out(ISBI_PAGES, test_slices, how, seed)
    drawn = "the last" if how == "last" else f"spread, seed {seed}"
    print(f"held out of the training volume for testing ({drawn}): "
          f"sections {', '.join(str(k + 1) for k in held_out)}")
    entries = []
    for page in range(ISBI_PAGES):
        split, name = SPLITS[page in held_out], f"frame_{page + 1:04d}.png"
        paths = (folder / split / "imgs" / name, folder / split / "labels" / name)
        entries.append(Entry(paths, partial(take_page, (volume, labels), page)))
        paths = (folder / "challenge" / "imgs" / name,)
        entries.append(Entry(paths, partial(take_page, (challenge,), page)))
    write_set(entries, f"{folder}: {ISBI_PAGES - test_slices} training and {test_slices} test "
                       f"pairs of {labels.shape[1]} x {labels.shape[2]} px, "
                       f"{ISBI_PAGES} images without labels in challenge")
