"""datasets/drawn.py: what is drawn looks like the task; the same numbers give the same pixels."""
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from datasets.drawn import make_pair

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "sample"  # test_makedata.py draws it anew


def best_iou_of_a_threshold(image, label):
    """The IoU of `image > t` with the cells for the best of all t."""
    cell = label > 0
    above = [image > t for t in np.unique(np.rint(image))]
    return max((cell & mask).sum() / (cell | mask).sum() for mask in above)


@pytest.fixture(scope="module")
def pictures():
    """{"train/imgs/cell_01.png": pixels, ...} of the committed sample set."""
    return {path.relative_to(SAMPLE).as_posix(): np.asarray(Image.open(path))
            for path in sorted(SAMPLE.glob("*/*/cell_[0-9][0-9].png"))}


def test_neither_one_class_nor_a_threshold_solves_it(pictures):
    pairs = [(pixels.astype(float), pictures[name.replace("/imgs/", "/labels/")])
             for name, pixels in pictures.items() if "/imgs/" in name]
    cells = np.array([(label > 0).mean() for _, label in pairs])  # also the IoU of "all foreground"
    assert 0.70 < cells.mean() < 0.76 and (cells < 0.8).all()
    for sigma in (0, 1, 2):
        scores = [best_iou_of_a_threshold(ndimage.gaussian_filter(image, sigma), label)
                  for image, label in pairs]
        assert np.mean(scores) < 0.82, f"smoothed by {sigma}"


def test_membrane_is_darker_than_the_cell_beside_it(pictures):
    """What decides is there: across nearly every stretch of membrane the image gets darker."""
    for name in (name for name in pictures if "/imgs/" in name):
        image = pictures[name].astype(float)
        membrane = pictures[name.replace("/imgs/", "/labels/")] == 0
        inside, beside = (ndimage.gaussian_filter(image * mask, 4)
                          / ndimage.gaussian_filter(mask * 1.0, 4).clip(1e-6)
                          for mask in (membrane, ~membrane))
        assert (inside < beside - 8)[membrane].mean() > 0.97, name


def test_pairs_are_deterministic_and_independent_of_each_other():
    first, again = make_pair(3, 0, 1, 64), make_pair(3, 0, 1, 64)
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    for other in (make_pair(4, 0, 1, 64), make_pair(3, 1, 1, 64), make_pair(3, 0, 2, 64)):
        assert not np.array_equal(first[0], other[0])


def test_a_pair_has_the_pixels_that_it_always_had(pictures):
    for pixels, kind in zip(make_pair(0, 1, 2, 256), ("imgs", "labels")):
        assert np.array_equal(pixels, pictures[f"test/{kind}/cell_03.png"])
