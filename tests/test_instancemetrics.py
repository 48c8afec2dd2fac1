"""Scores of objects against their definitions and against cases counted by hand.

The definitions are spelled out pixel pair by pixel pair.
"""
import math
from itertools import product

import numpy as np
import pytest
from scipy import ndimage

from masks.object_scores import (THRESHOLDS, at_best_threshold, instance_scores, isbi_scores,
                                 rand_and_information, thin_borders)
from masks.objects import connected_components
from masks.score_rows import baselines_of_objects


def blobs(seed, shape=(24, 21), smoothness=1.2, share=0.4):
    """A random mask of a few components."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), smoothness)
    return field > np.quantile(field, share)


# ------------------------------------------------------------------------------- V_rand and V_info
def by_pairs_of_pixels(proposal, truth):
    """V_rand and V_info of the definition.

    It asks how probably two pixels, drawn at random with replacement, share a region.
    """
    foreground = [(t, ("border", place) if s == 0 else s) for place, (t, s) in
                  enumerate(zip(truth.ravel().tolist(), proposal.ravel().tolist())) if t > 0]
    pairs = list(product(foreground, repeat=2))
    same_t, same_s, same_both = (sum(same) / len(pairs) for same in zip(
        *((t1 == t2, s1 == s2, (t1, s1) == (t2, s2)) for (t1, s1), (t2, s2) in pairs)))
    split, merge = same_both / same_t, same_both / same_s

    def entropy(regions):
        shares = [regions.count(region) / len(regions) for region in set(regions)]
        return -sum(share * math.log(share) for share in shares)
    columns = [t for t, _ in foreground], [s for _, s in foreground], foreground
    h_t, h_s, h_both = map(entropy, columns)
    information = h_t + h_s - h_both
    return 2 * split * merge / (split + merge), 2 * information / (h_s + h_t)


@pytest.mark.parametrize("seed", range(6))
def test_v_rand_and_v_info_equal_the_definition_by_pairs_of_pixels(seed):
    rng = np.random.default_rng(seed)
    proposal, truth = rng.integers(0, 4, (6, 7)), rng.integers(0, 4, (6, 7))
    found, expected = rand_and_information(proposal, truth), by_pairs_of_pixels(proposal, truth)
    assert found == pytest.approx(expected, abs=1e-12)
    renamed = rand_and_information(truth * 7, truth)
    assert renamed == pytest.approx((1, 1)), "names of regions do not matter"


def test_v_rand_by_hand():
    truth = np.array([[1, 1, 1, 1, 0, 2, 2, 2, 2]])
    merged = np.ones_like(truth)  # 64 pairs in S, 16 + 16 in T and in both
    assert rand_and_information(merged, truth) == pytest.approx((2 * 32 / (64 + 32), 0))
    split = np.array([[1, 1, 3, 3, 0, 2, 2, 2, 2]])  # 4 + 4 + 16 pairs in both and in S, 32 in T
    assert rand_and_information(split, truth)[0] == pytest.approx(2 * 24 / (24 + 32))
    # each border pixel is a region of its own: 4 + 1 + 1 + 16
    border = np.array([[1, 1, 0, 0, 0, 2, 2, 2, 2]])
    assert rand_and_information(border, truth)[0] == pytest.approx(2 * 22 / (22 + 32))
    outside = np.array([[1, 1, 1, 1, 5, 2, 2, 2, 2]])  # only the true foreground counts
    assert rand_and_information(outside, truth) == pytest.approx((1, 1))


def test_v_rand_and_v_info_at_their_edges():
    one = np.ones((3, 4), int)
    assert rand_and_information(one, one) == (1, 1)
    assert rand_and_information(np.arange(1, 13).reshape(3, 4), one)[1] == 0
    assert all(map(math.isnan, rand_and_information(one, 0 * one)))


# --------------------------------------------------------------------------------- border thinning
@pytest.mark.parametrize("seed", range(5))
def test_thinned_borders_are_one_pixel_wide_and_part_one_region_per_component(seed):
    mask = blobs(seed, (60, 50), smoothness=2, share=0.6)
    components, count = ndimage.label(mask)
    regions = thin_borders(mask)
    assert count > 3 and regions.max() == count
    for region in range(1, count + 1):
        assert ndimage.label(regions == region)[1] == 1, "one region for each component"
        assert (regions[components == region] == region).all(), "which it contains"
    for first, second in ((regions[1:], regions[:-1]), (regions[:, 1:], regions[:, :-1])):
        assert ((first == second) | (first == 0) | (second == 0)).all(), "no two regions touch"
    padded = np.pad(regions, 1)
    for row, column in np.argwhere(regions == 0):
        around = set(padded[row:row + 3, column:column + 3].ravel()) - {0}
        assert len(around) >= 2, "every border pixel parts two regions"


def test_components_grow_in_step():
    mask = np.zeros((9, 21), bool)
    # columns 2 ... 16 between them: the border is the eighth of these fifteen
    mask[:, :2] = mask[:, 17:] = True
    regions = thin_borders(mask)
    assert (regions[:, :9] == 1).all() and (regions[:, 9] == 0).all()
    assert (regions[:, 10:] == 2).all()


def test_a_slanting_border_is_one_pixel_wide():
    row, column = np.indices((20, 20))
    assert ((thin_borders(abs(row - column) > 3) == 0) == (row == column)).all()


@pytest.mark.parametrize("value", [True, False])
def test_a_mask_of_one_value_is_one_region(value):
    assert (thin_borders(np.full((4, 5), value)) == 1).all()


def test_diagonal_neighbours_are_two_cells():
    mask = np.eye(2, dtype=bool)
    assert len(set(thin_borders(mask)[mask])) == 2


# --------------------------------------------------------------------------------- ISBI 2012's set
def test_isbi_scores_are_those_of_each_threshold():
    label = blobs(1, share=0.5)
    smooth = ndimage.gaussian_filter(label.astype(float), 1.0)
    probability = np.clip(smooth, 0, 1).astype(np.float32)
    found = isbi_scores(probability, label * 255)
    assert THRESHOLDS.tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1])
    for k, threshold in enumerate(THRESHOLDS):
        mask = probability > threshold
        expected = rand_and_information(thin_borders(mask), ndimage.label(label)[0])
        assert (found["v_rand"][k], found["v_info"][k]) == pytest.approx(expected)
        assert found["pixel_error"][k] == pytest.approx((mask != label).mean())
    assert len(set(found["v_rand"])) > 5, "the thresholds make a difference"


def test_borders_of_any_width_score_the_same():
    grid = np.ones((40, 40), bool)
    grid[13:15] = grid[:, 19:21] = False
    wide = ndimage.binary_erosion(grid, np.ones((3, 3)), iterations=2)
    found = isbi_scores(wide, grid)
    assert found["v_rand"][0] > 0.96 and found["pixel_error"][0] > 0.2
    merged = grid.copy()
    merged[13:15, 5] = True  # one gap: two of the four cells become one
    found = isbi_scores(merged, grid)
    assert found["v_rand"][0] < 0.85 and found["pixel_error"][0] < 0.01


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_a_mask_is_one_answer_at_every_threshold(dtype):
    """At threshold 1 it would be empty, which scores better where there is little foreground."""
    label = np.zeros((8, 10), bool)
    label[2, 3] = True
    found = isbi_scores(np.ones(label.shape, dtype), label)
    assert (found["pixel_error"] == 79 / 80).all()
    assert (isbi_scores(label.astype(dtype), label)["pixel_error"] == 0).all()


def test_isbi_scores_leave_ignored_pixels_out():
    label = blobs(2) * 1
    probability = np.random.default_rng(0).random(label.shape)
    marked = label.copy()
    marked[:9] = 7
    found = isbi_scores(probability, marked, ignore_label=7)
    cells = np.where(marked == 7, 0, label)
    truth = ndimage.label(cells)[0]
    for k in (2, 5):
        mask = probability > THRESHOLDS[k]
        expected = rand_and_information(thin_borders(mask), truth)
        assert (found["v_rand"][k], found["v_info"][k]) == pytest.approx(expected)
        assert found["pixel_error"][k] == pytest.approx((mask[9:] != label[9:]).mean())
    everything = isbi_scores(probability, marked * 0 + 7, ignore_label=7)
    assert all(np.isnan(values).all() for values in everything.values())


def test_the_set_shares_one_threshold_per_score():
    many = [{"v_rand": np.array([0.9, 0.8, 0.1]), "pixel_error": np.array([0.3, 0.1, 0.1])},
            {"v_rand": np.array([0.3, 0.8, 0.9]), "pixel_error": np.array([0.1, 0.4, 0.2])},
            {"v_rand": np.full(3, math.nan), "pixel_error": np.array([0.2, 0.2, 0.2])}]
    per_image, thresholds = at_best_threshold(many)
    assert thresholds == {"v_rand": 0.1, "pixel_error": 0.2}
    assert [row["pixel_error"] for row in per_image] == [0.1, 0.2, 0.2]
    assert [row["v_rand"] for row in per_image[:2]] == [0.8, 0.8]
    assert math.isnan(per_image[2]["v_rand"])
    equal = at_best_threshold([{"v_rand": np.array([0.2, 0.7, 0.7])}])
    assert equal[1] == {"v_rand": 0.1}, "the lowest of the best"


@pytest.mark.parametrize("probability, label", [
    (np.zeros((3, 4)), np.zeros((4, 3))), (np.zeros(5), np.zeros(5))])
def test_isbi_scores_refuse_what_does_not_fit(probability, label):
    with pytest.raises(ValueError):
        isbi_scores(probability, label)


# --------------------------------------------------------------------------------------- instances
def strip(*runs):
    """A (1, W) map from runs of (number, length)."""
    return np.concatenate([np.full(length, number) for number, length in runs])[None]


def scores(aji, dq, sq, dice):
    return pytest.approx({"aji": aji, "dq": dq, "sq": sq, "pq": dq * sq, "binary_dice": dice})


def test_identical_objects():
    label = strip((1, 4), (0, 2), (2, 3), (9, 5))  # 2 and 9 touch
    assert instance_scores(label, label) == scores(1, 1, 1, 1)
    renamed = np.where(label == 9, 1000, label)
    assert instance_scores(renamed, label) == scores(1, 1, 1, 1), "numbers are only names"


def test_touching_objects_merged_into_one():
    label, merged = strip((1, 4), (2, 6), (0, 2)), strip((5, 10), (0, 2))
    # IoU 4/10 and 6/10: one match; both true objects choose the merged one: (4 + 6) / (10 + 10)
    assert instance_scores(merged, label) == scores(10 / 20, 1 / (1 + 1 / 2), 6 / 10, 1)


def test_an_object_split_in_two():
    label, split = strip((1, 10), (0, 2)), strip((1, 7), (2, 3), (0, 2))
    # the larger half matches (IoU 7/10); the other adds its 3 pixels to the union
    assert instance_scores(split, label) == scores(7 / 13, 1 / (1 + 1 / 2), 7 / 10, 1)


def test_missed_and_invented_objects():
    label = strip((1, 4), (0, 2), (2, 6), (0, 4))
    prediction = strip((0, 6), (1, 6), (0, 1), (2, 3))
    # object 2 is found exactly, object 1 (4 px) is missed, one of 3 px is invented
    dq = 1 / (1 + 1 / 2 + 1 / 2)
    assert instance_scores(prediction, label) == scores(6 / (6 + 4 + 3), dq, 1, 12 / 19)


def test_the_best_match_is_by_jaccard_index_not_by_overlap():
    label, prediction = strip((1, 5), (0, 17)), strip((1, 2), (2, 20))
    # the large one shares 3 px of 22, the small one 2 of 5
    assert instance_scores(prediction, label) == scores(2 / (5 + 20), 0, 0, 10 / 27)


def test_a_shifted_object_at_and_above_half():
    label, half = strip((1, 6), (0, 9)), strip((0, 2), (1, 6), (0, 7))
    above = strip((0, 1), (1, 6), (0, 8))
    assert instance_scores(half, label) == scores(4 / 8, 0, 0, 8 / 12), "IoU 0.5 is no match"
    assert instance_scores(above, label) == scores(5 / 7, 1, 5 / 7, 10 / 12)


def test_without_objects():
    label, empty = strip((1, 4), (0, 3)), strip((0, 7))
    assert instance_scores(empty, empty) == scores(1, 1, 1, 1)
    assert instance_scores(empty, label) == instance_scores(label, empty) == scores(0, 0, 0, 0)


def test_ignored_pixels_are_dropped_from_both():
    label, prediction = strip((1, 4), (99, 3), (2, 5)), strip((1, 4), (3, 3), (2, 4), (0, 1))
    dropped = instance_scores(*(np.delete(array, slice(4, 7), 1) for array in (prediction, label)))
    found = instance_scores(prediction, label, ignore_label=99)
    assert found == dropped == scores(8 / 9, 1, (1 + 4 / 5) / 2, 16 / 17)
    assert instance_scores(prediction, label * 0 + 99, ignore_label=99) == scores(1, 1, 1, 1)


def by_sets_of_pixels(prediction, label):
    """AJI (Kumar et al. 2017, algorithm 1), DQ, SQ with objects as Python sets."""
    theirs, ours = ([set(np.flatnonzero(array == number)) for number in np.unique(array[array > 0])]
                    for array in (label, prediction))
    intersection = union = 0
    used = set()
    for true in theirs:
        jaccard = [len(true & found) / len(true | found) for found in ours]
        best = int(np.argmax(jaccard))
        if jaccard[best] == 0:
            union += len(true)
            continue
        intersection, union = intersection + len(true & ours[best]), union + len(true | ours[best])
        used.add(best)
    union += sum(len(found) for number, found in enumerate(ours) if number not in used)
    ious = [len(true & found) / len(true | found) for true in theirs for found in ours]
    matched = [iou for iou in ious if iou > 0.5]
    only_ours, only_theirs = len(ours) - len(matched), len(theirs) - len(matched)
    dq = len(matched) / (len(matched) + only_ours / 2 + only_theirs / 2)
    return intersection / union, dq, np.mean(matched) if matched else 0


@pytest.mark.parametrize("seed", range(8))
def test_instance_scores_equal_sets_of_pixels(seed):
    label = connected_components(blobs(seed, smoothness=1, share=0.7)) * 3
    shifted = np.roll(blobs(seed, smoothness=1, share=0.66 + 0.01 * seed), seed % 3, axis=1)
    prediction = connected_components(shifted)
    aji, dq, sq = by_sets_of_pixels(prediction, label)
    dice = 2 * ((prediction > 0) & (label > 0)).sum() / ((prediction > 0).sum() + (label > 0).sum())
    assert label.max() > 6
    assert instance_scores(prediction.astype(np.uint16), label) == scores(aji, dq, sq, dice)


@pytest.mark.parametrize("seed", range(3))
def test_large_numbers_are_names_too(seed):
    """Numbers far above the count of pixels are sorted, small ones looked up in a table."""
    label, prediction = (connected_components(blobs(seed + k, smoothness=1, share=0.6))
                         for k in (0, 1))
    expected = instance_scores(prediction, label)
    assert 0 < expected["aji"] < 1
    large = prediction.astype(np.int64) * 2 ** 33, label.astype(np.uint64) * 2 ** 40
    for one, other in ((large[0], label), (prediction, large[1]), large):
        assert instance_scores(one, other) == expected
    mask = prediction > 0
    assert instance_scores(mask, label) == instance_scores(mask.astype(int), label)


def test_baselines_of_objects_are_scores_of_constant_answers():
    """The labels: three objects, one of them most of the image; none; ignored pixels; only one."""
    labels = [strip((1, 9), (0, 2), (2, 3), (9, 1)), strip((0, 5)), strip((4, 5), (-1, 3), (0, 3)),
              strip((1, 4)), strip((-1, 4))]
    sizes = [[(label == 0).sum(), *np.unique(label[label > 0], return_counts=True)[1]]
             for label in labels]
    found = baselines_of_objects(sizes)
    assert list(found) == ["all foreground", "all background"]
    for name, answer in (("all foreground", 1), ("all background", 0)):
        each = [instance_scores(np.full_like(label, answer), label, -1) for label in labels]
        for key in ("aji", "pq"):
            assert found[name][key] == pytest.approx(np.mean([one[key] for one in each]))
    # by hand: 13 of 3 x 15 px, and one match of three; 0; 5 of 8 px; all; nothing is left: 1
    assert found["all foreground"]["aji"] == pytest.approx((13 / 45 + 0 + 5 / 8 + 1 + 1) / 5)
    assert found["all foreground"]["pq"] == pytest.approx((9 / 15 / 2 + 0 + 5 / 8 + 1 + 1) / 5)
    assert found["all background"] == {"aji": 0.4, "pq": 0.4}


@pytest.mark.parametrize("prediction, label", [
    (strip((1, 3)), strip((1, 4))), (strip((1, 3)) * 0.5, strip((1, 3))),
    (-strip((1, 3)), strip((1, 3)))])
def test_instance_scores_refuse_what_does_not_fit(prediction, label):
    with pytest.raises(ValueError):
        instance_scores(prediction, label)


def test_components_are_8_connected():
    mask = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1]])
    expected = [[1, 0, 0], [0, 1, 0], [0, 0, 0], [2, 2, 2]]
    assert connected_components(mask).tolist() == expected
