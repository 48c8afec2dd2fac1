"""Transforms.py and images/warp.py: each augmentation by hand or against another implementation.

The last part looks at what the loader makes of it.

pytest tests/test_transforms.py
"""
import sys

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.color import rgb2hed

import Transforms
from command.errors import run
from DataLoader import SegmentationSet, TrainingLoader
from datasets.labels import IGNORED
from images import intensity, warp
from images.formats import write_pixels, write_png
from images.values import Statistics, load_image
from MirrorPadding import crop_input, mirror_pad, tiling
from nets.geometry import U2NET, UNET_BILINEAR
from Transforms import RECIPES, Augmentation, Augmented, Crop, Recipe, augmentation
from WeightMap import WeightMaps, compute_weight_map

GEOMETRIC = {"symmetries": Recipe(symmetries=True), "rotation": Recipe(angle=180),
             "zoom": Recipe(zoom=2), "shift": Recipe(shift=30),
             "elastic": Recipe(elastic=8, spacing=24),
             "all": Recipe(symmetries=True, angle=180, zoom=1.5, shift=9, elastic=4, spacing=32)}


class FixedDraws:
    """A stand-in for a generator: of every range the end, of the symmetries one."""

    def __init__(self, which=0):
        self.which = which

    def uniform(self, low, high, size=None):
        return high if size is None else np.full(size, float(high))

    def normal(self, mean, std, size):
        return np.full(size, float(std))

    def integers(self, high):
        return self.which

    def random(self):
        return 0.0

    def standard_normal(self, size, dtype):
        return np.ones(size, dtype)


def rng(*seed):
    return np.random.default_rng([7, *seed])


def random_image(channels, height, width, seed=0):
    return rng(seed).random((channels, height, width), dtype=np.float32)


def places(height, width):
    """A pair that says of every pixel where it is.

    image: (2, H, W), the rows and columns; label and weights: numbers of the pixels.
    """
    rows, columns = np.indices((height, width))
    number = (rows * width + columns).astype(np.int32)
    image = np.stack([rows / height, columns / width]).astype(np.float32)
    return Augmented(image, number, 2 * number.astype(np.float32))


def same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert one.dtype == other.dtype and one.shape == other.shape and (one == other).all()


# ----------------------------------------------------------------------------------------- geometry
@pytest.mark.parametrize("which", range(8))
def test_symmetries_keep_every_pixel(which):
    label = rng(1).integers(-1, 3, (14, 9), np.int32)
    image, weight = random_image(2, 14, 9), random_image(1, 14, 9, 2)[0]
    found = Augmentation(Recipe(symmetries=True))(image, label, weight, FixedDraws(which))

    def moved(planes):
        turned = np.rot90(planes, which % 4, axes=(-2, -1))
        return turned if which < 4 else turned[..., ::-1]
    same(found, (moved(image), moved(label), moved(weight)))


def test_rotation_is_counterclockwise():
    np.testing.assert_allclose(warp.rotation_matrix(90), warp.symmetry_matrix(1), atol=1e-15)
    image = random_image(1, 21, 21)
    found = Augmentation(Recipe(angle=30))(image, image[0] > 0.5, image[0], FixedDraws())
    expected = ndimage.rotate(image[0].astype(float), 30, order=1, reshape=False, mode="mirror")
    np.testing.assert_allclose(found.image[0], expected, atol=1e-5)


def test_zoom_magnifies_about_the_middle():
    ramp = np.stack(np.indices((41, 31))).astype(np.float32) / 64
    diagonal = np.eye(41, 31, dtype=np.int32)
    found, label, _ = Augmentation(Recipe(zoom=2))(ramp, diagonal, ramp[0], FixedDraws())
    rows, columns = np.indices((41, 31))
    expected = [20 + (rows - 20) / 2, 15 + (columns - 15) / 2]
    np.testing.assert_allclose(found * 64, expected, atol=1e-5)
    assert label[20, 15] == 0 and label.sum() > np.eye(41, 31).sum()


