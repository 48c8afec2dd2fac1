"""masks/answers, objects, saliency, colours: from logits to pictures, by hand-computed cases."""
import numpy as np
import pytest
from scipy.ndimage import label

from images.composite import Shades, find_shades, show_pixels
from masks.answers import (assemble, average_of_eight, class_bands, classes, logits_of,
                           mask_pixels, probabilities)
from masks.colours import CONTOURS, overlay
from masks.objects import instances
from masks.saliency import IMAGENET_MEAN, IMAGENET_STD, saliency_input, saliency_map
from MirrorPadding import overlap_tile, tiling
from nets.geometry import UNET_BILINEAR


def normal(*shape, scale=3.0):
    return np.random.default_rng(len(shape)).normal(0, scale, shape).astype(np.float32)


def discs(shape, *circles, value=1):
    """A class map of discs (row, column, radius)."""
    rows, columns = np.mgrid[:shape[0], :shape[1]]
    inside = [(rows - y) ** 2 + (columns - x) ** 2 <= radius ** 2 for y, x, radius in circles]
    return value * np.any(inside, axis=0).astype(np.uint8)


# -------------------------------------------------------------------------- probabilities, classes
def test_probabilities():
    logits = normal(2, 4, 5, 6)
    found = probabilities(logits)
    assert found.dtype == np.float32 and found.shape == logits.shape
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    exponentials = np.exp(logits)
    wanted = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    one = probabilities(np.array([[[-1e4, 0, 2, 1e4]]], np.float32))
    np.testing.assert_allclose(one, [[[0, 0.5, 1 / (1 + np.exp(-2)), 1]]], rtol=1e-6)
    certain = probabilities(np.array([[[1e4]], [[-1e4]]], np.float32))
    assert (certain == [[[1]], [[0]]]).all(), "no overflow"


@pytest.mark.parametrize("n_classes", [1, 2, 5])
def test_logits_of_probabilities(n_classes):
    wanted = probabilities(normal(n_classes, 6, 7))
    np.testing.assert_allclose(probabilities(logits_of(wanted)), wanted, atol=1e-6)
    assert (classes(logits_of(wanted)) == classes(normal(n_classes, 6, 7))).all()
    assert np.isfinite(logits_of(np.array([[[0.0, 1.0]]], np.float32))).all()


def test_classes_and_their_pixels():
    found = classes(np.array([[[0, 5, 1]], [[1, 4, 1]], [[2, 9, 0]]], np.float32))
    assert found.tolist() == [[2, 2, 0]] and found.dtype == np.uint8
    assert classes(np.array([[[-0.1, 0.1]]], np.float32)).tolist() == [[0, 1]]
    for n_classes, pixels in ((1, [0, 255]), (2, [0, 255]), (3, [0, 1])):
        assert mask_pixels(np.array([0, 1], np.uint8), n_classes).tolist() == pixels


def centre(inputs):
    return np.concatenate([inputs, -inputs], axis=1)[..., 92:-92, 92:-92]


@pytest.mark.parametrize("tile", ["full", 52])
def test_parts_become_maps_and_bands(tile):
    image = normal(1, 70, 133)

    def parts():
        return tiling(str(tile)).parts(image, centre, UNET_BILINEAR)
    logits = overlap_tile(image, centre, UNET_BILINEAR, tiling(str(tile)))
    class_map, probability = assemble(parts(), 70, 133, with_probabilities=True)
    assert np.array_equal(class_map, classes(logits))
    assert np.array_equal(probability, probabilities(logits))
    assert assemble(parts(), 70, 133)[1] is None
    bands = list(class_bands(parts(), 133))
    assert all(band.shape[1] == 133 for band in bands)
    assert len(bands) == (1 if tile == "full" else 3)
    assert np.array_equal(np.concatenate(bands), class_map)
    one_class = ((top, left, part[:1]) for top, left, part in parts())
    assert assemble(one_class, 70, 133, with_probabilities=True)[1].shape == (70, 133)


# ----------------------------------------------------------------------------- flips and rotations
def lopsided(n_classes):
    """A net that sees no symmetry.

    A pixel's logits depend on its right and lower neighbours and on where it is.
    """
    def forward(inputs):
        assert inputs.flags.c_contiguous
        rows = np.arange(inputs.shape[2])[:, None] / 10
        first = inputs[:, :1]
        seen = first + 2 * np.roll(first, -1, 3) - np.roll(first, -1, 2) + rows
        logits = [seen * k for k in range(1, n_classes + 1)]
        return np.concatenate(logits, axis=1).astype(np.float32)
    return forward


