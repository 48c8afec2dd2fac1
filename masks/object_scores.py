"""How well the objects of a prediction match those of its label: ISBI 2012's scores for cells, CoNSeP's for nuclei.

    isbi_scores(probability, label)              V_rand and V_info after border thinning, pixel error; per threshold
    at_best_threshold([isbi_scores(...), ...])   of a set of images, at the best threshold for the set
    instance_scores(prediction, label)           AJI, DQ, SQ, PQ, binary Dice of two maps of numbered objects

Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for connectomics", Frontiers in
Neuroanatomy 9:142, 2015 (ISBI 2012).  Graham et al., "HoVer-Net", Medical Image Analysis 58:101563, 2019 (CoNSeP).
"""
import math

import numpy as np
import scipy  # its parts load when they are first used, which keeps --help fast

THRESHOLDS = np.arange(11) / 10


def known_pixels(prediction, label, ignore_label=None):
    """(prediction, label) as flat arrays, without the pixels whose label is `ignore_label`.

    Raises ValueError for shapes that differ.
    """
    prediction, label = np.asarray(prediction), np.asarray(label)
    if prediction.shape != label.shape:
        raise ValueError(f"prediction {prediction.shape} and label {label.shape} differ in shape")
    known = slice(None) if ignore_label is None else label.ravel() != ignore_label
    return prediction.ravel()[known], label.ravel()[known]


def overlaps(first, second):
    """Each pair of values that two arrays of integers >= 0 have at one place: (first's, second's, count) arrays."""
    span = int(second.max(initial=0)) + 1
    pairs, counts = np.unique(first.astype(np.int64) * span + second, return_counts=True)
    return pairs // span, pairs % span, counts


# ---------------------------------------------------------------------------------------------------------- ISBI 2012
def thin_borders(mask):
    """Let the 4-connected components of a mask grow until borders of one pixel part them: (H, W) int32, 0 on a border.

    The components grow in step, by watershed, as in the challenge's program, for which a mask of one value is a single
    region without a border.
    """
    components, count = scipy.ndimage.label(mask)
    if count < 2:
        return np.ones(mask.shape, np.int32)
    from skimage.segmentation import watershed
    return watershed(~mask, components, connectivity=1, watershed_line=True)


def rand_and_information(proposal, truth):
    """Foreground-restricted V_rand and V_info of Arganda-Carreras et al. 2015, equations 3 and 6, with alpha = 0.5.

        V_rand = sum p_ij^2 / (alpha sum s_i^2 + (1 - alpha) sum t_j^2)
        V_info = I(S; T) / ((1 - alpha) H(S) + alpha H(T))

    p_ij: probability that a pixel of the true foreground lies in region i of the proposal S and in region j of the
    truth T; s_i, t_j: its sums; H: entropy; I: mutual information.  With alpha = 0.5 each is the F-score of its split
    score (alpha 0) and its merge score (alpha 1).  Every border pixel of the proposal is a region of its own.

    proposal, truth: (H, W) integer regions, 0 is border.  Returns two floats in [0, 1]; NaN where the truth has no
    region, V_info 1 where both have a single one.
    """
    foreground = truth > 0
    true_region, region, counts = overlaps(truth[foreground], proposal[foreground])
    pixels = counts.sum()
    if pixels == 0:
        return math.nan, math.nan
    p, grown = counts / pixels, region > 0
    border = p[~grown].sum()  # in regions of probability 1 / pixels
    joint, s, t = p[grown], np.bincount(region[grown], p[grown]), np.bincount(true_region, p)
    v_rand = 2 * ((joint ** 2).sum() + border / pixels) / ((s ** 2).sum() + border / pixels + (t ** 2).sum())
    joint_entropy, proposal_entropy = (_entropy(q) + border * math.log(pixels) for q in (joint, s))
    entropies = proposal_entropy + _entropy(t)
    v_info = 2 * (entropies - joint_entropy) / entropies if entropies > 0 else 1.0
    return float(v_rand), max(0.0, float(v_info))


def _entropy(p):
    p = p[p > 0]
    return -(p * np.log(p)).sum()


