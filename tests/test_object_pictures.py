"""Pictures of numbered objects: touching ones are told apart by their colours.  NumPy only."""
import io
import sys
from itertools import combinations

import numpy as np
import pytest
from helpers import events_in
from nuclei import ellipses, nuclei_set, perfect_predictions, random_objects, write_nuclei
from PIL import Image
from skimage.color import rgb2lab

import DataAugmentation
import Transforms
from command.errors import run
from datasets.labels import IGNORED
from datasets.objects import training_target
from images.formats import write_pixels, write_png
from images.reading import read_label
from masks.answers import object_pixels
from masks.colours import (NEAR, OBJECT_COLOURS, PASSED_OVER, colour_objects, draw_overview,
                           outline_objects, read_png, show_objects, show_test)
from masks.objects import whole_objects
from masks.prediction_files import write_predictions
from runs.events import EventLog

BLACK = (0, 0, 0)


def colours_of(picture, mask):
    return {tuple(pixel) for pixel in picture[mask].tolist()}


def near_pairs(numbers, distance):
    """The pairs of numbers that have pixels up to `distance` px apart, Chebyshev; brute force."""
    places = np.argwhere(numbers > 0)
    apart = np.abs(places[:, None] - places[None]).max(axis=2)
    found = numbers[tuple(places.T)]
    near = (apart <= distance) & (found[:, None] < found[None])
    return {(int(found[one]), int(found[other])) for one, other in np.argwhere(near)}


def assert_told_apart(numbers, distance=1):
    picture = colour_objects(numbers)
    assert picture.dtype == np.uint8 and picture.shape == (*numbers.shape, 3)
    colour = {}
    for number in np.unique(numbers[numbers > 0]).tolist():
        colour[number], = colours_of(picture, numbers == number)
        assert colour[number] in OBJECT_COLOURS
    pairs = near_pairs(numbers, distance)
    assert not [pair for pair in pairs if colour[pair[0]] == colour[pair[1]]]
    assert colours_of(picture, numbers == 0) <= {BLACK}
    assert colours_of(picture, numbers == IGNORED) <= {PASSED_OVER}
    return len(pairs)


# ------------------------------------------------------------------------------------- the colours
def test_the_colours_differ_clearly():
    """In CIELAB, where 2.3 is what one just sees; those of neighbouring numbers differ most."""
    everything = np.array([*OBJECT_COLOURS, BLACK, PASSED_OVER])[None] / 255
    places = dict(zip([*OBJECT_COLOURS, BLACK, PASSED_OVER], rgb2lab(everything)[0]))
    assert len(places) == 13
    apart = {pair: np.linalg.norm(places[pair[0]] - places[pair[1]])
             for pair in combinations(places, 2)}
    assert min(apart.values()) > 38
    for one, other in zip(OBJECT_COLOURS, (*OBJECT_COLOURS[1:], OBJECT_COLOURS[0])):
        assert apart.get((one, other), apart.get((other, one))) > 100


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("step", [1, 11, 100_000])
def test_touching_objects_have_different_colours(seed, step):
    """Whatever their numbers are: with a step of 11 all would have the same colour."""
    assert assert_told_apart(step * ellipses(seed, 64, (4, 9), 60, seen=0.4)) > 10
    assert assert_told_apart(random_objects(seed)) > 3


@pytest.mark.parametrize("gap", [0, 1, 2, 2 * NEAR - 1])
def test_near_objects_have_different_colours(gap):
    """Objects without their border, for example."""
    numbers = np.zeros((9, 40), np.uint16)
    numbers[2:6, :10], numbers[2:6, 10 + gap:20] = 5, 5 + len(OBJECT_COLOURS)
    assert assert_told_apart(numbers, gap + 1) == 1


def test_an_object_among_many():
    """40 objects around a large one; their numbers ask for one colour alone."""
    rows, columns = np.mgrid[-50:51, -50:51]
    radius, turn = np.hypot(rows, columns), np.arctan2(rows, columns)
    numbers = np.where(radius < 45, 2 + 11 * (1 + np.floor((turn + np.pi) * 6.3)), 0).astype(int)
    numbers[radius < 40] = 2
    assert len(np.unique(numbers)) == 42
    picture = colour_objects(numbers)
    (centre,) = colours_of(picture, numbers == 2)
    around = colours_of(picture, numbers > 2)
    assert centre not in around and len(around) > 1
    for number in np.unique(numbers[numbers > 2])[1:-1]:
        beside = colours_of(picture, numbers == number - 11) | colours_of(picture, numbers == 2)
        assert not colours_of(picture, numbers == number) & beside


