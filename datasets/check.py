"""Check a data set before training: say that it is sound, or name every file that is not.

`python MakeData.py check` calls `check_set`.  Files listed in the manifest of DataAugmentation.py
are copies: they are checked too, but are no duplicates of anything.
"""
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from command.bars import progress_bar
from command.errors import DataError
from datasets.copies import Manifest
from datasets.facts import ImageFacts, LabelFacts
from datasets.label_kinds import decide_kind, describe_border, object_facts
from datasets.label_rules import LabelSplit, judge_labels, name_some, refused_labels
from datasets.mixtures import find_mixtures
from datasets.pairs import SPLITS
from datasets.survey import needed_channels
from images.formats import check_same_size, list_images


class PairFacts(NamedTuple):
    """A pair of the set, and what is known of it."""
    image_path: Path
    label_path: Path
    split: str
    is_copy: bool      # made by DataAugmentation.py
    image: ImageFacts
    label: LabelFacts
    values: dict       # {label value: its number of pixels}, without --ignore_label's

    @property
    def channels(self):
        """Channels that the net needs: 1 for grey values, however stored."""
        return needed_channels([self.image])


class Verdict(NamedTuple):
    """What `check_set` has found."""
    is_sound: bool
    n_channels: int
    n_classes: int
    label_kind: str


# -------------------------------------------------------------------------------- reading the set
def list_split(folder, problems):
    """The (image, label) paths of a split's folder.

    Files without a partner are added to the `problems`.
    """
    images, labels = (list_images(folder / kind) for kind in ("imgs", "labels"))
    for stem in sorted(images.keys() ^ labels.keys()):
        path, partner = (images[stem], "label") if stem in images else (labels[stem], "image")
        problems.append(f"{path}: no {partner} of this name")
    return [(path, labels[stem]) for stem, path in images.items() if stem in labels]


def read_set(folder, survey, problems, ignore_label):
    """The PairFacts of all pairs that can be read; what cannot is added to the `problems`."""
    tasks = []
    for split in SPLITS:
        pairs = list_split(folder / split, problems)
        if not pairs:
            problems.append(f"{folder / split}: no pair of an image and a label")
        copies = Manifest(folder / split / "imgs", folder / split / "labels").own_files()
        tasks += [(pair, split, pair[0] in copies) for pair in pairs]
    found = []
    for pair, split, is_copy in progress_bar(tasks, "checking", unit="pair"):
        try:
            image, label = survey.image(pair[0]), survey.label(pair[1])
            check_same_size(pair[0], (image.height, image.width),
                            pair[1], (label.height, label.width))
        except DataError as error:
            problems.append(" ".join(str(error).split()))
            continue
        values = {value: pixels for value, pixels in label.values.items()
                  if value != ignore_label}
        found.append(PairFacts(*pair, split, is_copy, image, label, values))
    survey.save()
    return found


# ------------------------------------------------------------------------------------- the checks
def odd_images(pairs, n_channels):
    """Yield a line for each image that is constant, or of another kind than most or than asked for.

    n_channels: what --n_channels asks for, or None.
    """
    kinds = Counter(pair.image.kind for pair in pairs)
    usual = max(kinds, key=kinds.get, default=None)
    mixtures = find_mixtures({pair.image_path: pair.image for pair in pairs}, n_channels)
    for pair in pairs:
        kind = pair.image.kind
        suits = n_channels in (pair.channels, pair.image.channels)
        if pair.image.is_flat:
            yield f"{pair.image_path}: empty, all its pixels are equal"
        if pair.image_path in mixtures:
            yield mixtures[pair.image_path]
        elif n_channels and not suits:
            yield f"{pair.image_path}: {kind}, but --n_channels is {n_channels}"
        elif kind != usual:
            yield f"{pair.image_path}: {kind}, but most images are {usual}"


def sum_values(pairs):
    """The pixels of each label value over all pairs: Counter."""
    return sum((Counter(pair.values) for pair in pairs), Counter())