def isbi_scores(probability, label, ignore_label=None):
    """ISBI 2012's scores of one image: dict v_rand, v_info, pixel_error of (11,) arrays, one value per threshold.

    probability: (H, W) floats in [0, 1], of being cell; a mask, of nothing but 0 and 1, is the same at every threshold,
    as in the challenge's program.  label: (H, W), above 0 is cell; pixels of the value `ignore_label` count nowhere.  At
    each of THRESHOLDS the pixels above it become regions (`thin_borders`) and are compared with the label's 4-connected
    components (`rand_and_information`).  pixel_error: the fraction of pixels that are wrong, borders not thinned.  NaN
    where nothing is left to count.  Raises ValueError for shapes that differ.
    """
    probability, label = np.asarray(probability), np.asarray(label)
    if probability.shape != label.shape or label.ndim != 2:
        raise ValueError(f"probability {probability.shape} and label {label.shape} must be (H, W), of one shape")
    known = np.ones(label.shape, bool) if ignore_label is None else label != ignore_label
    cells = (label > 0) & known
    truth = scipy.ndimage.label(cells)[0]
    per_threshold, previous = [], None
    is_mask = ((probability == 0) | (probability == 1)).all()  # nothing in it is above 1: that would be another answer
    for threshold in THRESHOLDS:
        mask = probability > (0 if is_mask else threshold)
        if previous is None or (mask != previous).any():
            wrong = (mask != cells)[known]
            values = (*rand_and_information(thin_borders(mask), truth), wrong.mean() if wrong.size else math.nan)
        per_threshold.append(values)
        previous = mask
    return dict(zip(("v_rand", "v_info", "pixel_error"), np.array(per_threshold).T))


def at_best_threshold(many):
    """`isbi_scores` of a set of images -> ([dict of floats, one per image], {score: threshold}).

    Each score has one threshold for the whole set, the lowest of those with the best mean over the images, as in the
    challenge: a threshold for each image would need that image's label, which a new image does not have.  Images for
    which a score is undefined (NaN) have no say.
    """
    best = {}
    for key in many[0]:
        values = np.array([one[key] for one in many])
        totals = np.nansum(values, axis=0)
        best[key] = int(totals.argmin() if key == "pixel_error" else totals.argmax())
    return ([{key: float(one[key][index]) for key, index in best.items()} for one in many],
            {key: float(THRESHOLDS[index]) for key, index in best.items()})


# ------------------------------------------------------------------------------------------------------------- CoNSeP
def instance_scores(prediction, label, ignore_label=None):
    """CoNSeP's scores of one image's objects: dict aji, dq, sq, pq, binary_dice of floats in [0, 1].

    AJI (Kumar et al., IEEE Transactions on Medical Imaging 36(7), 2017, algorithm 1): each true object is matched with
    the predicted one of the largest Jaccard index; the matches' intersections, summed, over their unions, summed,
    together with the pixels of all predicted objects that no true object chose.  A true object that nothing overlaps
    adds its own pixels to the unions.  Two true objects may choose the same predicted one.

    DQ, SQ, PQ (Kirillov et al., "Panoptic segmentation", CVPR 2019, equation 1): two objects match where their IoU is
    above 0.5; DQ = TP / (TP + FP / 2 + FN / 2), SQ = mean IoU of the matches (0 without any), PQ = DQ SQ.

    binary_dice: of the foregrounds, whichever object a pixel belongs to.

    No object in both: all 1; in only one of the two: all 0.  prediction, label: (H, W) integers, an object's pixels
    share a number, 0 is background.  Pixels where the label is `ignore_label` are dropped from both.  Raises ValueError
    for shapes that differ and for other dtypes or negative numbers.
    """
    label, prediction = _checked_objects(prediction, label, ignore_label)
    true, found, shared = overlaps(label, prediction)
    true_area, found_area = np.bincount(true, shared, minlength=1), np.bincount(found, shared, minlength=1)
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
    chosen = by_jaccard[np.unique(true[by_jaccard], return_index=True)[1]]  # the best of each true object
    missed = true_area.sum() - true_area[true[chosen]].sum()
    unused = found_area.sum() - found_area[np.unique(found[chosen])].sum()
    aji = shared[chosen].sum() / (union[chosen].sum() + missed + unused)

    dice = 2 * shared.sum() / (true_area.sum() + found_area.sum())
    return {"aji": float(aji), "dq": float(dq), "sq": float(sq), "pq": float(dq * sq), "binary_dice": float(dice)}


def _checked_objects(prediction, label, ignore_label):
    """(label, prediction) as flat arrays of the pixels that count, objects numbered anew 1, 2, ..."""
    prediction, label = known_pixels(prediction, label, ignore_label)
    for name, array in (("prediction", prediction), ("label", label)):
        if array.dtype.kind not in "biu" or array.min(initial=0) < 0:
            raise ValueError(f"{name}: expected integers >= 0")
    return (np.unique(np.append(0, array), return_inverse=True)[1][1:] for array in (label, prediction))
