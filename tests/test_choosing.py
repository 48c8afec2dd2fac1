"""Threshold and smallest object: chosen on held-out images, kept in the checkpoint, used."""
import re
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.ndimage
import tifffile
from helpers import SMALL, Page, command, write_set
from nuclei import ellipses, random_objects
from PIL import Image

from datasets.labels import IGNORED
from datasets.objects import give_back_border, training_target
from masks.assess import assess
from masks.choosing import CUTS_OF_PROBABILITY, SIZES, choose_cut, score_cuts
from masks.object_bands import fill_bands
from masks.objects import connected_components, whole_objects, without_small
from masks.pixel_scores import mean_scores
from nets import checkpoint
from nets.cut import Cut, common_cut, cut_of_header

GRID = [Cut(threshold, size) for threshold in CUTS_OF_PROBABILITY for size in SIZES]
PLAIN = CUTS_OF_PROBABILITY.index(0.5), 0


def logits_of_probability(probability):
    return np.log(np.stack([1 - probability, probability]) + 1e-9).astype(np.float32)


def blurred(mask, seed, sigma=1.5):
    """Probabilities that a net may give for a mask: smooth, too low, with small false objects."""
    rng = np.random.default_rng(seed)
    noise = scipy.ndimage.gaussian_filter(rng.normal(0, 1, mask.shape), sigma)
    smooth = scipy.ndimage.gaussian_filter(mask.astype(float), sigma)
    return np.clip(0.8 * smooth + 0.4 * noise + 0.05, 0.001, 0.999)


def set_of_classes(label):
    return SimpleNamespace(are_objects=False, n_classes=2, label=lambda index: label)


def set_of_objects(objects):
    return SimpleNamespace(are_objects=True, n_classes=2, objects=lambda index: objects,
                           label=lambda index: np.minimum(objects, 1),
                           classes_of=lambda numbers: np.minimum(numbers, 1))


def by_hand(class_map, smallest):
    """A mask without the 8-connected components of fewer pixels, one after the other."""
    numbers, count = scipy.ndimage.label(class_map, np.ones((3, 3)))
    found = class_map.copy()
    for k in range(1, count + 1):
        if (numbers == k).sum() < smallest:
            found[numbers == k] = 0
    return found


# ------------------------------------------------------------------------------------ small objects
@pytest.mark.parametrize("smallest", [0, 1, 2, 5, 30, 10 ** 6])
@pytest.mark.parametrize("seed", range(3))
def test_small_objects_go(seed, smallest):
    class_map = (blurred(np.zeros((50, 40)), seed, 1) > 0.15).astype(np.uint8)
    expected = by_hand(class_map, smallest)
    np.testing.assert_array_equal(without_small(class_map, smallest), expected)
    assert (whole_objects(class_map, 0, smallest) > 0).tolist() == (expected > 0).tolist()
    for count in (1, 4, 50):
        bands = list(fill_bands(iter(np.array_split(class_map, count)), 0, smallest))
        assert {band.dtype for band in bands} == {np.dtype(np.uint8)}
        np.testing.assert_array_equal(np.concatenate(bands), expected)


@pytest.mark.parametrize("seed", range(4))
def test_small_objects_with_a_border(seed):
    """A component's size is counted without the border; what is large keeps its whole outline."""
    objects = random_objects(seed, (60, 45)) if seed % 2 else ellipses(seed, 64, (4, 9))
    class_map = (training_target(objects) > 0).astype(np.uint8)
    components = connected_components(class_map)
    pixels = np.bincount(components.ravel())
    smallest = int(np.median(pixels[1:])) + 1
    whole = give_back_border(components, 1)
    expected = np.where(pixels[whole] >= smallest, whole, 0)
    found = whole_objects(class_map, 1, smallest)
    assert sorted(np.unique(found)) == list(range(found.max() + 1)), "without gaps"
    np.testing.assert_array_equal(found > 0, expected > 0)
    pairs = {(a, b) for a, b in zip(found.ravel(), expected.ravel())}
    assert len(pairs) == len(np.unique(expected)), "one new number for each old one"
    bands = np.concatenate(list(fill_bands(iter(np.array_split(class_map, 7)), 1, smallest)))
    np.testing.assert_array_equal(bands, expected > 0)


