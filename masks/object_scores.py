"""How well the objects of a prediction match those of its label.

    isbi_scores(probability, label)              V_rand, V_info, pixel error at each threshold
    at_best_threshold([isbi_scores(...), ...])   of a set of images, at the set's best threshold
    instance_scores(prediction, label)           AJI, DQ, SQ, PQ, binary Dice of numbered objects
    OBJECT_SCORES                                which of these a run on numbered objects shows

The first two are ISBI 2012's scores for cells, after border thinning: Arganda-Carreras et al.,
"Crowdsourcing the creation of image segmentation algorithms for connectomics", Frontiers in
Neuroanatomy 9:142, 2015.  The third are CoNSeP's for nuclei: Graham et al., "HoVer-Net", Medical
Image Analysis 58:101563, 2019.
"""
import math
from typing import NamedTuple

import numpy as np
import scipy  # its parts load when they are first used: so --help stays fast

THRESHOLDS = np.arange(11) / 10
COUNTED = 4  # numbers up to so many times the pixels are counted in a table: sorting is slower


class ObjectScore(NamedTuple):
    """A score of `instance_scores`, from 0 (worst) to 1 (best), as a run shows it."""
    key: str     # in dicts of scores, and the CSV's column
    title: str   # for people: in the log, in tables, on the page
    tag: str     # in TensorBoard
    colour: str  # of its line in the curves
    curve: str   # the name of that line


OBJECT_SCORES = (
    ObjectScore("aji", "AJI", "scores/AJI", "#ff7f0e", "AJI"),
    ObjectScore("pq", "PQ", "scores/PQ", "#8c564b", "PQ"),
)


def known_pixels(prediction, label, ignore_label=None):
    """(prediction, label) as flat arrays, without the pixels whose label is `ignore_label`.

    Raises ValueError for shapes that differ.
    """
    prediction, label = np.asarray(prediction), np.asarray(label)
    if prediction.shape != label.shape:
        raise ValueError(f"prediction {prediction.shape} and label {label.shape} differ in shape")
    known = slice(None) if ignore_label is None else label.ravel() != ignore_label
    return prediction.ravel()[known], label.ravel()[known]


class Overlaps(NamedTuple):
    """The pairs of values that two arrays have at the same places.  Its arrays are (P,) int64."""
    first: np.ndarray   # of each pair, the value in the first array
    second: np.ndarray  # the value in the second
    count: np.ndarray   # at how many places


