"""Check a data set before training: say that it is sound, or name every file that is not.

`python MakeData.py check` calls `check_set`.  Every file of `{train,test}/{imgs,labels}` is decoded once.  Files listed
in the manifest of DataAugmentation.py are copies: they are checked too, but are no duplicates of anything.
"""
import hashlib
from collections import Counter
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from command.errors import DataError
from datasets.copies import Manifest
from datasets.label_values import classes_in, foreground_of
from datasets.pairs import SPLITS
from images.channels import has_colours
from images.formats import check_same_size, list_images, read_image, read_label

MOST_SHOWN = 8  # label values in one line


class Facts(NamedTuple):
    """What is known of a decoded pair."""
    image: Path
    label: Path
    split: str
    is_copy: bool
    size: tuple      # (height, width), px
    channels: int    # that the net needs: 1 for grey values, however they are stored, 3 for colours
    kind: str        # "8-bit grey", "16-bit grey" or "8-bit RGB"
    is_flat: bool    # all pixels of the image are equal
    values: dict     # {label value: its number of pixels}, without those that --ignore_label leaves out
    digest: str      # SHA-256 of the image's shape, kind and pixels


# ------------------------------------------------------------------------------------------------------ reading the set
def list_pairs(folder, problems):
    """The (image, label, is_copy) of a split's folder; files without a partner are added to the `problems`."""
    images, labels = (list_images(folder / kind) for kind in ("imgs", "labels"))
    for stem in sorted(images.keys() ^ labels.keys()):
        path, partner = (images[stem], "label") if stem in images else (labels[stem], "image")
        problems.append(f"{path}: no {partner} of this name")
    copies = Manifest(folder / "imgs", folder / "labels").own_files()
    return [(path, labels[stem], path in copies) for stem, path in images.items() if stem in labels]


def examine(image_path, label_path, is_copy, split, ignore_label):
    """Decode a pair: its Facts.  Raises DataError where a file is not readable or the two differ in size."""
    image, label = read_image(image_path), read_label(label_path)
    check_same_size(image_path, image.shape[:2], label_path, label.shape)
    channels = 3 if has_colours(image) else 1
    kind = f"{8 * image.itemsize}-bit {'RGB' if image.ndim == 3 else 'grey'}"
    pixels = np.bincount(label.ravel())
    values = {int(value): int(pixels[value]) for value in np.flatnonzero(pixels) if value != ignore_label}
    digest = hashlib.sha256(f"{label.shape} {kind} ".encode() + image.tobytes()).hexdigest()
    is_flat = image.min() == image.max()
    return Facts(image_path, label_path, split, is_copy, label.shape, channels, kind, is_flat, values, digest)


def read_set(folder, problems, ignore_label):
    """The Facts of all pairs of a data set that can be told; whatever cannot is added to the `problems`."""
    tasks = []
    for split in SPLITS:
        pairs = list_pairs(folder / split, problems)
        if not pairs:
            problems.append(f"{folder / split}: no pair of an image and a label")
        tasks += [(*pair, split) for pair in pairs]
    facts = []
    for task in tqdm(tasks, "checking", unit="pair", delay=1, leave=False, disable=None):
        try:
            facts.append(examine(*task, ignore_label))
        except DataError as error:
            problems.append(" ".join(str(error).split()))
    return facts


# ----------------------------------------------------------------------------------------------------------- the checks
def odd_images(facts, n_channels):
    """Yield a line for each image that is constant, or of another kind than most (than `n_channels` asks for)."""
    kinds = Counter(pair.kind for pair in facts)
    usual = max(kinds, key=kinds.get, default=None)
    for pair in facts:
        if pair.is_flat:
            yield f"{pair.image}: empty, all its pixels are equal"
        if n_channels and pair.channels != n_channels and not (n_channels == 3 and pair.kind.endswith("RGB")):
            yield f"{pair.image}: {pair.kind}, but --n_channels is {n_channels}"
        elif pair.kind != usual:
            yield f"{pair.image}: {pair.kind}, but most images are {usual}"


def some(words):
    """At most MOST_SHOWN of them, in one line: "3, 4 and 250 more"."""
    shown = ", ".join(map(str, words[:MOST_SHOWN]))
    return shown + (f" and {len(words) - MOST_SHOWN} more" if len(words) > MOST_SHOWN else "")


def count_values(facts):
    """The pixels of each label value over all pairs: Counter."""
    return sum((Counter(pair.values) for pair in facts), Counter())