# ----------------------------------------------------------------------------------------- the grid
@pytest.mark.parametrize("best_by", ["iou", "dice"])
def test_every_cut_of_classes(best_by):
    label = (ellipses(0, 48, (4, 9)) > 0).astype(np.int32)
    logits = logits_of_probability(blurred(label, 1))
    label[:, :5] = IGNORED
    dataset = set_of_classes(label)
    table = score_cuts(logits, dataset, 0, best_by)
    assert table.shape == (len(CUTS_OF_PROBABILITY), len(SIZES))
    expected = [assess(logits, dataset, 0, cut).scores[best_by] for cut in GRID]
    np.testing.assert_allclose(table.ravel(), expected, rtol=0, atol=1e-12)
    assert len(np.unique(table)) > 60, "sizes and thresholds matter here"
    assert table[PLAIN] == assess(logits, dataset, 0).scores[best_by]


@pytest.mark.parametrize("best_by", ["iou", "aji", "pq"])
def test_every_cut_of_objects(best_by):
    objects = 3 * ellipses(3, 48, (5, 9), tried=15)
    logits = logits_of_probability(blurred(training_target(objects) > 0, 2, 0.8))
    objects[40:, :9] = IGNORED
    dataset = set_of_objects(objects)
    table = score_cuts(logits, dataset, 0, best_by)
    some = np.random.default_rng(0).choice(len(GRID), 80, replace=False)
    expected = [assess(logits, dataset, 0, GRID[k]).scores[best_by] for k in some]
    np.testing.assert_allclose(table.ravel()[some], expected, rtol=0, atol=1e-12)
    assert len(np.unique(table.ravel()[some])) > 10


def test_an_image_without_foreground():
    """Nothing found scores 1, as everywhere; something found scores 0."""
    probability = np.full((20, 20), 0.1)
    probability[3:5, 3:6] = 0.72
    table = score_cuts(logits_of_probability(probability),
                       set_of_classes(np.zeros((20, 20), np.int32)), 0, "iou")
    for k, cut in enumerate(GRID):
        pixels = 400 if cut.threshold < 0.09 else 6 if cut.threshold < 0.72 else 0
        found = 0 < max(1, cut.smallest_object) <= pixels
        assert table.ravel()[k] == (0 if found else 1) or abs(cut.threshold - 0.1) < 1e-6