def test_a_number_keeps_its_colour():
    """In a crop, in a turned picture, in one of other objects."""
    numbers = np.zeros((60, 60), np.int32)
    for k in range(16):
        numbers[15 * (k // 4):15 * (k // 4) + 5, 15 * (k % 4):15 * (k % 4) + 5] = 1000 + k
    picture = colour_objects(numbers)
    expected = [OBJECT_COLOURS[(1000 + k) % 11] for k in range(16)]
    assert [tuple(picture[15 * (k // 4), 15 * (k % 4)]) for k in range(16)] == expected
    assert (colour_objects(numbers[20:, 30:]) == picture[20:, 30:]).all()
    assert (colour_objects(np.rot90(numbers)) == np.rot90(picture)).all()
    assert not colour_objects(numbers * 0).any()


def test_shrinking_blends_no_two_objects():
    numbers = ellipses(3, 256)
    shown = show_objects(numbers, 100)
    assert shown.shape == (100, 100, 3)
    assert colours_of(shown, shown.any(axis=2)) <= set(OBJECT_COLOURS)
    assert (show_objects(numbers, 512) == colour_objects(numbers)).all()


def test_outlines():
    """The pixels of an object with a neighbour, of four, that is none of its own."""
    numbers = ellipses(2, 64)
    grey = np.random.default_rng(0).integers(0, 255, numbers.shape, np.uint8)
    padded, is_edge = np.pad(numbers, 1, "edge"), np.zeros(numbers.shape, bool)
    for row, column in ((0, 1), (1, 0), (1, 2), (2, 1)):
        is_edge |= padded[row:row + 64, column:column + 64] != numbers
    is_edge &= numbers > 0
    for picture in (grey, np.stack([grey, grey // 2, 255 - grey], axis=2)):
        before, outlined = picture.copy(), outline_objects(picture, numbers)
        assert (outlined[is_edge] == colour_objects(numbers)[is_edge]).all()
        as_rgb = picture if picture.ndim == 3 else np.stack([picture] * 3, axis=2)
        assert (outlined[~is_edge] == as_rgb[~is_edge]).all() and (picture == before).all()


# --------------------------------------------------------------------------------------- the answer
def test_a_prediction_keeps_its_objects(tmp_path):
    """With the border given back, so that they touch; of classes there are none."""
    dataset = nuclei_set(tmp_path)
    kept = perfect_predictions(dataset)["0"].objects
    target = training_target(dataset.objects(0)) > 0
    assert (read_png(kept) == whole_objects(target, 1)).all()
    assert len(kept) < target.size / 10, "that of every test image is kept"
    dataset.label_kind = "classes"
    assert perfect_predictions(dataset)["0"].objects is None


def test_more_objects_than_16_bits_hold():
    numbers = np.array([[0, 1, 65535, 65536, 65537, 2 * 65535 + 7]], np.int32)
    assert object_pixels(numbers).tolist() == [[0, 1, 65535, 1, 2, 7]]
    assert object_pixels(numbers).dtype == np.uint16


# ------------------------------------------------------------------------------------- the pictures
def assert_shows_objects(shown, dataset, index):
    """Label and prediction in colours of objects, where the mask is foreground and no more."""
    label = dataset.objects(index)
    assert (shown["label"] == colour_objects(label)).all()
    found = shown["prediction"]
    is_object = found.any(axis=2)
    mask = read_png(perfect_predictions(dataset)[dataset.name(index)].mask)
    assert (is_object == (mask > 0)).all()
    assert len(colours_of(found, is_object)) > 8 and colours_of(found, is_object) <= {
        *OBJECT_COLOURS}


def test_panels_of_objects(tmp_path):
    dataset = nuclei_set(tmp_path, ignore_label=2)
    shown = show_test(dataset, 1, perfect_predictions(dataset)["1"], 512)
    assert list(shown) == ["image", "label", "prediction", "probability", "errors"]
    assert_shows_objects(shown, dataset, 1)
    ignored = dataset.label(1) == IGNORED
    assert ignored.any() and (shown["label"][ignored] == PASSED_OVER).all()
    assert (shown["errors"][ignored] == PASSED_OVER).all()


def count_colours(path):
    """How many of OBJECT_COLOURS a picture has in more than 20 px."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    return sum((pixels == colour).all(axis=2).sum() > 20 for colour in OBJECT_COLOURS
               if colour != (255, 255, 255))


def test_overview_of_objects(tmp_path):
    """Where predictions are not at hand, their masks are shown; labels have their colours."""
    dataset = nuclei_set(tmp_path)
    predictions, look = perfect_predictions(dataset), tmp_path / "overview.png"
    write_predictions(tmp_path, predictions)

    def draw(**more):
        draw_overview(dataset, tmp_path, look, **more)
        with Image.open(look) as picture:
            panels = np.array_split(np.asarray(picture.convert("RGB")), 4, axis=1)
        counts = []
        for panel in panels:
            Image.fromarray(panel).save(tmp_path / "panel.png")
            counts.append(count_colours(tmp_path / "panel.png"))
        return counts
    image, label, prediction, errors = draw(predictions=predictions)
    assert (image, errors) == (0, 0) and min(label, prediction) >= 8
    assert draw() == draw(predictions={}) == [0, label, 0, 0]


def test_events_show_objects(tmp_path):
    dataset = nuclei_set(tmp_path / "data")
    events = EventLog(tmp_path / "events")
    events.predictions(3, dataset, perfect_predictions(dataset), count=1, longest=256)
    _, event = events_in(tmp_path / "events")
    (value,) = event.summary.value
    assert value.tag == "image, label, prediction, probability, errors/0"
    pixels = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
    panels = dict(zip(value.tag.split("/")[0].split(", "), np.array_split(pixels, 5, axis=1)))
    assert_shows_objects(panels, dataset, 0)


# ----------------------------------------------------------------------------------- the previews
@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("unlabelled", [0, 2 ** 32 - 1])
def test_previews_of_numbered_labels(tmp_path, monkeypatch, capsys, numbered, unlabelled):
    """A value too large for a number may mean "not labelled".  Previews have no flag for it."""
    pairs = write_nuclei(tmp_path, 1, size=128)
    image, label = pairs[0]
    if not numbered:
        write_png(label, ((read_label(label) > 0) * 255).astype(np.uint8))
    if unlabelled:
        numbers, numbered = read_label(label).astype(np.uint32), False
        numbers[:9, :9] = unlabelled
        label.unlink()
        label = label.with_suffix(".tif")
        write_pixels(label, numbers)
    for module, *words in (
            (Transforms, "--img", image, "--label", label),
            (DataAugmentation, "--img_path", tmp_path / "imgs", "--mask_path",
             tmp_path / "labels")):
        look = tmp_path / f"{module.__name__}.png"
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, words),
                                          "--preview", str(look)])
        assert run(module.main) == 0, capsys.readouterr().err
        assert (count_colours(look) >= 6) == numbered
