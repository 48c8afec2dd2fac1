"""Which pairs are held out: whole groups, in a seeded order."""
import re
from collections import Counter
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


def hold_back(pairs, fraction, seed, pattern=None):
    """Hold about `fraction` of the pairs back, in whole groups (see `group_of`): HeldBack.

    A copy that DataAugmentation.py made, also one that was stored anew since, is left out where
    its original is held back.  Copies choose nothing.  Raises DataError where there is only one
    group.
    """
    made = Manifest(*(path.parent for path in pairs[0]))
    originals = {stem_of(image): group_of(image, pattern) for image, _ in pairs
                 if not made.lists(image)}
    if len(set(originals.values())) < 2:
        what = "group" if pattern else "image"
        raise DataError(f"{pairs[0][0].parent}: only one {what}, nothing to hold back; "
                        "leave --val_fraction out")
    held = split_groups(list(originals.values()), fraction, seed)

    def is_held(image):
        stem = stem_of(image)
        return originals.get(original_of(stem) if made.lists(image) else stem) in held
    return HeldBack([pair for pair in pairs if not is_held(pair[0])],
                    [pair for pair in pairs if is_held(pair[0]) and not made.lists(pair[0])])