def test_the_plain_cut_is_the_likeliest_class():
    """To the bit, logits that are equal or nearly so included."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1e-6, (2, 64, 64)).astype(np.float32)
    logits[:, :9] = 1
    found = assess(logits, set_of_classes(np.ones((64, 64), np.int32)), 0)
    assert found.scores["iou"] == logits.argmax(axis=0).mean()


# --------------------------------------------------------------------------------------- the choice
def tables_of(places, count=6):
    """Tables: the plain Cut scores 0.8, these places more or less, others 0.5.

    places: {(threshold, size): gains}.
    """
    tables = np.full((count, len(CUTS_OF_PROBABILITY), len(SIZES)), 0.5)
    tables[(slice(None), *PLAIN)] = 0.8
    for (threshold, size), gains in places.items():
        place = CUTS_OF_PROBABILITY.index(threshold), SIZES.index(size)
        tables[(slice(None), *place)] = 0.8 + np.asarray(gains)
    return list(tables)


def test_the_highest_mean_is_chosen():
    choice = choose_cut(tables_of({(0.35, 12): 0.01, (0.4, 0): 0.008, (0.7, 96): [0, 0.04] * 3}))
    assert choice.cut == choice.best == Cut(0.7, 96) and choice.is_real
    assert (choice.score, choice.plain) == pytest.approx((0.82, 0.8))
    assert choice.describe("dice") == (
        "Chosen on 6 held-out images: threshold 0.7, smallest object 96 px: "
        "Dice 0.8200 instead of 0.8000")


def test_equal_cuts_give_the_plainest():
    tables = tables_of({place: 0.01 for place in [
        (0.3, 0), (0.6, 96), (0.4, 12), (0.4, 8), (0.65, 0)]})
    assert choose_cut(tables).cut == Cut(0.4, 8)
    choice = choose_cut(tables_of({(0.4, 8): 0.0}))
    assert choice.best == Cut() and not choice.is_real
    assert choice.describe("iou") == (
        "Threshold and smallest object stay as they are: on 6 held-out images no others have a "
        "higher IoU than 0.8000")


@pytest.mark.parametrize("gains", [[0.2, 0, 0, 0, 0, 0], [0.1, -0.09] * 3])
def test_what_one_image_alone_gains_from_is_chance(gains):
    choice = choose_cut(tables_of({(0.4, 0): gains}))
    assert choice.best == Cut(0.4, 0) and choice.score > choice.plain and choice.cut == Cut()
    assert choice.describe("iou").endswith("instead of 0.8000) may be chance")


def test_one_image_chooses_nothing():
    choice = choose_cut(tables_of({(0.4, 0): 0.1}, count=1))
    assert (choice.best, choice.cut) == (Cut(0.4, 0), Cut())
    assert "on 1 held-out image the best others" in choice.describe("iou")
    assert choose_cut(tables_of({(0.4, 0): 0.1}, count=2)).cut == Cut(0.4, 0)


@pytest.mark.parametrize("optimum, fewest, most", [(0.5, 0, 9), (0.3, 45, 60)])
def test_chance_seldom_chooses_and_a_real_gain_mostly(optimum, fewest, most):
    """60 sets of six images, each of which has its own best threshold, around a common one."""
    thresholds, chosen, better = np.array(CUTS_OF_PROBABILITY)[:, None], 0, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        tables = [0.85 - 0.4 * (thresholds - rng.normal(optimum, 0.12)) ** 2 - 0.0005 * np.abs(
                      np.arange(len(SIZES)) - max(0, rng.normal(0, 4))) for _ in range(6)]
        choice = choose_cut(tables)
        chosen += choice.is_real
        better += choice.score > choice.plain
    assert better > 40 and fewest <= chosen <= most


# --------------------------------------------------------------------------------------- the header
def test_a_cut_in_a_header():
    assert cut_of_header({}, 2) == cut_of_header({}, 5) == Cut() == (0.5, 0)
    assert cut_of_header({"threshold": 0.35, "smallest_object": 12}, 2) == Cut(0.35, 12)
    for header in ({"threshold": 0.0}, {"threshold": 1.0}, {"threshold": 1}, {"threshold": "0.4"},
                   {"threshold": None}, {"threshold": float("nan")}, {"smallest_object": -1},
                   {"smallest_object": 2.0}, {"smallest_object": True}):
        with pytest.raises(ValueError):
            cut_of_header(header, 2)
    with pytest.raises(ValueError):
        cut_of_header({"threshold": 0.4}, 3)
    assert common_cut([Cut()] * 5) == Cut()
    assert common_cut([Cut(0.4, 0), Cut(0.5, 8), Cut(0.75, 500)]) == Cut(pytest.approx(0.55), 8)


# -------------------------------------------------------------------------------------- a real run
@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a short run that holds back three of nine images, and its output."""
    folder = tmp_path_factory.mktemp("run")
    write_set(folder / "set", [(64, 64)] * 9, [(64, 50)] * 3)
    done = command("Main.py", "--Data_directory", "set", *SMALL, "--Total_epochs", 2,
                   "--Val_epochs", 1, "--val_fraction", 0.34, "--loss", "ce", cwd=folder)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return SimpleNamespace(folder=folder, stdout=done.stdout)


def predict(folder, *flags):
    done = command("Predict.py", "--Input", "set/test/imgs", "--device", "cpu", "--overwrite",
                   "--probabilities", *flags, cwd=folder)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.jittor
