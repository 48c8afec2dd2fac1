"""datasets/objects: the border between touching objects against its definition, and its return."""
import numpy as np
import pytest
from nuclei import ellipses, random_objects

from datasets.labels import IGNORED
from datasets.objects import (LARGEST_NUMBER, BorderLoss, border_loss, count_pieces,
                              give_back_border, separation_border, training_target)
from masks.object_scores import instance_scores
from masks.objects import connected_components


def border_by_definition(objects, width):
    """For each pixel of an object: whether any pixel up to `width` away has another number."""
    found = np.zeros(objects.shape, bool)
    for row, column in np.argwhere(objects > 0):
        around = objects[max(row - width, 0):row + width + 1,
                         max(column - width, 0):column + width + 1]
        found[row, column] = np.any((around > 0) & (around != objects[row, column]))
    return found


def given_back_by_definition(components, width):
    """Lines between all pixels of all components, one background pixel after the other."""
    whole = components.copy()
    places = np.argwhere(components > 0)
    numbers = components[components > 0]
    for place in np.argwhere(components == 0):
        ways = places - place
        order = sorted((max(map(abs, way)), way[0] ** 2 + way[1] ** 2, *way, number)
                       for way, number in zip(ways.tolist(), numbers))
        if order and order[0][0] <= 2 * width:
            nearest = order[0][-1]
            is_near = np.abs(ways).max(axis=1) <= 2 * width
            if any(on_the_way(start, end, 2 * width + 1)
                   for start in ways[is_near & (numbers == nearest)]
                   for end in ways[is_near & (numbers != nearest)]):
                whole[tuple(place)] = nearest
    return whole


def on_the_way(start, end, longest):
    """Whether (0, 0) is a pixel of the line from start to end, which is `longest` px at most."""
    length = np.abs(end - start).max()
    points = np.linspace(start, end, length + 1)
    return length <= longest and (np.abs(points).max(axis=1) < 0.5 + 1e-9).any()


# ------------------------------------------------------------------------------------- the border
@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_border_by_definition(seed, width):
    objects = random_objects(seed)
    border = border_by_definition(objects, width)
    assert border.any() and not border.all()
    np.testing.assert_array_equal(separation_border(objects, width), border)
    target = training_target(objects, width)
    np.testing.assert_array_equal(target, np.where(border, 0, objects))
    assert target.dtype == objects.dtype
    assert not separation_border(target, width).any(), "no two objects touch"
    assert ((target == IGNORED) == (objects == IGNORED)).all()


def test_border_by_hand():
    side_by_side = np.array([[3, 3, 3, 9, 9, 9]])
    assert training_target(side_by_side).tolist() == [[3, 3, 0, 0, 9, 9]]
    assert training_target(side_by_side, 2).tolist() == [[3, 0, 0, 0, 0, 9]]
    by_a_corner = np.array([[7, 7, 0, 0], [7, 7, 0, 0], [0, 0, 2, 2], [0, 0, 2, 2]])
    assert training_target(by_a_corner).tolist() == [[7, 7, 0, 0], [7, 0, 0, 0],
                                                     [0, 0, 0, 2], [0, 0, 2, 2]]
    gap = np.array([[1, 1, 0, 2, 2]])
    assert training_target(gap).tolist() == gap.tolist(), "they do not touch"
    assert training_target(gap, 2).tolist() == [[1, 0, 0, 0, 2]]
    assert training_target(np.array([[5, IGNORED, 6]])).tolist() == [[5, IGNORED, 6]]
    for lonely in (np.zeros((3, 4), int), np.full((3, 4), 8), np.full((2, 2), IGNORED)):
        assert training_target(lonely).tolist() == lonely.tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint32, np.int64])
def test_largest_numbers(dtype):
    largest = min(np.iinfo(dtype).max, LARGEST_NUMBER)
    objects = np.array([[largest, largest, largest - 1, largest - 1]], dtype)
    assert training_target(objects).tolist() == [[largest, 0, 0, largest - 1]]
    apart = np.array([[largest, 0, 0, largest - 1]], dtype)
    assert give_back_border(apart).tolist() == objects.tolist()


# --------------------------------------------------------------------------------------- its return
@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_given_back_by_definition(seed, width):
    components = connected_components(random_objects(seed, (18, 21)) > 0)
    wanted = given_back_by_definition(components, width)
    assert (wanted != components).any()
    np.testing.assert_array_equal(give_back_border(components, width), wanted)


def test_given_back_by_hand():
    assert give_back_border(np.array([[4, 4, 0, 0, 5, 5]])).tolist() == [[4, 4, 4, 5, 5, 5]]
    wider = [[4, 0, 0, 0, 5]]
    assert give_back_border(np.array(wider)).tolist() == wider, "this gap is no border"
    assert give_back_border(np.array([[4, 0, 0, 0, 0, 5]]), 2).tolist() == [[4, 4, 4, 5, 5, 5]]
    one = np.pad(np.ones((5, 5), int), 3)
    one[4:7, 5] = 0
    assert give_back_border(one).tolist() == one.tolist(), "holes and outlines face background"
    notch = np.array([[0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 2], [1, 1, 0, 0, 2, 2]])
    whole = [[0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 2], [1, 1, 1, 2, 2, 2]]
    assert give_back_border(notch).tolist() == whole


@pytest.mark.parametrize("width, squares", [(1, [[1, 2], [3, 4]]), (2, [[1, 2]]), (2, [[1], [2]])])
def test_touching_squares_come_back(width, squares):
    objects = np.pad(np.kron(squares, np.ones((9, 9), int)), 5)
    components = connected_components(training_target(objects, width) > 0)
    assert components.max() == objects.max()
    np.testing.assert_array_equal(give_back_border(components, width), objects)


@pytest.mark.parametrize("seed", range(5))
def test_perfect_masks_of_touching_nuclei(seed):
    nuclei = ellipses(seed)
    whole = nuclei > 0
    assert connected_components(whole).max() < nuclei.max(), "some touch"
    components = connected_components(training_target(nuclei) > 0)
    without, scores = (instance_scores(objects, nuclei)
                       for objects in (components, give_back_border(components)))
    for key in ("aji", "pq"):
        assert scores[key] > 0.97 and scores[key] > without[key]


# --------------------------------------------------------------------------------------- the pieces
def test_pieces():
    objects = np.array([[5, 5, 0, 9], [0, 0, 0, 9], [5, 0, 9, 0], [0, 0, 0, IGNORED]])
    assert count_pieces(objects) == {5: 2, 9: 1}, "diagonal pixels are one piece"
    assert count_pieces(np.array([[5, 6, 5]])) == {5: 2, 6: 1}
    assert count_pieces(np.zeros((3, 3), int)) == {}


def test_border_loss():
    bar = np.array([[1, 1, 1, 1, 1, 1, 1]] * 3)
    assert border_loss(bar) == BorderLoss(0, 0)
    bar[1, 3] = 2  # a single pixel vanishes and leaves a hole
    assert border_loss(bar) == BorderLoss(1, 1)
    objects = np.zeros((9, 9), int)
    objects[3] = 1  # a line that others touch in its middle
    objects[4:, 4:6] = 2
    assert border_loss(objects) == BorderLoss(0, 1)
    objects[0, 0], objects[8, 0] = 7, 7  # two pieces from the start
    assert border_loss(objects) == BorderLoss(0, 1)
