"""The scores of a run: those of pixels, and for numbered objects those of objects too.

    rows_of_kind(label_kind)     the rows that a run on such labels has
    rows_of(scores, ...)         the rows that some dicts of scores have
    format_scores(scores)        a dict of scores as text
    baselines_of_set(...)        what constant answers would score on a data set

Log, CSV, curves, events and page ask here which scores there are.
"""
import numpy as np

from masks.object_scores import OBJECT_SCORES, Overlaps, scores_of_overlaps
from masks.pixel_scores import CHOOSING, SCORES, baselines_of_counts, mean_scores

ROWS = (*SCORES, *OBJECT_SCORES)  # all scores that a run may have, in the order of their columns


def rows_of_kind(label_kind):
    """The rows that a run has.  label_kind: "classes" or "objects"."""
    return ROWS if label_kind == "objects" else SCORES


def rows_of(*many):
    """The rows that any of these dicts has a score of; those of pixels where none has any."""
    return tuple(row for row in ROWS if any(row.key in each for each in many)) or SCORES


def distinct_rows(rows):
    """These rows without those that repeat another one: where there is no room for repetition."""
    return tuple(row for row in rows if row.curve)


CHOOSERS = tuple(row.key for row in distinct_rows(ROWS))  # by which the best model can be chosen
OF_OBJECTS = tuple(row.key for row in OBJECT_SCORES)  # those of them that need numbered objects


def title_of(key):
    """The title of the score with this key."""
    return next(row.title for row in ROWS if row.key == key)


def name_chooser(best_by):
    """" by PQ" where PQ chooses the best model; "" for IoU, which goes without saying."""
    return "" if best_by == CHOOSING else f" by {title_of(best_by)}"


def format_scores(values, rows=None, separator="  "):
    """A dict of scores as text: 'IoU 0.7000  Dice 0.8000  F1 0.8000'.

    rows: of the scores to name; None: all that the dict has.
    """
    return separator.join(f"{row.title} {values[row.key]:.4f}" for row in rows or rows_of(values))


def baselines_of_set(dataset, survey):
    """The mean scores of constant answers on a SegmentationSet.

    Returns {"all foreground": scores, "all background": scores}; see `baselines_of_counts`, and
    for numbered objects `baselines_of_objects`.  survey: a datasets.survey.Survey.
    """
    found = baselines_of_counts(dataset.class_counts(survey))
    if dataset.are_objects:
        for name, scores in baselines_of_objects(dataset.object_sizes(survey)).items():
            found[name].update(scores)
    return found


def baselines_of_objects(sizes):
    """The mean object scores of a constant answer: of one object everywhere, and of none.

    Returns {"all foreground": scores, "all background": scores}, with the keys of OBJECT_SCORES.
    sizes: for each image a list of pixel counts: of the background, and of each object, which has
    one or more.  Ignored pixels are left out.
    """
    found = {"all foreground": [], "all background": []}
    for counts in map(np.asarray, sizes):
        for answer, name in enumerate(("all background", "all foreground")):
            pairs = Overlaps(np.arange(len(counts)), np.full(len(counts), answer), counts)
            scores = scores_of_overlaps(pairs)
            found[name].append({row.key: scores[row.key] for row in OBJECT_SCORES})
    return {name: mean_scores(many) for name, many in found.items()}