def test_shift_takes_pixels_from_further_on_and_mirrors():
    label = rng(1).integers(0, 2, (12, 13), np.int32)
    image, weight = random_image(1, 12, 13), random_image(1, 12, 13, 3)[0]
    found = Augmentation(Recipe(shift=5))(image, label, weight, FixedDraws())
    same(found, [mirror_pad(each, 0, 5, 0, 5)[..., 5:, 5:] for each in (image, label, weight)])


def test_source_coordinates_by_hand():
    matrix, displacement = np.array([[2, 3], [5, 7]]), np.full((2, 4, 6), 0.25, np.float32)
    found = warp.source_coordinates((4, 6), (1, 2.5), (10, 20), matrix, displacement)
    assert found.dtype == np.float32 and found.shape == (2, 4, 6)
    row, column = 3 - 1 + 0.25, 5 - 2.5 + 0.25
    assert tuple(found[:, 3, 5]) == (10 + 2 * row + 3 * column, 20 + 5 * row + 7 * column)


@pytest.mark.parametrize("size", [(40, 30), (1, 7), (1, 1), (2, 90)])
def test_interpolation_is_scipys(size):
    planes, spread = random_image(3, *size), np.reshape(size, (2, 1, 1))
    coordinates = (rng(4).uniform(-1.5, 2.5, (2, 150, 20)) * spread).astype(np.float32)
    near = np.rint(coordinates * 8) / 8 + np.float32(1 / 64)  # at a half both neighbours are right
    found = warp.sample_linear(planes, coordinates)
    assert found.dtype == np.float32
    for plane, out in zip(planes, found):
        exact = ndimage.map_coordinates(plane, coordinates.astype(float), order=1,
                                        mode="mirror")
        np.testing.assert_allclose(out, exact, atol=2e-5)
    numbers = rng(5).integers(-1, 200, size, np.int32)
    taken = warp.sample_nearest(numbers, near)
    assert taken.dtype == np.int32
    if min(size) > 1:  # SciPy mirrors a single pixel otherwise
        assert (taken == ndimage.map_coordinates(numbers, near, order=0, mode="mirror")).all()


def test_elastic_field_takes_its_vectors_every_spacing_and_splines_between():
    vectors = rng(3).normal(0, 10, (2, 3, 3))
    field = Transforms.elastic_displacement((513, 513), 10, 256, rng(3))
    assert field.dtype == np.float32
    np.testing.assert_allclose(field[:, ::256, ::256], vectors, atol=1e-4)
    expected = [ndimage.zoom(each, 513 / 3, order=3, mode="mirror") for each in vectors]
    np.testing.assert_allclose(field, expected, atol=1e-4)
    middle = Transforms.elastic_displacement((257, 101), 10, 256, rng(3))
    np.testing.assert_array_equal(middle, field[:, 128:385, 206:307])
    fine = Transforms.elastic_displacement((385, 256), 4, 64, rng(6))
    vectors = rng(6).normal(0, 4, (2, 7, 5))[:, :, :4]
    np.testing.assert_allclose(fine[:, ::64, ::64], vectors, atol=1e-4)
    middles = [Transforms.elastic_displacement((9, 9), 4, 64, rng(k))[:, 4, 4] for k in range(200)]
    assert 3 < np.std(middles) < 5
    assert not Transforms.elastic_displacement((30, 40), 0, 64, rng()).any()


@pytest.mark.parametrize("crop", [None, Crop(0, 0, 48, 40), Crop(37, 51, 33, 20)])
@pytest.mark.parametrize("name", GEOMETRIC)
def test_image_label_and_weights_move_together(name, crop):
    pair, moved = places(90, 71), 0
    augment, part = Augmentation(GEOMETRIC[name]), crop or Crop(0, 0, 90, 71)
    sides, before, after = (part.height, part.width), 7 if crop else 0, 12 if crop else 0
    for seed in range(4):
        found, numbers, weights = augment(*pair, rng(seed), crop, lambda length: (before, after))
        assert numbers.shape == sides or name in ("symmetries", "all")
        assert numbers.shape in (sides, sides[::-1])
        assert (found.dtype, numbers.dtype, weights.dtype) == (np.float32, np.int32, np.float32)
        assert (weights == 2 * numbers).all(), "the same pixel"
        assert found.shape == (2, *(length + before + after for length in numbers.shape))
        inner = found[:, before:before + numbers.shape[0], before:before + numbers.shape[1]]
        rows, columns = inner[0] * 90 - numbers // 71, inner[1] * 71 - numbers % 71
        distance = max(abs(rows).max(), abs(columns).max())
        assert distance < 0.501, "never further than half a pixel from the image's place"
        moved += not np.array_equal(numbers[:20, :20], pair.label[part.pixels][:20, :20])
    assert moved >= 3