def find_duplicates(pairs):
    """Yield (line, whether the two are in different splits) for each original seen before."""
    first = {}
    for pair in pairs:
        other = pair if pair.is_copy else first.setdefault(pair.image.pixels, pair)
        if other is not pair:
            line = (f"{pair.image_path}: has the same pixels as {other.image_path}; "
                    "keep one of the two")
            yield line, other.split != pair.split


def doubtful_labels(pairs, expected):
    """Yield a line for what may be meant: an empty label, a class that no training label has.

    expected: the label_rules.Expected of the training labels, or None.
    """
    for pair in pairs:
        if len(pair.values) < 2:
            what = name_some([*pair.values]) or "ignored"
            yield f"{pair.label_path}: empty, all its pixels are {what}"
    training = [pair for pair in pairs if pair.split == SPLITS[0]]
    if training and expected.values:
        absent = sorted(expected.values - sum_values(training).keys())
        if absent:
            yield f"{training[0].label_path.parent}: {name_some(absent)} in no label"


# ------------------------------------------------------------------------------------ the verdict
def describe_split(split, pairs, label_kind="classes"):
    """What a split consists of, in one line."""
    copies = sum(pair.is_copy for pair in pairs)
    with_copies = f" and {copies} augmented copies" if copies else ""
    sizes = sorted({(pair.image.height, pair.image.width) for pair in pairs})
    ends = " to ".join(f"{height} x {width}" for height, width in sizes[:1] + sizes[1:][-1:])
    kinds = " and ".join(sorted({pair.image.kind for pair in pairs}))
    pixels = sum_values(pairs)
    start = f"{split}: {len(pairs) - copies} pairs{with_copies}, {ends} px, {kinds}, "
    if label_kind == "objects":
        objects = sum(len(pair.values.keys() - {0}) for pair in pairs)
        share = 1 - pixels[0] / max(1, pixels.total())
        return f"{start}{objects:,} objects in {share:.1%} of the pixels"
    shares = name_some([f"{value}: {pixels[value] / pixels.total():.1%}"
                        for value in sorted(pixels)])
    return f"{start}pixels with label {shares}"


def check_set(folder, survey, n_channels=None, n_classes=None, ignore_label=None,
              label_kind=None):
    """Print a data set's summary, warnings, and each thing that is not sound: Verdict.

    survey: a datasets.survey.Survey, which decodes what it does not know.  Pixels of the value
    `ignore_label` in a label are passed over, as in training.  What is not given is in the Verdict
    as found.  Raises DataError where a folder is missing or a manifest is damaged.
    """
    problems, warnings = [], []
    pairs = read_set(folder, survey, problems, ignore_label)
    kind, reason = decide_kind(survey, [pair.label_path for pair in pairs], label_kind, n_classes,
                               ignore_label)
    parts = {split: part for split in SPLITS
             if (part := [pair for pair in pairs if pair.split == split])}
    for split, part in parts.items():
        print(describe_split(split, part, kind))
    if reason:
        print(f"labels are {kind} ({reason})")
    splits = {split: LabelSplit(part[0].label_path.parent,
                                {pair.label_path: pair.values for pair in part})
              for split, part in parts.items()}
    judgement = judge_labels([*splits.values()], n_classes, kind)
    refused = [line for split, labels in splits.items()
               for line in refused_labels(labels, judgement.n_classes, ignore_label, kind,
                                          split != SPLITS[0])]
    problems += [*odd_images(pairs, n_channels), *judgement.problems, *refused]
    if kind == "objects" and SPLITS[0] in splits and not refused:
        training = [*splits[SPLITS[0]].files]
        print(describe_border(object_facts(survey, training, ignore_label)))
    warnings += doubtful_labels(pairs, judgement.expected[0] if pairs else None)
    for line, is_leak in find_duplicates(pairs):
        (problems if is_leak else warnings).append(line)
    for line in [f"warning: {line}" for line in warnings] + problems:
        print(line)
    print(f"{len(pairs)} pairs, {len(problems)} problem(s)" if problems
          else f"{len(pairs)} pairs, sound")
    channels = n_channels or max((pair.channels for pair in pairs), default=1)
    return Verdict(not problems, channels, judgement.n_classes, kind)
