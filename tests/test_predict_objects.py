"""Predict.py with a net that was trained on numbered objects: masks, instances, overlays, bands.

The net here is a function that answers what an image's brightness says.
"""
from types import SimpleNamespace

import numpy as np
import pytest
from nuclei import ellipses, random_objects
from PIL import Image

import Predict
from command.errors import DataError
from datasets.objects import give_back_border, training_target
from images.formats import write_png
from images.reading import read_label
from images.values import Statistics
from masks.object_bands import fill_bands
from masks.object_scores import instance_scores
from masks.objects import connected_components, whole_objects
from masks.outputs import plan_outputs
from masks.pixel_scores import scores
from MirrorPadding import tiling
from nets.catalogue import Recognised
from nets.ensemble import Ensemble
from nets.trained import TrainedNet, net_of_header

OPTIONS = {"base_channels": 64, "bilinear": True, "padding": 1, "conv_bias": True,
           "align_corners": False}


def header(**changes):
    return {"mode": "Unet", "n_channels": 1, "n_classes": 2, "options": OPTIONS, "mean": [0.0],
            "std": [1.0], "dtype": "uint8", "tile": "full", "label_kind": "objects", "border": 1,
            **changes}


def net_of(**changes):
    said = header(**changes)
    found = Recognised("Unet", 1, said["n_classes"], OPTIONS)
    return net_of_header({key: value for key, value in said.items() if value is not None}, found,
                         "best_model")


def predict(folder, net, extras=("instances", "overlay"), tile=None):
    """Run Predict.py's Predictor over the images of a folder, with a net that is a threshold."""
    def forward(inputs):
        return np.concatenate([0.5 - inputs, inputs - 0.5], axis=1)
    args = SimpleNamespace(tta=1, tile=tile and tiling(tile), batch=1,
                           instances="instances" in extras)
    out = folder / "out"
    out.mkdir()
    ensemble = Ensemble((net,))
    for job in plan_outputs([folder / "in"], out, extras, False, ensemble).jobs:
        Predict.Predictor(ensemble, [forward], args).predict(job)
    return out


def write_masks(folder, objects):
    """Write an image that is bright where a perfect net sees foreground."""
    (folder / "in").mkdir()
    write_png(folder / "in" / "a.png",
              np.where(training_target(objects) > 0, 255, 0).astype(np.uint8))


# ------------------------------------------------------------------------------------- the header
@pytest.mark.parametrize("changes", [
    {"label_kind": "things"}, {"border": 0}, {"border": None}, {"border": 1.0}, {"border": 999},
    {"border": True}, {"label_kind": "classes"}, {"label_kind": None}, {"n_classes": 3}])
def test_a_header_that_is_not_ours(changes):
    with pytest.raises(DataError, match="its header is not as Main.py writes it"):
        net_of(**changes)


def test_the_header_says_objects():
    net = net_of()
    assert (net.label_kind, net.border) == ("objects", 1)
    net = net_of(label_kind=None, border=None)
    assert (net.label_kind, net.border) == ("classes", 0)


# ---------------------------------------------------------------------------------- what is written
@pytest.mark.parametrize("seed", range(3))
def test_perfect_masks_give_the_nuclei(tmp_path, seed):
    nuclei = ellipses(seed)
    write_masks(tmp_path, nuclei)
    out = predict(tmp_path, net_of())
    found = read_label(out / "a_instances.tif").astype(np.int32)
    expected = give_back_border(connected_components(training_target(nuclei) > 0))
    np.testing.assert_array_equal(found, expected)
    of_objects = instance_scores(found, nuclei)
    assert min(of_objects["aji"], of_objects["pq"]) > 0.97
    mask = np.asarray(Image.open(out / "a_pred.png"))
    np.testing.assert_array_equal(mask, np.where(expected > 0, 255, 0))
    assert scores((mask > 0).astype(int), (nuclei > 0).astype(int))["iou"] > 0.97
    overlay = np.asarray(Image.open(out / "a_overlay.png"))
    is_contour = np.ptp(overlay, axis=2) > 0
    rows, columns = np.nonzero((expected[:, :-1] != expected[:, 1:])
                               & (expected[:, :-1] > 0) & (expected[:, 1:] > 0))
    assert len(rows) and is_contour[rows, columns].all(), "a contour parts objects that touch"