def expected_values(facts, n_classes):
    """(label values of a sound set, the same in words, number of classes).

    The values are 0 and the foreground's in masks (Choices.foreground_of), any where two classes are asked for, which makes
    everything above 0 foreground, otherwise 0 ... n_classes - 1; without `n_classes`, up to the first number that no label
    has.
    """
    pixels = count_values(facts)
    counts = np.bincount(np.array([*pixels], int), [*pixels.values()])
    foreground, _ = foreground_of(counts)
    if foreground and n_classes in (None, 2):
        return {0, foreground}, f"expected 0 and {foreground}", 2
    if n_classes == 2:
        return set(pixels), "", 2
    if n_classes:
        return set(range(n_classes)), f"expected 0 ... {n_classes - 1}", n_classes
    missing = next(value for value in count() if value not in pixels)
    unlabelled = "; --ignore_label 255 if that means: not labelled" if pixels[255] else ""
    in_words = f"but {missing} is in no label: expected 0 and 255, or 0, 1, ... without a gap{unlabelled}"
    return set(range(max(2, missing))), in_words, classes_in(counts)


def odd_labels(facts, values, in_words):
    """Yield a line for each label with others than the expected `values`, and for a split of empty labels alone."""
    for pair in facts:
        odd = sorted(pair.values.keys() - values)
        if odd:
            share = sum(pair.values[value] for value in odd) / sum(pair.values.values())
            yield f"{pair.label}: {some(odd)} in {share:.2%} of its pixels, {in_words}"
    for split in SPLITS:
        labels = [pair for pair in facts if pair.split == split]
        if labels and all(len(pair.values) < 2 for pair in labels):
            yield f"{labels[0].label.parent}: every label is empty (has one value only)"


def duplicates(facts):
    """Yield (line, whether the two lie in different splits) for each original with the pixels of an earlier one."""
    first = {}
    for pair in facts:
        other = pair if pair.is_copy else first.setdefault(pair.digest, pair)
        if other is not pair:
            yield f"{pair.image}: has the same pixels as {other.image}; keep one of the two", other.split != pair.split


def oddities(facts, values):
    """Yield a line for whatever may be meant: empty labels, a class that no training label has."""
    for pair in facts:
        if len(pair.values) < 2:
            yield f"{pair.label}: empty, all its pixels are {some([*pair.values]) or 'ignored'}"
    training = [pair for pair in facts if pair.split == SPLITS[0]]
    absent = sorted(values - count_values(training).keys())
    if training and absent:
        yield f"{training[0].label.parent}: {some(absent)} in no label"


# ---------------------------------------------------------------------------------------------------------- the verdict
def summary(split, facts):
    """What a split consists of, in one line."""
    copies = sum(pair.is_copy for pair in facts)
    sizes = sorted({pair.size for pair in facts})
    ends = " to ".join(f"{height} x {width}" for height, width in sizes[:1] + sizes[1:][-1:])
    pixels = sorted(count_values(facts).items())
    shares = some([f"{value}: {number / sum(number for _, number in pixels):.1%}" for value, number in pixels])
    return (f"{split}: {len(facts) - copies} pairs" + (f" and {copies} augmented copies" if copies else "")
            + f", {ends} px, {' and '.join(sorted({pair.kind for pair in facts}))}, pixels with label {shares}")


def check_set(folder, n_channels=None, n_classes=None, ignore_label=None):
    """Print a data set's summary, warnings, and a line for each thing that is not sound or `N pairs, sound`.

    Pixels of the value `ignore_label` in a label are passed over, as in training.  Returns (whether it is sound, number
    of channels, number of classes), the numbers as found where they are not given.  Raises DataError where a folder is
    missing or a manifest is damaged.
    """
    problems, warnings = [], []
    facts = read_set(folder, problems, ignore_label)
    for split in SPLITS:
        part = [pair for pair in facts if pair.split == split]
        if part:
            print(summary(split, part))
    values, in_words, n_classes = expected_values(facts, n_classes)
    problems += [*odd_images(facts, n_channels), *odd_labels(facts, values, in_words)]
    warnings += oddities(facts, values)
    for line, is_leak in duplicates(facts):
        (problems if is_leak else warnings).append(line)
    for line in [f"warning: {line}" for line in warnings] + problems:
        print(line)
    print(f"{len(facts)} pairs, " + (f"{len(problems)} problem(s)" if problems else "sound"))
    return not problems, n_channels or max((pair.channels for pair in facts), default=1), n_classes
