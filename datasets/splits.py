"""Which pairs are held out: whole groups, in a seeded order, or a fold of a partition."""
import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple, Optional

import numpy as np

from command.errors import DataError
from command.names import canonical, stem_of
from datasets.copies import Manifest, original_of


class SplitRule(NamedTuple):
    """How pairs are split into training and test."""
    test_fraction: float       # share of the pairs that become test pairs
    seed: int
    pattern: Optional[object]  # regular expression whose groups stay together, see `group_of`


@dataclass(frozen=True)
class Fold:
    """One of `count` parts of the training images, or each of them in turn."""
    number: Optional[int]  # from 0; None: each in turn
    count: int

    def __str__(self):
        return f"{'all' if self.number is None else self.number}/{self.count}"


class HeldBack(NamedTuple):
    """Training pairs, [(image path, label path)] each, after some were held back."""
    train: list
    held: list  # to choose the best model by


def group_of(path, pattern):
    """What the first group of the expression `pattern` matches in a file's `stem_of`.

    The stem itself without a pattern.  Raises DataError where it does not match.
    """
    stem = stem_of(path)
    if pattern is None:
        return stem
    match = re.search(canonical(pattern), stem)
    if not match or match[1] is None:
        raise DataError(f"{path}: --group {pattern} does not match its name; "
                        "change the expression")
    return match[1]


def split_groups(groups, fraction, seed):
    """The groups that are held out: a set of names.

    groups: the group of each pair.  They are taken in a seeded order, as many as bring their share
    of the pairs nearest to `fraction`; at least one, and not all.
    """
    sizes = Counter(groups)
    names = sorted(sizes)
    order = [names[k] for k in np.random.default_rng(seed).permutation(len(names))]
    shares = np.cumsum([sizes[name] for name in order])[:-1] / len(groups)
    return set(order[:1 + int(np.argmin(np.abs(shares - fraction)))])


class Originals:
    """The pairs of a training set, and the groups of those that DataAugmentation.py did not make.

    pairs: [(image path, label path)].  pattern: see `group_of`.  groups: {stem: group}.
    """

    def __init__(self, pairs, pattern):
        self.pairs, self.pattern = pairs, pattern
        self.made = Manifest(*(path.parent for path in pairs[0]))
        self.groups = {stem_of(image): group_of(image, pattern) for image, _ in pairs
                       if not self.made.lists(image)}

    @property
    def folder(self):
        return self.pairs[0][0].parent

    @property
    def what(self):
        """What a group is, for people."""
        return "group" if self.pattern else "image"

    def hold(self, held):
        """Hold the groups `held` back, a set: HeldBack.

        A copy that DataAugmentation.py made, also one that was stored anew since, is left out where
        its original is held back.  Copies choose nothing.
        """
        def is_held(image):
            stem = stem_of(image)
            return self.groups.get(original_of(stem) if self.made.lists(image) else stem) in held
        return HeldBack([pair for pair in self.pairs if not is_held(pair[0])],
                        [pair for pair in self.pairs
                         if is_held(pair[0]) and not self.made.lists(pair[0])])


def split_training(pairs, data, seed):
    """The HeldBack of a run.

    data: runs.settings.DataSettings, of which `fold`, `val_fraction` and `group` count.
    """
    if data.fold:
        return hold_fold(pairs, data.fold, data.group)
    if data.val_fraction:
        return hold_back(pairs, data.val_fraction, seed, data.group)
    return HeldBack(pairs, [])


def hold_back(pairs, fraction, seed, pattern=None):
    """Hold about `fraction` of the pairs back, in whole groups (see `group_of`): HeldBack.

    Raises DataError where there is only one group.
    """
    originals = Originals(pairs, pattern)
    groups = list(originals.groups.values())
    if len(set(groups)) < 2:
        raise DataError(f"{originals.folder}: only one {originals.what}, nothing to hold back; "
                        "leave --val_fraction out")
    return originals.hold(split_groups(groups, fraction, seed))


def hold_fold(pairs, fold, pattern=None):
    """Hold a Fold with a number back, in whole groups (see `group_of`): HeldBack.

    The folds of one count hold each original once.  Raises DataError as `deal_folds`.
    """
    originals = Originals(pairs, pattern)
    return originals.hold(deal_folds(originals, fold)[fold.number])


def deal_folds(originals, fold):
    """Deal the groups of Originals out to the folds that a Fold is one of: a list of sets of names.

    The largest group comes first, and each goes to the fold with the fewest originals so far.
    Names alone decide between equal groups, by their digests: no seed and no order of files does.
    Raises DataError where there are fewer groups than folds.
    """
    sizes = Counter(originals.groups.values())
    if len(sizes) < fold.count:
        raise DataError(f"{originals.folder}: --fold {fold} takes {fold.count} {originals.what}s "
                        f"or more, here are {len(sizes)}; give fewer folds")

    def precedence(name):
        return -sizes[name], hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    folds, filled = [set() for _ in range(fold.count)], [0] * fold.count
    for name in sorted(sizes, key=precedence):
        emptiest = filled.index(min(filled))
        folds[emptiest].add(name)
        filled[emptiest] += sizes[name]
    return folds
