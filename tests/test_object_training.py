"""Numbered objects on their way into a batch: target, weight map, crops, warps."""
import numpy as np
import pytest
from nuclei import ellipses, nuclei_set, random_objects
from PIL import Image
from scipy import ndimage

import WeightMap
from command.errors import DataError
from DataLoader import TrainingLoader
from datasets.labels import IGNORED, load_objects
from datasets.objects import training_target
from datasets.survey import Survey
from images.formats import write_pixels, write_png
from MirrorPadding import tiling
from nets.geometry import U2NET, UNET_BILINEAR
from Transforms import Augmentation, Crop, Recipe, augmentation
from WeightMap import WeightMaps, border_weights, compute_weight_map


def map_by_definition(target, w0=10, sigma=5):
    """Equation 2 with the distances to every single number, sorted."""
    known = target != IGNORED
    share = np.bincount(np.minimum(target, 1)[known], minlength=1)
    weight = share[share > 0].min() / share[np.clip(target, 0, 1)]
    numbers = np.unique(target[target > 0])
    if len(numbers) > 1:
        edt = ndimage.distance_transform_edt
        distances = np.sort([edt(target != k) + edt(target == k) for k in numbers], axis=0)
        weight = weight + w0 * np.exp(-(distances[0] + distances[1]) ** 2 / (2 * sigma ** 2))
    return np.where(known, weight, 0)


# --------------------------------------------------------------------------------- the weight map
@pytest.mark.parametrize("w0, sigma", [(10, 5), (1000, 2), (1, 0.5), (10, 40)])
@pytest.mark.parametrize("seed", range(4))
def test_map_by_definition(seed, w0, sigma):
    for objects in (random_objects(seed, (40, 46)), ellipses(seed, 96, tried=40)):
        target = training_target(objects)
        found = compute_weight_map(target, w0, sigma, numbered=True)
        assert found.dtype == np.float32
        expected = map_by_definition(target, w0, sigma)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-4)


def test_an_object_in_pieces_is_one():
    target = np.array([[7, 0, 7, 0, 0, 9]])
    found = border_weights(target, 10, 5, numbered=True)[0]
    across = np.array([1 + 5, 1 + 4, 1 + 3, 1 + 2, 2 + 1, 1 + 3])  # d1 + d2
    np.testing.assert_allclose(found, 10 * np.exp(-across ** 2 / 50), rtol=1e-6)
    assert not border_weights(np.array([[7, 0, 7, IGNORED]]), numbered=True).any(), "one object"
    assert not border_weights(np.array([[0, IGNORED]]), numbered=True).any()


def test_kept_maps_know_the_kind_and_the_border(tmp_path, monkeypatch):
    target, maps = training_target(ellipses(1, 64, (5, 9))), WeightMaps(tmp_path)
    as_classes, as_objects = (compute_weight_map(target, numbered=each) for each in (False, True))
    assert (as_classes != as_objects).any()
    for _ in range(2):
        for numbered, expected in ((False, as_classes), (True, as_objects)):
            np.testing.assert_array_equal(maps.read("a.png", target, numbered), expected)
    computed = []

    def counting(*arguments):
        computed.append(arguments)
        return compute_weight_map(*arguments)
    monkeypatch.setattr(WeightMap, "compute_weight_map", counting)
    maps.read("a.png", target, True)
    assert not computed
    monkeypatch.setattr(WeightMap, "BORDER", 2)
    maps.read("a.png", target, True)
    assert computed