def overlaps(first, second):
    """The Overlaps of two arrays of integers >= 0, of one shape, sorted."""
    span = int(second.max(initial=0)) + 1
    pairs = first.astype(np.int64) * span + second
    if pairs.max(initial=0) <= COUNTED * pairs.size:
        every = np.bincount(pairs.ravel())
        pairs = np.flatnonzero(every)
        counts = every[pairs]
    else:
        pairs, counts = np.unique(pairs, return_counts=True)
    return Overlaps(pairs // span, pairs % span, counts)


# -------------------------------------------------------------------------------------- ISBI 2012
def thin_borders(mask):
    """Let the 4-connected components of a mask grow until borders of one pixel part them.

    mask: (H, W) bool.  Returns (H, W) int32: a number for each region, 0 on a border.
    The components grow in step, by watershed, as in the challenge's program.  For that program a
    mask of one value is a single region without a border.
    """
    components, count = scipy.ndimage.label(mask)
    if count < 2:
        return np.ones(mask.shape, np.int32)
    from skimage.segmentation import watershed
    return watershed(~mask, components, connectivity=1, watershed_line=True)


def rand_and_information(proposal, truth):
    """Foreground-restricted V_rand and V_info: two floats in [0, 1].

    Arganda-Carreras et al. 2015, equations 3 and 6, with alpha = 0.5:

        V_rand = sum p_ij^2 / (alpha sum s_i^2 + (1 - alpha) sum t_j^2)
        V_info = I(S; T) / ((1 - alpha) H(S) + alpha H(T))

    p_ij: the probability that a pixel of the true foreground lies in region i of the proposal S and
    in region j of the truth T.  s_i, t_j: its sums.  H: entropy.  I: mutual information.  With
    alpha = 0.5 each is the F-score of its split score (alpha 0) and its merge score (alpha 1).
    Every border pixel of the proposal is a region of its own.

    proposal, truth: (H, W) integers, numbered regions, 0 is border.  Both are NaN where the truth
    has no region.  V_info is 1 where both have a single one.
    """
    foreground = truth > 0
    true_region, region, counts = overlaps(truth[foreground], proposal[foreground])
    pixels = counts.sum()
    if pixels == 0:
        return math.nan, math.nan
    p, grown = counts / pixels, region > 0
    border = p[~grown].sum()  # in regions of probability 1 / pixels
    joint, s = p[grown], np.bincount(region[grown], p[grown])
    t = np.bincount(true_region, p)
    squares_s = (s ** 2).sum() + border / pixels
    v_rand = 2 * ((joint ** 2).sum() + border / pixels) / (squares_s + (t ** 2).sum())
    joint_entropy = _entropy(joint) + border * math.log(pixels)
    entropies = _entropy(s) + border * math.log(pixels) + _entropy(t)
    v_info = 2 * (entropies - joint_entropy) / entropies if entropies > 0 else 1.0
    return float(v_rand), max(0.0, float(v_info))


def _entropy(p):
    p = p[p > 0]
    return -(p * np.log(p)).sum()


def isbi_scores(probability, label, ignore_label=None):
    """ISBI 2012's scores of one image: dict v_rand, v_info, pixel_error of (11,) arrays.

    probability: (H, W) floats in [0, 1], how probably a pixel is cell.  label: (H, W), cell is
    above 0; pixels of the value `ignore_label` count nowhere.

    There is one value for each of THRESHOLDS.  The pixels above it become regions (`thin_borders`)
    and are compared with the label's 4-connected components (`rand_and_information`).  pixel_error
    is the share of wrong pixels, without thinning.  A mask, of nothing but 0 and 1, is the same at
    every threshold, as in the challenge's program.

    NaN where nothing is left to count.  Raises ValueError for shapes that differ.
    """
    probability, label = np.asarray(probability), np.asarray(label)
    if probability.shape != label.shape or label.ndim != 2:
        raise ValueError(f"probability {probability.shape} and label {label.shape} "
                         "must be (H, W), of one shape")
    known = np.ones(label.shape, bool) if ignore_label is None else label != ignore_label
    cells = (label > 0) & known
    truth = scipy.ndimage.label(cells)[0]
    is_mask = ((probability == 0) | (probability == 1)).all()  # above threshold 1 it would be empty
    rows, previous = [], None
    for threshold in THRESHOLDS:
        mask = probability > (0 if is_mask else threshold)
        if previous is None or (mask != previous).any():
            wrong = (mask != cells)[known]
            v_rand, v_info = rand_and_information(thin_borders(mask), truth)
            row = v_rand, v_info, wrong.mean() if wrong.size else math.nan
        rows.append(row)
        previous = mask
    return dict(zip(("v_rand", "v_info", "pixel_error"), np.array(rows).T))


def at_best_threshold(many):
    """`isbi_scores` of a set of images -> ([dict of floats, one per image], {score: threshold}).

    Each score has one threshold for the whole set: of those with the best mean over the images, the
    lowest, as in the challenge.  A threshold for each image would need that image's label, which a
    new image does not have.  An image for which a score is undefined (NaN) has no say.
    """
    best = {}
    for key in many[0]:
        totals = np.nansum([one[key] for one in many], axis=0)
        best[key] = int(totals.argmin() if key == "pixel_error" else totals.argmax())
    at_best = [{key: float(one[key][index]) for key, index in best.items()} for one in many]
    return at_best, {key: float(THRESHOLDS[index]) for key, index in best.items()}


# ----------------------------------------------------------------------------------------- CoNSeP
def instance_scores(prediction, label, ignore_label=None):
    """CoNSeP's scores of one image's objects: dict aji, dq, sq, pq, binary_dice of floats.

    All lie in [0, 1].  They are 1 without objects in both, 0 without objects in one of the two.

    AJI (Kumar et al., IEEE Transactions on Medical Imaging 36(7), 2017, algorithm 1): each true
    object chooses the predicted one of the largest Jaccard index.  Two may choose the same.  The
    intersections of these pairs, summed, are divided by their unions, summed.  To the unions the
    pixels are added of each predicted object that none chose, and of each true object that nothing
    overlaps.

    DQ, SQ, PQ (Kirillov et al., "Panoptic segmentation", CVPR 2019, equation 1): two objects match
    where their IoU is above 0.5.  DQ = TP / (TP + FP / 2 + FN / 2).  SQ = mean IoU of the matches,
    0 without any.  PQ = DQ SQ.

    binary_dice: Dice of the foregrounds, whichever object a pixel belongs to.

    prediction, label: (H, W) integers; the pixels of an object share a number, 0 is background.
    Pixels where the label is `ignore_label` are dropped from both.
    Raises ValueError for shapes that differ, other dtypes and negative numbers.
    """
    prediction, label = _number_objects(prediction, label, ignore_label)
    return scores_of_overlaps(overlaps(label, prediction))


def scores_of_overlaps(pairs):
    """`instance_scores` from the Overlaps of a label (first) and a prediction (second).

    0 is background.  Raises nothing: `instance_scores` checks what it counts.
    """
    true, found, shared = pairs
    true_area = np.bincount(true, shared, minlength=1)
    found_area = np.bincount(found, shared, minlength=1)
    true_area[0] = found_area[0] = 0  # background
    n_true, n_found = np.count_nonzero(true_area), np.count_nonzero(found_area)
    if n_true == 0 and n_found == 0:
        return dict.fromkeys(("aji", "dq", "sq", "pq", "binary_dice"), 1.0)
    objects = (true > 0) & (found > 0)
    true, found, shared = true[objects], found[objects], shared[objects]
    union = true_area[true] + found_area[found] - shared

    matches = 2 * shared > union
    dq = 2 * np.count_nonzero(matches) / (n_true + n_found)
    sq = (shared[matches] / union[matches]).mean() if matches.any() else 0.0

    by_jaccard = np.lexsort((-shared / union, true))
    first_of_each = np.unique(true[by_jaccard], return_index=True)[1]
    chosen = by_jaccard[first_of_each]  # the best pair of each true object
    missed = true_area.sum() - true_area[true[chosen]].sum()
    unused = found_area.sum() - found_area[np.unique(found[chosen])].sum()
    aji = shared[chosen].sum() / (union[chosen].sum() + missed + unused)

    dice = 2 * shared.sum() / (true_area.sum() + found_area.sum())
    return {"aji": float(aji), "dq": float(dq), "sq": float(sq), "pq": float(dq * sq),
            "binary_dice": float(dice)}


def _number_objects(prediction, label, ignore_label):
    """(prediction, label) as flat arrays of the pixels that count, objects numbered 1, 2, ..."""
    prediction, label = known_pixels(prediction, label, ignore_label)
    for name, array in (("prediction", prediction), ("label", label)):
        if array.dtype.kind not in "biu" or array.min(initial=0) < 0:
            raise ValueError(f"{name}: expected integers >= 0")
    return renumber(prediction), renumber(label)


def renumber(objects):
    """The same objects of a flat array, numbered 1, 2, ... without gaps; 0 stays 0."""
    if objects.max(initial=0) <= COUNTED * objects.size:
        objects = objects.astype(np.int64)  # a bool array would be taken for a mask below
        occurs = np.bincount(objects, minlength=1) > 0
        occurs[0] = True
        return (np.cumsum(occurs) - 1)[objects]
    return np.unique(np.append(0, objects), return_inverse=True)[1][1:]
