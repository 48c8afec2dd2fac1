"""What the values of a set's labels mean, and which of them do not suit that.

Main.py and `MakeData.py check` ask here, so that both say the same.  A line about what does not
suit is an error in `check`.  Main.py warns, and trains where it can.

With two classes every value above 0 is foreground.  Labels are masks, of two classes, where each
split has one value above 0, or 255 with soft edges.  That value may differ between the splits.
All other labels hold class numbers, 0, 1, 2 ... without a gap.
"""
from itertools import count
from pathlib import Path
from typing import NamedTuple, Optional

from command.errors import DataError
from datasets.label_values import (MOST_CLASSES, classes_in, foreground_of, too_many_classes,
                                   total_values)
from datasets.labels import check_label, check_objects, check_some_counts

MOST_SHOWN = 8     # label values in one line
MOST_WARNINGS = 3  # about labels, before a training


class LabelSplit(NamedTuple):
    """The labels of a split."""
    folder: Path  # where they lie, for people
    files: dict   # {path: its `count_values`, without those to ignore}; not empty

    @property
    def total(self):
        """The `total_values` of all files."""
        return total_values(self.files.values())


class Expected(NamedTuple):
    """What the labels of a split should hold."""
    values: Optional[set] = None  # None: any
    in_words: str = ""            # the same, for people


class Judgement(NamedTuple):
    """What `judge_labels` has found."""
    n_classes: int
    problems: list  # lines about what does not suit
    refusal: str    # why nothing can be trained on these labels, or ""
    expected: list  # the Expected of each split


def read_splits(survey, splits, ignore_label):
    """The LabelSplits of [(image path, label path)] to train on and to test on.

    survey: a datasets.survey.Survey.  Pixels of the value `ignore_label` are left out.
    """
    return [LabelSplit(pairs[0][1].parent,
                       {label: _without(survey.label(label).values, ignore_label)
                        for _, label in pairs}) for pairs in splits]


def _without(values, ignore_label):
    return {value: pixels for value, pixels in values.items() if value != ignore_label}


def judge_labels(splits, n_classes=None, label_kind="classes"):
    """The Judgement of a set's labels.

    splits: LabelSplits, that to train on first.  n_classes: what a flag says, or None.
    """
    totals = [split.total for split in splits]
    found = n_classes or classes_in(totals, label_kind)
    expected = expect_values(splits, n_classes, label_kind)
    problems = []
    for split, each in zip(splits, expected):
        problems += odd_values(split, each)
    for split, total in zip(splits, totals):
        if all(len(values) < 2 for values in split.files.values()):
            problems.append(f"{split.folder}: every label is empty (has one value only)")
        elif found == 2 and label_kind == "classes" and 0 not in total:
            problems.append(f"{split.folder}: 0 is in no label: all would be foreground; store "
                            "the background as 0")
    refusal = ""
    if n_classes is None and found > MOST_CLASSES:
        largest = max(splits, key=lambda split: max(split.total, default=0))
        refusal = too_many_classes(found, largest.folder)
        problems = problems or [refusal]
    return Judgement(found, problems, refusal, expected)


def expect_values(splits, n_classes, label_kind):
    """The Expected of each split; parameters: of `judge_labels`."""
    if label_kind == "objects":
        return [Expected() for _ in splits]
    every = total_values(split.total for split in splits)
    masks = [foreground_of(counts).value or foreground_of(every).value
             for counts in (split.total for split in splits)]
    if n_classes == 2 or n_classes is None and all(masks):
        return [expect_mask(split.files, value, n_classes) for split, value in zip(splits, masks)]
    if n_classes:
        return [Expected(set(range(n_classes)), f"expected 0 ... {n_classes - 1}") for _ in splits]
    missing = next(value for value in count() if value not in every)
    in_words = f"but {missing} is in no label: expected 0 and 255, or 0, 1, ... without a gap"
    if 255 in every:
        in_words += "; --ignore_label 255 if that means: not labelled"
    return [Expected(set(range(max(2, missing))), in_words) for _ in splits]


def expect_mask(files, foreground, n_classes):
    """The Expected of masks, {path: values}; foreground: their value, or None.

    Where a flag asks for two classes, each file may have a value of its own.
    """
    has_one_each = all(len(values.keys() - {0}) < 2 for values in files.values())
    if n_classes == 2 and (has_one_each or not foreground):
        return Expected()
    in_words = f"expected 0 and {foreground}"
    if n_classes is None:
        in_words += "; --n_classes 2 takes every value above 0 for foreground"
    return Expected({0, foreground}, in_words)


def odd_values(split, expected):
    """Yield a line for each label of a LabelSplit that has other values than Expected."""
    for path, values in split.files.items():
        odd = [] if expected.values is None else sorted(values.keys() - expected.values)
        if odd:
            share = sum(values[value] for value in odd) / sum(values.values())
            yield f"{path}: {name_some(odd)} in {share:.2%} of its pixels, {expected.in_words}"


def refused_labels(split, n_classes, ignore_label, label_kind, is_tested):
    """Yield a line for each label that no training takes, whatever its classes.

    is_tested: whether answers are scored against the labels of the split.
    """
    for path, values in split.files.items():
        try:
            if label_kind == "objects":
                check_objects(path, max(values, default=0))
            else:
                check_label(path, 0, n_classes, ignore_label)
            if is_tested:
                check_some_counts(path, bool(values), ignore_label)
        except DataError as error:
            yield str(error)


def warn_of(problems):
    """Yield lines for a training's log about the problems of a Judgement: the first ones."""
    for line in problems[:MOST_WARNINGS]:
        yield f"warning: {line}"
    more = len(problems) - MOST_WARNINGS
    if more > 0:
        yield f"warning: {more} more such lines; python MakeData.py check shows them"


def name_some(words):
    """At most MOST_SHOWN of the words, in one line: "3, 4 and 250 more"."""
    shown = ", ".join(map(str, words[:MOST_SHOWN]))
    more = len(words) - MOST_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