def test_a_crop_shows_what_is_around_it():
    image, weight = random_image(1, 60, 80), random_image(1, 60, 80, 1)[0]
    label, padded = places(60, 80).label, mirror_pad(image, 30, 30, 30, 30)
    for top, left in ((0, 0), (20, 31), (28, 40)):
        crop = Crop(top, left, 32, 40)
        found = Augmentation(Recipe())(image, label, weight, rng(), crop,
                                       lambda length: (length // 2, 9))
        shown = padded[:, 30 + top - 16:30 + top + 32 + 9, 30 + left - 20:30 + left + 40 + 9]
        same(found, (shown, label[crop.pixels], weight[crop.pixels]))


def test_a_crops_pixels():
    label = places(60, 80).label
    assert (label[Crop(20, 31, 32, 40).pixels] == label[20:52, 31:71]).all()


def test_crop_and_whole_are_warped_alike():
    """A crop that turns about its middle shows what the same rotation of the whole image shows."""
    image, weight = random_image(1, 61, 61), random_image(1, 61, 61, 1)[0]
    pair, crop = (image, places(61, 61).label, weight), Crop(20, 22, 21, 17)
    augment = Augmentation(Recipe(angle=33, zoom=1.2))
    whole, part = augment(*pair, FixedDraws()), augment(*pair, FixedDraws(), crop)
    np.testing.assert_allclose(part.image, whole.image[:, 20:41, 22:39], atol=1e-5)
    assert (part.label == whole.label[crop.pixels]).mean() > 0.99
    assert (part.weight_map == whole.weight_map[crop.pixels]).mean() > 0.99


def test_no_class_appears_and_ignored_pixels_weigh_nothing():
    label = np.repeat(np.repeat(rng(1).choice([IGNORED, 0, 2, 5], (9, 8)), 8, 0), 8, 1)
    label = label.astype(np.int32)
    weight, shares = compute_weight_map(label), []
    for seed in range(30):
        _, found, weights = augmentation("full")(random_image(1, 72, 64), label, weight, rng(seed))
        assert set(np.unique(found)) <= {IGNORED, 0, 2, 5}
        assert not weights[found == IGNORED].any()
        assert (weights[found != IGNORED] > 0).all()
        shares.append((found == 5).mean())
    assert abs(np.mean(shares) - (label == 5).mean()) < 0.03


# ------------------------------------------------------------------------------------------- values
def test_grey_values_by_hand():
    image = np.array([[[0.25, 0.5], [0.75, 0.5]], [[0.0, 0.2], [0.4, 0.2]]], np.float32)
    np.testing.assert_allclose(intensity.add_brightness(image, -0.1), image - 0.1, atol=1e-7)
    expected = [[[0, 0.5], [1, 0.5]], [[-0.2, 0.2], [0.6, 0.2]]]
    np.testing.assert_allclose(intensity.scale_contrast(image, 2), expected, atol=1e-6)
    expected = np.maximum(image - 0.25, 0) ** 2
    np.testing.assert_allclose(intensity.apply_gamma(image - 0.25, 2), expected, atol=1e-7)
    for change in (intensity.add_brightness, intensity.scale_contrast, intensity.apply_gamma):
        assert change(image, 1.1).dtype == np.float32


def test_stain_jitter_moves_each_stain_alone():
    image = random_image(3, 20, 21) * 0.8 + 0.1
    scales, shifts = np.array([1.2, 0.7, 1.0]), np.array([0.02, -0.03, 0.1])
    found = Transforms.jitter_stains(image, scales, shifts)
    assert found.dtype == np.float32 and found.shape == image.shape

    def stains(planes):  # scikit-image divides by log(1e-6) instead of taking -log10; clips at 0
        return 6 * rgb2hed(planes.astype(float).transpose(1, 2, 0))
    before, after = stains(image), stains(found)
    visible = ((before > 0) & (after > 0)).all(axis=2) & (found < 1).all(axis=0)
    assert visible.sum() > 20
    np.testing.assert_allclose(after[visible], (before * scales + shifts)[visible], atol=1e-4)
    unchanged = Transforms.jitter_stains(image, np.ones(3), np.zeros(3))
    np.testing.assert_allclose(unchanged, image, atol=1e-6)
    black = Transforms.jitter_stains(np.zeros((3, 1, 1), np.float32), scales, shifts)
    assert np.isfinite(black).all() and (black < 0.01).all()


def test_all_stains_scaled_alike_are_a_gamma():
    image = random_image(3, 8, 8) * 0.9 + 0.1
    found = Transforms.jitter_stains(image, np.full(3, 1.3), np.zeros(3))
    np.testing.assert_allclose(found, intensity.apply_gamma(image, 1.3), atol=1e-5)


def test_blur_is_the_gaussian_filter_of_each_channel():
    image = random_image(3, 20, 30)
    expected = [ndimage.gaussian_filter(plane, 0.8, mode="mirror") for plane in image]
    found = intensity.blur_image(image, 0.8)
    np.testing.assert_allclose(found, expected, atol=5e-3)  # cut at three sigma instead of four
    assert (intensity.blur_image(image, 0.0) == image).all() and found.dtype == np.float32


def test_noise_is_gaussian_and_independent():
    image = np.full((3, 200, 200), 0.5, np.float32)
    found = intensity.add_noise(image, 0.1, rng()) - image
    assert found.dtype == np.float32
    assert found.std() == pytest.approx(0.1, rel=0.01) and abs(found.mean()) < 0.002
    assert abs(np.corrcoef(found.reshape(3, -1)) - np.eye(3)).max() < 0.02
    assert ((abs(found) < 0.1).mean()) == pytest.approx(0.683, abs=0.01)


# ---------------------------------------------------------------------------------------- pipelines
def test_names():
    assert augmentation("none") is None
    with pytest.raises(ValueError, match="one of none, paper, light, full, not 'strong'"):
        augmentation("strong")
    paper = RECIPES["paper"]
    assert (paper.elastic, paper.spacing, paper.symmetries) == (10, 256, False)
    assert (paper.stain_scale, paper.degraded) == (0, 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_without_strength_nothing_changes(channels):
    label = rng(1).integers(0, 2, (30, 23), np.int32)
    pair = random_image(channels, 30, 23), label, random_image(1, 30, 23, 1)[0]
    same(Augmentation(Recipe())(*pair, rng()), pair)
    never = Recipe(warped=0, angle=90, zoom=2, shift=5, elastic=9)
    same(Augmentation(never)(*pair, rng()), pair)


@pytest.mark.parametrize("strength", [{"brightness": 0.2}, {"contrast": 0.5}, {"gamma": 1.5},
                                      {"stain_scale": 0.3}, {"stain_shift": 0.1},
                                      {"degraded": 1, "blur": 2}, {"degraded": 1, "noise": 0.1}])
def test_each_strength_acts_and_values_leave_the_label_alone(strength):
    for channels in (1, 3):
        image, label, weight = random_image(channels, 30, 23), *places(30, 23)[1:]
        before = image.copy()
        found = Augmentation(Recipe(**strength))(image, label, weight, FixedDraws())
        foreign = {1: ("stain_scale", "stain_shift"), 3: ()}[channels]
        assert (abs(found[0] - image).max() > 1e-3) == (next(iter(strength)) not in foreign)
        same(found[1:], (label, weight))
        assert (image == before).all() and found[0].min() >= 0 and found[0].max() <= 1


@pytest.mark.parametrize("name", ["paper", "light", "full"])
@pytest.mark.parametrize("channels", [1, 3])
def test_values_act_in_the_images_own_range(name, channels):
    """For 16-bit files of a 12-bit camera: a sixteenth of the values gives a sixteenth of all."""
    image, label, weight = random_image(channels, 40, 33) / 2, *places(40, 33)[1:]
    for seed in range(5):
        whole, part = (augmentation(name)(image * scale, label, weight, rng(seed)).image
                       for scale in (1, 1 / 16))
        np.testing.assert_allclose(np.minimum(16 * part, 1), whole, atol=1e-5)
        assert whole.std() > 0.05


@pytest.mark.parametrize("name", ["paper", "light", "full"])
@pytest.mark.parametrize("channels", [2, 4, 5])
def test_other_channels_are_each_a_grey_image(name, channels):
    """What one generator makes of the channels is what it makes of grey images one by one."""
    image, label, weight = random_image(channels, 40, 33), *places(40, 33)[1:]
    image *= np.linspace(0.1, 1, channels, dtype=np.float32)[:, None, None]
    for seed in range(4):
        found = augmentation(name)(image, label, weight, rng(seed))
        whole, alone = augmentation(name), rng(seed)
        matrix, sides = whole._draw_symmetry(40, 33, alone)
        field = whole._draw_field(sides, [(side - 1) / 2 for side in sides], (19.5, 16), matrix,
                                  alone)
        for channel, plane in zip(found.image, image):
            warped = warp.sample_linear(plane[None], field)
            white = intensity.find_white(plane[None])
            expected = whole._change_light(warped, intensity.Light(0.0, white), alone)
            assert np.array_equal(channel, expected[0])
        spread = [abs(channel - warp.sample_linear(plane[None], field)[0]).mean() / plane.mean()
                  for channel, plane in zip(found.image, image)]
        assert len(set(spread)) == channels, "each has draws of its own"


@pytest.mark.parametrize("name", ["paper", "light", "full"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_values_in_other_units_change_in_their_own_range(name, channels):
    """Twice the values plus a thousand: twice the result plus a thousand. Nothing is clipped."""
    image, label, weight = random_image(channels, 40, 33) - 0.4, *places(40, 33)[1:]
    augment, beyond = augmentation(name, is_scaled=False), 0
    for seed in range(5):
        first, second = (augment(each, label, weight, rng(seed)).image
                         for each in (image, 50 * image - 1000))
        np.testing.assert_allclose(50 * first - 1000, second, atol=0.05)
        beyond += (first < image.min()).sum() + (first > image.max()).sum()
        assert first.min() < 0 and first.std() > 0.1
    assert beyond > 0


def test_gamma_bends_the_range_and_nothing_beyond():
    image = np.array([[[-3, -0.1, 0, 0.25, 1, 7]]], np.float32)
    assert intensity.bend_gamma(image, 2).tolist() == [[[-3, np.float32(-0.1), 0, 0.0625, 1, 7]]]
    assert intensity.bend_gamma(image, 0.5)[0, 0, 3] == 0.5


def test_lights_are_percentiles():
    image = np.stack([np.arange(10_000.0).reshape(100, 100) - 3000, np.full((100, 100), 5.0)])
    lights = intensity.find_lights(image.astype(np.float32), is_scaled=False)
    np.testing.assert_allclose(lights, [(-2990, 6989), (5, 6)], atol=0.1)
    scaled = np.repeat(image[:1] + 3000, 4, axis=0).astype(np.float32) / 20_000
    scaled[1] /= 2
    np.testing.assert_allclose(intensity.find_lights(scaled, is_scaled=True),
                               [(0, white) for white in (0.49945, 0.249725, 0.49945, 0.49945)],
                               atol=1e-4)
    assert intensity.find_lights(scaled[:3], is_scaled=True) == [
        (0, intensity.find_white(scaled[:3]))]


def test_white_is_no_single_bright_pixel():
    image = np.full((1, 300, 500), 0.25, np.float32)
    image[:, :150] = 0.125
    image[0, 0, 0] = 1
    assert intensity.find_white(image) == 0.25
    assert intensity.find_white(np.zeros((3, 4, 4), np.float32)) == 1


def test_what_shines_on_a_dark_ground_is_not_stained():
    image = np.zeros((3, 30, 23), np.float32)
    image[1, 5:15, 5:15] = 0.8
    label, weight = places(30, 23)[1:]
    stains = Augmentation(Recipe(stain_scale=0.3, stain_shift=0.1))
    same(stains(image, label, weight, rng())[0], image)
    assert abs(stains(1 - image, label, weight, rng())[0] - (1 - image)).max() > 0.01
    for seed in range(20):
        assert (augmentation("light")(image, label, weight, rng(seed))[0][1].max() > 0.5)


@pytest.mark.parametrize("name", ["paper", "light", "full"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_generator_decides_everything(name, channels):
    image, label, weight = random_image(channels, 40, 33), *places(40, 33)[1:]
    augment = augmentation(name)
    before = image.copy(), label.copy(), weight.copy()
    found = [augment(image, label, weight, rng(seed)) for seed in (0, 0, 1)]
    same(found[0], found[1])
    same((image, label, weight), before)
    assert not np.array_equal(found[0][0], found[2][0])
    for each in found:
        assert each.image.dtype == np.float32 and each.image.shape[0] == channels
        assert 0 <= each.image.min() <= each.image.max() <= 1


# --------------------------------------------------------------------------------------- the loader
def make_loader(folder, sizes=((70, 90), (64, 64), (80, 61), (48, 50)), geometry=U2NET, **options):
    pairs = [(folder / f"{k}.png", folder / f"{k}_label.png") for k in range(len(sizes))]
    for k, (size, pair) in enumerate(zip(sizes, pairs)):
        for path, values in zip(pair, (256, 2)):
            if not path.exists():
                write_png(path, rng(k, values).integers(0, values, size, np.uint8))
    dataset = SegmentationSet(pairs, 1, 2, Statistics((0.45,), (0.2,)))
    options["tile"] = tiling(str(options.get("tile", "full")))
    return TrainingLoader(dataset, geometry, maps=WeightMaps(folder / "weights"), seed=3, **options)


@pytest.mark.parametrize("geometry", [UNET_BILINEAR, U2NET])
@pytest.mark.parametrize("tile", ["full", 48, 64])
def test_none_is_as_ever_and_no_strength_the_same(tmp_path, geometry, tile):
    plain = make_loader(tmp_path, geometry=geometry, tile=tile)
    neutral = make_loader(tmp_path, geometry=geometry, tile=tile, augment=Augmentation(Recipe()))
    for index in range(4):
        batch = plain.batch([index], 5)
        same(neutral.batch([index], 5), batch)
        if tile != "full":
            image, label = plain.dataset.image(index), plain.dataset.label(index)
            draws, (h, w) = np.random.default_rng([3, 5, index]), np.minimum(label.shape, tile)
            top, left = (int(draws.integers(0, length - side + 1))
                         for length, side in zip(label.shape, (h, w)))
            here = np.s_[top:top + h, left:left + w]
            expected = (crop_input(geometry, image, top, left, h, w), label[here],
                        compute_weight_map(label)[here])
            same(batch, [each[None] for each in expected])


def test_neutral_on_the_reference_tile(tmp_path):
    plain, neutral = (make_loader(tmp_path, [(512, 512)], tile="reference", augment=augment)
                      for augment in (None, Augmentation(Recipe())))
    same(neutral.batch([0], 0), plain.batch([0], 0))


@pytest.mark.parametrize("name", ["paper", "light", "full"])
@pytest.mark.parametrize("tile", ["full", 48])
def test_workers_and_resuming_change_no_bit(tmp_path, name, tile):
    epochs = []
    for workers in (1, 2, 5):
        loader = make_loader(tmp_path, tile=tile, augment=augmentation(name), workers=workers,
                             batch_size=1)
        epochs.append(list(loader.epoch(2)))
    resumed = list(loader.epoch(2, start=3))
    assert len(resumed) == 1
    for batches in zip(*epochs):
        same(batches[1], batches[0])
        same(batches[2], batches[0])
    same(resumed[0], epochs[0][3])
    loader.seed = 4
    other = make_loader(tmp_path, tile=tile, augment=loader.augment)
    found = [loader.sample(0, epoch)[0] for epoch in (2, 2, 3)] + [other.sample(0, 2)[0]]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2]), "another epoch"
    assert not np.array_equal(found[0], found[3]), "another seed"


@pytest.mark.parametrize("geometry", [UNET_BILINEAR, U2NET])
@pytest.mark.parametrize("tile, sizes", [
    (48, [(70, 90), (48, 50)]), (64, [(70, 40), (30, 90)]), ("full", [(70, 40), (30, 90)])])
def test_batches_of_augmented_samples_fit_the_net(tmp_path, geometry, tile, sizes):
    loader = make_loader(tmp_path, sizes, geometry, tile=tile, augment=augmentation("full"),
                         batch_size=2)
    for epoch in range(4):
        batch = loader.batch([0, 1], epoch)
        for side, length in zip(batch.inputs.shape[2:], batch.labels.shape[1:]):
            assert side == geometry.output_side(length) + geometry.margin
        assert np.isfinite(batch.inputs).all() and set(np.unique(batch.labels)) <= {0, 1}
        assert batch.labels.shape == batch.weights.shape


@pytest.mark.parametrize("geometry", [UNET_BILINEAR, U2NET])
def test_the_label_lies_in_the_middle_of_what_the_net_sees(tmp_path, geometry):
    """An image that is its own label, in squares: in whatever is warped, both must agree."""
    squares = np.kron(rng().integers(0, 2, (14, 12)), np.ones((10, 10), int)).astype(np.uint8)
    for name, values in (("0.png", squares * 255), ("0_label.png", squares)):
        Image.fromarray(values).save(tmp_path / name)
    recipe = Recipe(symmetries=True, angle=180, zoom=1.3, shift=16, elastic=4, spacing=64)
    for tile in ("full", 64, 60):
        loader = make_loader(tmp_path, [squares.shape], geometry, tile=tile,
                             augment=Augmentation(recipe))
        for epoch in range(3):
            batch = loader.batch([0], epoch)
            height, width = batch.labels.shape[1:]
            top, left = ((side - length) // 2
                         for side, length in zip(batch.inputs.shape[2:], (height, width)))
            shown = batch.inputs[0, 0, top:top + height, left:left + width] * 0.2 + 0.45
            assert ((shown > 0.5) == batch.labels[0]).mean() > 0.99


# -------------------------------------------------------------------------------------- the command
def test_preview_writes_one_picture(tmp_path, monkeypatch, capsys):
    for folder in ("imgs", "labels"):
        (tmp_path / folder).mkdir()
    image, label = tmp_path / "imgs" / "a.png", tmp_path / "labels" / "a.png"
    write_png(image, rng().integers(0, 255, (24, 30, 3), np.uint8))
    write_png(label, np.eye(24, 30, dtype=np.uint8) * 255)

    def preview(path, *flags):
        files = map(str, ("--img", image, "--label", label, "--preview", path))
        monkeypatch.setattr(sys, "argv", ["Transforms.py", *files, *flags])
        return run(Transforms.main)
    look = tmp_path / "new" / "look.png"
    assert preview(look, "--augment", "full") == 0 and min(Image.open(look).size) > 500
    assert preview(tmp_path / "imgs" / "look.png") == 1
    assert "among the training pairs" in capsys.readouterr().err
    write_pixels(tmp_path / "four.tif", rng().normal(-3, 1, (24, 30, 4)).astype(np.float32))
    files = map(str, ("--img", tmp_path / "four.tif", "--label", label, "--preview", look))
    monkeypatch.setattr(sys, "argv", ["Transforms.py", *files])
    assert run(Transforms.main) == 0 and np.asarray(Image.open(look)).std() > 20
    pictures = []
    for value in (1, 2 ** 32 - 1):
        label = tmp_path / "labels" / "deep.tif"
        write_pixels(label, np.eye(24, 30, dtype=np.uint32) * np.uint32(value))
        assert preview(look) == 0
        pictures.append(look.read_bytes())
    assert pictures[0] == pictures[1], "whatever the number of the foreground"
    label = tmp_path / "labels" / "a.png"
    write_png(label, np.eye(25, 30, dtype=np.uint8))
    assert preview(look) == 1 and "25 x 30 px" in capsys.readouterr().err
    assert load_image(image, 3).shape == (3, 24, 30)