def test_masks_alone_get_the_border_too(tmp_path):
    nuclei = ellipses(1)
    write_masks(tmp_path, nuclei)
    out = predict(tmp_path, net_of(), extras=())
    expected = whole_objects(training_target(nuclei), 1) > 0
    np.testing.assert_array_equal(np.asarray(Image.open(out / "a_pred.png")) > 0, expected)
    assert (expected != (training_target(nuclei) > 0)).any()


def test_classes_are_predicted_as_ever(tmp_path):
    nuclei = ellipses(1)
    write_masks(tmp_path, nuclei)
    out = predict(tmp_path, net_of(label_kind=None, border=None), extras=())
    np.testing.assert_array_equal(np.asarray(Image.open(out / "a_pred.png")) > 0,
                                  training_target(nuclei) > 0)


def test_the_width_is_the_headers(tmp_path):
    objects = np.pad(np.kron([[1, 2]], np.ones((40, 40), int)), 5)
    (tmp_path / "in").mkdir()
    write_png(tmp_path / "in" / "a.png",
              np.where(training_target(objects, 3) > 0, 255, 0).astype(np.uint8))
    out = predict(tmp_path, net_of(border=3))
    np.testing.assert_array_equal(read_label(out / "a_instances.tif"), objects)


# ------------------------------------------------------------------------------------ in bands
@pytest.mark.parametrize("border", [1, 2])
@pytest.mark.parametrize("seed", range(8))
def test_bands_are_the_whole_image(seed, border):
    rng = np.random.default_rng(seed)
    objects = random_objects(seed, (60, 45)) if seed % 2 else ellipses(seed, 64, (4, 9))
    class_map = (training_target(objects, border) > 0).astype(np.uint8)
    expected = (whole_objects(class_map, border) > 0).astype(np.uint8)
    for count in (1, 2, 5, 30, len(class_map)):
        cuts = np.sort(rng.choice(np.arange(1, len(class_map)), count - 1, replace=False))
        found = list(fill_bands(iter(np.split(class_map, cuts)), border))
        assert [band.shape for band in found] == [
            band.shape for band in np.split(class_map, cuts)]
        np.testing.assert_array_equal(np.concatenate(found), expected)


def test_arms_that_meet_at_the_bottom_are_one_object():
    """A gap between two arms of a U is no border, wherever the bands are cut."""
    arms = np.zeros((40, 12), np.uint8)
    arms[:, 2:5] = arms[:, 7:10] = 1
    apart = np.concatenate(list(fill_bands(np.split(arms, 5), 1)))
    assert apart[:, 2:10].all() and apart.sum() == 8 * 40
    arms[-1, 2:10] = 1
    np.testing.assert_array_equal(np.concatenate(list(fill_bands(np.split(arms, 5), 1))), arms)


def test_a_large_page_gets_the_border_back(tmp_path, monkeypatch):
    import images.pages
    tifffile = pytest.importorskip("tifffile")
    nuclei = ellipses(2, 300, tried=90)
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a.tif",
                     np.where(training_target(nuclei) > 0, 255, 0).astype(np.uint8), rowsperstrip=8)
    monkeypatch.setattr(images.pages, "LARGE", 2 ** 12)
    out = predict(tmp_path, net_of(), extras=(), tile="64")
    expected = whole_objects(training_target(nuclei), 1) > 0
    np.testing.assert_array_equal(read_label(out / "a_pred.tif") > 0, expected)


def test_a_trained_net_of_flags_tells_classes():
    net = TrainedNet("Unet", 1, 2, OPTIONS, Statistics((0.0,), (1.0,)))
    assert (net.label_kind, net.border) == ("classes", 0)