# --------------------------------------------------------------------------------------- the files
def test_labels_objects_targets(tmp_path):
    stored = np.array([[300, 300, 300, 65535, 9, 9], [0, 0, 0, 0, 0, 9]], np.uint16)
    dataset = nuclei_set(tmp_path, 1, ignore_label=9)
    write_png(dataset.pairs[0][1], stored)
    assert dataset.label(0).tolist() == [[1, 1, 1, 1, -1, -1], [0, 0, 0, 0, 0, -1]]
    assert dataset.objects(0).tolist() == [[300, 300, 300, 65535, -1, -1], [0, 0, 0, 0, 0, -1]]
    target = dataset.target(0)
    assert target.tolist() == [[300, 300, 0, 0, -1, -1], [0, 0, 0, 0, 0, -1]]
    assert target.dtype == dataset.objects(0).dtype == np.int32
    assert dataset.classes_of(target).tolist() == [[1, 1, 0, 0, -1, -1], [0, 0, 0, 0, 0, -1]]


def test_maps_of_warped_objects_are_not_kept(tmp_path):
    """The page of a run shows some, after a training that has written none."""
    dataset = nuclei_set(tmp_path, 1)
    loader = loader_of(dataset, tmp_path, augment=augmentation("light"))
    found = loader.weight_map(0, dataset.target(0))
    np.testing.assert_array_equal(found, compute_weight_map(dataset.target(0), numbered=True))
    assert not loader.keeps_maps and not (tmp_path / "weights").exists()


def test_numbers_beyond_32_bits_with_sign(tmp_path):
    path = tmp_path / "a.tif"
    write_pixels(path, np.array([[0, 2 ** 31 - 1, 2 ** 31]], np.uint32))
    with pytest.raises(DataError, match=r"a.tif: has the value 2147483648, .* up to 2147483647"):
        load_objects(path)
    assert load_objects(path, ignore_label=2 ** 31).tolist() == [[0, 2 ** 31 - 1, -1]]
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="JPEG changes the numbers of objects"):
        load_objects(tmp_path / "a.jpg")


# ------------------------------------------------------------------------------------- the samples
def loader_of(dataset, folder, tile="full", geometry=U2NET, with_maps=True, **options):
    maps = WeightMaps(folder / "weights") if with_maps else None
    return TrainingLoader(dataset, geometry, tiling(tile), maps=maps, seed=3, **options)


