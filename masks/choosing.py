"""The threshold and the smallest object that suit held-out images: chosen after a training.

    score_cuts(logits, dataset, index, best_by)   what each Cut of a grid scores on one image
    choose_cut([scores of an image, ...])         the CutChoice for a set of images

A grid has hundreds of Cuts, so the best of them always looks better than the plain one, by chance.
Whether it is better is asked as by cross-validation (Stone 1974).  Each image in turn is left out.
The best Cut of all other images is tried on it, and its gain over the plain Cut is noted.  The best
Cut of all images is taken where the mean of these gains is larger than its standard error.
One image has no others, and nothing is chosen.
"""
import math
from typing import NamedTuple

import numpy as np

from datasets.labels import IGNORED
from datasets.objects import BORDER, give_back_border
from masks.answers import classes
from masks.object_scores import OBJECT_SCORES, Overlaps, overlaps, renumber, scores_of_overlaps
from masks.objects import connected_components, number_large
from masks.pixel_scores import scores_of_counts
from masks.score_rows import title_of
from nets.cut import Cut

CUTS_OF_PROBABILITY = tuple(k / 20 for k in range(1, 20))
SIZES = (0, *(2 ** k * half // 2 for k in range(2, 14) for half in (2, 3)))  # px: 4, 6, 8, 12, ...
EQUAL = 1e-9  # scores that differ by less are equal


# -------------------------------------------------------------------------------------- one image
def score_cuts(logits, dataset, index, best_by):
    """The score of each Cut on an image of a SegmentationSet of two classes.

    logits: (2, H, W) float32.  best_by: the score's key.
    Returns (thresholds, sizes) floats, of CUTS_OF_PROBABILITY and SIZES.
    """
    truth = dataset.objects(index) if dataset.are_objects else dataset.label(index)
    known = truth != IGNORED
    truth = renumber(truth[known])
    return np.array([_score_sizes(classes(logits, threshold), known, truth,
                                  BORDER if dataset.are_objects else 0, best_by)
                     for threshold in CUTS_OF_PROBABILITY])


def _score_sizes(class_map, known, truth, border, best_by):
    """The scores of a class map with each of SIZES as the smallest object: a list."""
    components = connected_components(class_map > 0)
    pixels = np.bincount(components.ravel())
    first, second, count = overlaps(truth, give_back_border(components, border)[known])
    found, numbers = [], None
    for smallest in SIZES:
        before, numbers = numbers, number_large(pixels, smallest)
        if np.array_equal(before, numbers):  # as for the size before
            found.append(found[-1])
            continue
        found.append(_score(Overlaps(first, numbers[second], count), best_by))
    return found


def _score(pairs, best_by):
    """A score of Overlaps of a label (first) and of an answer (second); 0 is background."""
    if best_by in [row.key for row in OBJECT_SCORES]:
        return scores_of_overlaps(pairs)[best_by]
    true, found, count = pairs.first > 0, pairs.second > 0, pairs.count
    counts = ([0, count[where].sum()] for where in (true & found, found, true))
    return scores_of_counts(*counts)[best_by]


# ---------------------------------------------------------------------------------- a set of images
class CutChoice(NamedTuple):
    """What suits a set of images."""
    best: Cut       # has the highest mean score
    score: float    # that score
    plain: float    # the score of the plain Cut
    is_real: bool   # whether more than chance speaks for `best`
    images: int

    @property
    def cut(self):
        """The Cut to take."""
        return self.best if self.is_real else Cut()

    def describe(self, best_by):
        """The choice in one line.  best_by: the score's key."""
        title = title_of(best_by)
        compared = f"{title} {self.score:.4f} instead of {self.plain:.4f}"
        images = f"{self.images} held-out image" + ("s" if self.images > 1 else "")
        if self.is_real:
            return f"Chosen on {images}: {self.best}: {compared}"
        stays = f"Threshold and smallest object stay as they are: on {images}"
        if self.best == Cut():
            return f"{stays} no others have a higher {title} than {self.plain:.4f}"
        return f"{stays} the best others ({self.best}: {compared}) may be chance"


def choose_cut(tables):
    """The CutChoice of the grid's Cut with the highest mean score.

    tables: of each image, (thresholds, sizes) as `score_cuts` gives it.  Of Cuts that are equally
    good the nearest to 0.5 is taken, then the one with the smaller object.
    """
    tables = np.asarray(tables)
    count, mean = len(tables), tables.mean(axis=0)
    plain = CUTS_OF_PROBABILITY.index(0.5), SIZES.index(0)
    best = _find_best(mean)
    gains = [table[_find_best((count * mean - table) / (count - 1))] - table[plain]
             for table in tables if count > 1]
    is_real = (best != plain and count > 1
               and np.mean(gains) > max(EQUAL, np.std(gains, ddof=1) / math.sqrt(count)))
    return CutChoice(Cut(CUTS_OF_PROBABILITY[best[0]], SIZES[best[1]]), float(mean[best]),
                  float(mean[plain]), bool(is_real), count)


def _find_best(scores):
    """The place (threshold, size) of the highest score, of equal ones the plainest."""
    places = np.argwhere(scores >= scores.max() - EQUAL).tolist()
    return min(map(tuple, places),
               key=lambda place: (abs(CUTS_OF_PROBABILITY[place[0]] - 0.5), place[1]))