def test_the_checkpoint_keeps_what_was_chosen(run):
    """The grid's best, recomputed from the held-out images; the results are cut with it."""
    from datasets.pairs import pair_by_name
    from datasets.segmentation import SegmentationSet
    from datasets.splits import hold_back
    from images.values import Statistics
    from Model import build_model
    from nets.geometry import UNET_BILINEAR
    from Process import predict_image
    weights, header = checkpoint.load(run.folder / "checkpoints" / "best_model.safetensors")
    pairs = pair_by_name(run.folder / "set/train/imgs", run.folder / "set/train/labels")
    held = SegmentationSet(hold_back(pairs, 0.34, 0).held, 1, 2,
                           Statistics(header["mean"], header["std"], header["dtype"]))
    model = build_model("Unet", 1, 2, **header["options"])
    checkpoint.assign_weights(model, weights, "best_model")
    model.eval()
    logits = [predict_image(model, held.image(k), UNET_BILINEAR) for k in range(len(held))]
    choice = choose_cut([score_cuts(each, held, k, "iou") for k, each in enumerate(logits)])
    assert Cut(header["threshold"], header["smallest_object"]) == choice.cut
    assert choice.describe("iou") in run.stdout
    plain = mean_scores([assess(each, held, k).scores for k, each in enumerate(logits)])
    assert plain["iou"] == pytest.approx(header["scores"]["iou"], abs=1e-6)
    assert choice.plain == pytest.approx(plain["iou"], abs=1e-6)
    (page,) = (run.folder / "logs").glob("report_*.html")
    assert f"with {choice.cut}" in re.sub(r"\s+", " ", Page(page).text)
    predict(run.folder)
    for file in (run.folder / "results").glob("cell_*_pred.png"):
        same = Image.open(run.folder / "predictions" / file.name)
        np.testing.assert_array_equal(np.asarray(Image.open(file)), np.asarray(same))


def cut_that_matters(probabilities):
    """A Cut that leaves out a component of one of these probabilities, (H, W) each."""
    for threshold in np.quantile(probabilities[0], np.linspace(0.05, 0.95, 60)):
        pixels = [np.bincount(connected_components(each > np.float32(threshold)).ravel())[1:]
                  for each in probabilities]
        if any(len(each) > 2 for each in pixels):
            return Cut(float(threshold), int(min(map(min, pixels))) + 1)
    raise AssertionError("every threshold leaves one component")


@pytest.mark.jittor
def test_predictions_are_cut_as_the_checkpoint_says(run):
    """Masks: the probabilities above the threshold, without small components; in ensembles too."""
    best = run.folder / "checkpoints" / "best_model.safetensors"
    weights, header = checkpoint.load(best)
    predict(run.folder)
    probabilities = {path.name[:6]: np.load(path)
                     for path in (run.folder / "predictions").glob("*_prob.npy")}
    cut = cut_that_matters([each[1] for each in probabilities.values()])
    cuts = [cut, Cut(cut.threshold - 0.02, 0), Cut(cut.threshold + 0.02, 2 * cut.smallest_object)]
    names = [f"cut{k}.safetensors" for k in range(3)]
    for name, each in zip(names, cuts):
        checkpoint.save(run.folder / name, weights, {**header, **each._asdict()})
    out = predict(run.folder, "--Checkpoint", names[0], "--overlay", "--instances")
    assert f"; {cut}; " in out.splitlines()[0]

    def check(cut):
        changed = 0
        for name, probability in probabilities.items():
            found = run.folder / "predictions" / name
            np.testing.assert_allclose(np.load(f"{found}_prob.npy"), probability, atol=1e-6)
            above = np.load(f"{found}_prob.npy")[1] > np.float32(cut.threshold)
            expected = by_hand(above.astype(np.uint8), cut.smallest_object)
            mask = np.asarray(Image.open(f"{found}_pred.png"))
            np.testing.assert_array_equal(mask, 255 * expected)
            changed += (expected != above).sum()
        assert changed, "there were small components"
    check(cut)
    for name in probabilities:
        mask = np.asarray(Image.open(run.folder / "predictions" / f"{name}_pred.png"))
        numbers = tifffile.imread(run.folder / "predictions" / f"{name}_instances.tif")
        np.testing.assert_array_equal(numbers > 0, mask > 0)
    out = predict(run.folder, "--Checkpoint", *names[1:])
    assert common_cut(cuts[1:]) == Cut(pytest.approx(cut.threshold), cut.smallest_object)
    assert f"; {cut}; " in out.splitlines()[2]
    check(common_cut(cuts[1:]))