@pytest.mark.parametrize("geometry", [U2NET, UNET_BILINEAR])
@pytest.mark.parametrize("tile", ["full", "48"])
@pytest.mark.parametrize("with_maps", [True, False])
def test_without_augmentation(tmp_path, geometry, tile, with_maps):
    dataset = nuclei_set(tmp_path, size=96)
    loader = loader_of(dataset, tmp_path, tile, geometry, with_maps)
    loader.prepare(Survey())
    assert (tmp_path / "weights").exists() == with_maps
    for index in range(2):
        target = dataset.target(index)
        assert (target != dataset.objects(index)).any()
        weight = map_by_definition(target) if with_maps else np.ones(target.shape)
        sample = loader.sample(index, 5)
        here = np.s_[sample.corner[0]:, sample.corner[1]:]
        inside = np.s_[:sample.label.shape[0], :sample.label.shape[1]]
        np.testing.assert_array_equal(sample.label, (target > 0)[here][inside])
        np.testing.assert_allclose(sample.weight, weight[here][inside], rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("geometry", [U2NET, UNET_BILINEAR])
@pytest.mark.parametrize("with_maps", [True, False])
def test_flips_and_turns_permute_target_and_map(tmp_path, geometry, with_maps):
    """What is mirrored beyond the edges is farther away than what it mirrors."""
    dataset = nuclei_set(tmp_path, 1, size=96)
    loader = loader_of(dataset, tmp_path, geometry=geometry, with_maps=with_maps,
                       augment=Augmentation(Recipe(symmetries=True)))
    target, found = dataset.target(0), set()
    whole = map_by_definition(target) if with_maps else np.ones(target.shape)
    turned = [(np.rot90(target > 0, k), np.rot90(whole, k)) for k in range(4)]
    turned += [tuple(map(np.fliplr, each)) for each in turned]
    for epoch in range(12):
        sample = loader.sample(0, epoch)
        which, = (k for k, (label, _) in enumerate(turned) if (label == sample.label).all())
        np.testing.assert_allclose(sample.weight, turned[which][1], rtol=1e-6, atol=1e-4)
        found.add(which)
    assert len(found) > 3
    assert not (tmp_path / "weights").exists(), "these maps are made for a sample"


@pytest.mark.parametrize("geometry", [U2NET, UNET_BILINEAR])
@pytest.mark.parametrize("with_maps", [True, False])
def test_border_and_map_are_made_after_the_warp(tmp_path, geometry, with_maps):
    """A rotation draws the same field for any margin: here the whole surroundings are warped."""
    dataset = nuclei_set(tmp_path, 1, size=128)
    augment = Augmentation(Recipe(angle=45, zoom=1.25, shift=16))
    loader = loader_of(dataset, tmp_path, "48", geometry, with_maps, augment=augment)
    share = np.bincount((dataset.target(0) > 0).ravel())
    for epoch in range(6):
        sample = loader.sample(0, epoch)
        rng = np.random.default_rng([3, epoch, 0, 0])
        crop = Crop(*(int(rng.integers(0, 128 - 48 + 1)) for _ in range(2)), 48, 48)
        warped = augment(dataset.pixels(0), dataset.objects(0), None, rng, crop, margin=100)
        target = training_target(warped.label)
        inner = np.s_[100:148, 100:148]
        np.testing.assert_array_equal(sample.label, (target > 0)[inner])
        weight = np.ones((48, 48))
        if with_maps:
            numbers = np.unique(target[target > 0])
            distances = [ndimage.distance_transform_edt(target != k)
                         + ndimage.distance_transform_edt(target == k) for k in numbers]
            d1, d2 = np.sort(distances, axis=0)[:2, 100:148, 100:148]
            weight = share.min() / share[sample.label] + 10 * np.exp(-(d1 + d2) ** 2 / 50)
        np.testing.assert_allclose(sample.weight, weight, rtol=1e-5, atol=1e-4)


def test_ignored_pixels_weigh_nothing_after_a_warp(tmp_path):
    dataset = nuclei_set(tmp_path, 1, size=96, ignore_label=2)
    sample = loader_of(dataset, tmp_path, "64", augment=augmentation("full")).sample(0, 1)
    assert (sample.label == IGNORED).any()
    np.testing.assert_array_equal(sample.weight == 0, sample.label == IGNORED)


@pytest.mark.parametrize("name", ["paper", "light", "full"])
def test_workers_and_resuming_change_no_bit(tmp_path, name):
    dataset, epochs = nuclei_set(tmp_path, 3, size=80), []
    for workers in (1, 4):
        loader = loader_of(dataset, tmp_path, "48", UNET_BILINEAR, augment=augmentation(name),
                           workers=workers)
        epochs.append(list(loader.epoch(2)))
    epochs.append([epochs[0][0], *loader.epoch(2, start=1)])
    for batches in zip(*epochs):
        for other in batches[1:]:
            for found, expected in zip(other, batches[0]):
                np.testing.assert_array_equal(found, expected)


def test_the_image_and_its_label_stay_together(tmp_path):
    """The margin moves neither: a warped image is bright where the warped foreground is."""
    dataset = nuclei_set(tmp_path, 1, size=128)
    objects = dataset.objects(0)
    image = (objects > 0).astype(np.float32)[None]
    for seed in range(5):
        for context in (lambda length: (0, 0), lambda length: (30, 17)):
            warped = augmentation("paper")(image, objects, None, np.random.default_rng(seed),
                                           Crop(20, 30, 64, 48), context, margin=9)
            before, after = context(0)
            height, width = (length - 18 for length in warped.label.shape)
            assert warped.image.shape == (1, height + before + after, width + before + after)
            label = warped.label[9:9 + height, 9:9 + width] > 0
            bright = warped.image[0, before:before + height, before:before + width]
            bright = (bright - bright.min()) / np.ptp(bright)
            assert ((bright > 0.5) == label).mean() > 0.98