@pytest.mark.parametrize("n_classes", [1, 2, 3])
def test_the_average_of_eight(n_classes):
    image, forward = normal(2, 1, 12, 20, scale=1), lopsided(n_classes)
    turned = [image, image[..., ::-1], image[..., ::-1, :], image[..., ::-1, ::-1]]
    answers = [probabilities(forward(np.ascontiguousarray(view))) for view in turned]
    across = [probabilities(forward(np.ascontiguousarray(view.swapaxes(2, 3)))).swapaxes(2, 3)
              for view in turned]
    back = [lambda a: a, lambda a: a[..., ::-1],
            lambda a: a[..., ::-1, :], lambda a: a[..., ::-1, ::-1]]
    turned_back = [undo(answer) for half in (answers, across) for undo, answer in zip(back, half)]
    expected = sum(turned_back) / 8
    found = probabilities(average_of_eight(forward)(image))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - answers[0]).max() > 0.05


# -------------------------------------------------------------------------- U-2-Net's own protocol
def test_what_u2net_sees():
    """Of an image of its own size, nothing is interpolated."""
    pixels = np.random.default_rng(0).integers(0, 201, (320, 320, 3), np.uint8)
    found = saliency_input(pixels)
    assert found.shape == (1, 3, 320, 320) and found.dtype == np.float32
    for channel in range(3):
        scaled = pixels[..., channel] / pixels.max()
        wanted = (scaled - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        np.testing.assert_allclose(found[0, channel], wanted, atol=1e-5)
    grey = saliency_input(np.full((50, 700, 3), 100, np.uint16))
    assert grey.shape == (1, 3, 320, 320)
    assert np.abs(grey[0, 0, 100:200, 100:200] - (1 - 0.485) / 0.229).max() < 1e-5
    black = saliency_input(np.zeros((40, 40, 3), np.uint8))
    assert np.allclose(black[0, 0], -0.485 / 0.229), "black, not NaN"


def test_saliency_is_stretched_and_resized():
    logits = np.zeros((1, 320, 320), np.float32)
    logits[0, :, 160:], logits[0, :, :100] = 2, -1
    found = saliency_map(logits, 320, 320)
    low, middle, high = (1 / (1 + np.exp(-value)) for value in (-1, 0, 2))
    np.testing.assert_allclose(np.unique(found), [0, (middle - low) / (high - low), 1], atol=1e-6)
    found = saliency_map(logits, 100, 640)
    assert found.shape == (100, 640) and found.dtype == np.float32
    assert (found[:, :190] == 0).all() and (found[:, 330:] == 1).all()


@pytest.mark.parametrize("value, kept", [(0, 0.5), (-100, 0), (3, 1 / (1 + np.exp(-3)))])
def test_a_constant_saliency_stays(value, kept):
    constant = np.full((1, 320, 320), value, np.float32)
    np.testing.assert_allclose(saliency_map(constant, 70, 90), kept, atol=1e-6)


# --------------------------------------------------------------------------------------- instances
def test_two_touching_discs_are_parted():
    class_map = discs((64, 120), (32, 30, 20), (32, 66, 20))
    assert label(class_map)[1] == 1, "one object to a plain labelling"
    found = instances(class_map)
    assert found.max() == 2 and np.array_equal(found > 0, class_map > 0)
    left, right = found[32, 30], found[32, 66]
    assert left != right and (found[:, :47][class_map[:, :47] > 0] == left).all()
    assert (found[:, 50:][class_map[:, 50:] > 0] == right).all()


@pytest.mark.parametrize("scale", [1, 2, 5])
def test_parting_does_not_depend_on_the_size(scale):
    circles = np.array([(12, 12, 8), (12, 26, 8), (30, 15, 6), (30, 50, 9)]) * scale
    assert instances(discs((45 * scale, 65 * scale), *circles)).max() == 4


def bar(angle, half_width, half_length):
    rows, columns = np.mgrid[:200, :200] - 100.0
    along = columns * np.cos(angle) + rows * np.sin(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    return (np.abs(along) <= half_length) & (np.abs(across) <= half_width), (
        (along / half_length) ** 2 + (across / half_width) ** 2 <= 1)


@pytest.mark.parametrize("angle", [0, 0.2, 0.5, 0.8, 1.3])
@pytest.mark.parametrize("half_width", [1, 4, 12])
def test_long_objects_stay_whole(angle, half_width):
    straight, ellipse = bar(angle, half_width, 70)
    assert instances(straight.astype(np.uint8)).max() == 1
    assert instances(ellipse.astype(np.uint8)).max() == label(ellipse, np.ones((3, 3)))[1]


def test_every_piece_is_an_instance():
    """Single pixels, diagonals, thin lines; numbered without gaps."""
    class_map = np.zeros((30, 40), np.uint8)
    class_map[2, 3] = class_map[10, 5:30] = class_map[20, 10] = class_map[21, 11] = 1
    class_map[25:, 35:] = 1
    found = instances(class_map)
    assert np.array_equal(np.unique(found), range(5)) and np.array_equal(found > 0, class_map > 0)
    assert found[20, 10] == found[21, 11], "neighbours across a corner are one"
    assert instances(np.zeros((5, 5), np.uint8)).max() == 0
    assert (instances(np.ones((5, 5), np.uint8)) == 1).all()


def test_classes_part_objects():
    class_map = np.zeros((20, 20), np.uint8)
    class_map[:, :10], class_map[:, 10:] = 1, 3
    found = instances(class_map)
    assert np.unique(found[:, :10]).size == np.unique(found[:, 10:]).size == 1
    assert found[0, 0] != found[0, 19]


# ----------------------------------------------------------------------------------------- overlay
@pytest.mark.parametrize("shape", [(64, 120), (64, 120, 3)])
@pytest.mark.parametrize("dtype, white", [(np.uint8, 255), (np.uint16, 4095)])
def test_an_overlay_changes_contours_alone(shape, dtype, white):
    pixels = np.random.default_rng(0).integers(0, white + 1, shape).astype(dtype)
    class_map = np.maximum(discs((64, 120), (32, 30, 20)), discs((64, 120), (32, 90, 15), value=2))
    before = pixels.copy()
    found = overlay(pixels, class_map, instances(class_map), Shades(0, white))
    assert found.shape == (64, 120, 3) and found.dtype == np.uint8 and (pixels == before).all()
    plain = np.broadcast_to(np.floor(pixels.reshape(64, 120, -1) * (255 / white)), (64, 120, 3))
    changed = (np.abs(found - plain) > 1).any(axis=2)
    assert (found[32, 10] == CONTOURS[0]).all() and (found[32, 105] == CONTOURS[1]).all()
    assert (found[32, 75] == CONTOURS[1]).all()
    inside, middle = class_map > 0, (discs((64, 120), (32, 30, 17), (32, 90, 12)) > 0)
    assert changed[inside & ~middle].sum() > 150
    assert not changed[~inside].any() and not changed[middle].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_a_composite_shows_the_first_channels(dtype, channels):
    """Grey, red and green, or the first three; 8 bits as they are, others from end to end.

    Grey and RGB are stretched together, channels of other images each for itself.
    """
    pixels = np.random.default_rng(channels).uniform(10, 200, (9, 11, channels))
    pixels *= np.linspace(0.2, 1, channels)
    pixels = (pixels - (50 if np.dtype(dtype).kind != "u" else 0)).astype(dtype)
    pixels = pixels[..., 0] if channels == 1 else pixels
    found = show_pixels(pixels)
    assert found.dtype == np.uint8 and found.shape == ((9, 11) if channels == 1 else (9, 11, 3))
    planes = [pixels] if channels == 1 else [pixels[..., k] for k in range(channels)]
    shown = [found] if channels == 1 else [found[..., k] for k in range(3)]
    for plane, values in zip(planes, shown):
        low, high = (pixels.min(), pixels.max()) if channels in (1, 3) else (
            plane.min(), plane.max())
        if dtype == np.uint8:
            low, high = 0, 255
        exact = (plane.astype(float) - float(low)) * 255 / (float(high) - float(low))
        assert np.abs(values - exact).max() <= 0.501
    if channels == 2:
        assert not shown[2].any()
    assert (found == show_pixels(pixels, find_shades(pixels))).all()


def test_a_flat_image_is_shown_black():
    for pixels in (np.full((2, 3), 7, np.uint16), np.full((2, 3, 4), -1.5, np.float32)):
        assert not show_pixels(pixels).any()


def test_an_overlay_shows_where_instances_part():
    class_map = discs((64, 120), (32, 30, 20), (32, 66, 20))
    pixels = np.zeros((64, 120), np.uint8)
    plain, parted = (overlay(pixels, class_map, regions, Shades(0, 255))
                     for regions in (class_map, instances(class_map)))
    assert not plain[30:35, 40:56].any() and parted[30:35, 40:56].any()


def test_contours_of_large_images_are_wider():
    class_map = np.zeros((50, 3000), np.uint8)
    class_map[:, 1500:] = 1
    picture = overlay(np.zeros((50, 3000), np.uint8), class_map, class_map, Shades(0, 255))
    assert (picture[20].any(axis=1)).sum() == 4
