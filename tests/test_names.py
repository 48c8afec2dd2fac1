"""File names that differ in Unicode's normal form alone are one name, wherever names are matched.

NFC spells é as one character, NFD as two.  Each test has files of one form and asks for the other.
"""
import json
import unicodedata

import numpy as np
import pytest
import tifffile
from helpers import command

import Metrics
from command.errors import DataError, run
from command.names import canonical, canonical_path, find_file
from datasets.copies import Manifest
from datasets.lists import current_pairs
from datasets.pairs import find_pairs, pair_by_name
from datasets.splits import hold_back
from datasets.survey import Survey, digest_of_set
from images.formats import list_images, write_png
from masks.outputs import find_images
from masks.prediction_files import Wanted, pair_predictions, read_answers
from WeightMap import WeightMaps

ONE, TWO = (unicodedata.normalize(form, "é_Zürich_한국_ｶﾞ") for form in ("NFC", "NFD"))
SPELLINGS = pytest.mark.parametrize("first, second", [(ONE, TWO), (TWO, ONE)], ids=["NFC", "NFD"])


def image(seed=0):
    return np.random.default_rng(seed).integers(0, 255, (20, 24), np.uint8)


def label(seed=0):
    return np.where(image(seed) > 100, 255, 0).astype(np.uint8)


def write_split(folder, names, label_names, seed=0):
    for kind in ("imgs", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for k, (name, label_name) in enumerate(zip(names, label_names)):
        write_png(folder / "imgs" / f"{name}.png", image(seed + k))
        write_png(folder / "labels" / f"{label_name}.png", label(seed + k))


@pytest.fixture
def folder(tmp_path, request):
    """A data set whose names are spelled one way, and its labels' another way."""
    first, second = request.getfixturevalue("first"), request.getfixturevalue("second")
    write_split(tmp_path / "data" / "train", [first, "b"], [second, "b"])
    write_split(tmp_path / "data" / "test", [f"{first}1"], [f"{second}1"], seed=9)
    return tmp_path


def test_spellings(tmp_path):
    assert ONE != TWO and canonical(TWO) == canonical(ONE) == ONE
    assert canonical_path(tmp_path / TWO) == tmp_path / ONE
    (tmp_path / TWO).write_text("")
    assert find_file(tmp_path / ONE) == find_file(tmp_path / TWO) == tmp_path / TWO
    for missing in (tmp_path / "none" / ONE, tmp_path / "plain", tmp_path / f"{ONE}x"):
        assert find_file(missing) == missing
    (tmp_path / ONE).write_text("")
    assert find_file(tmp_path / ONE) == tmp_path / ONE


def test_two_spellings_in_one_folder_are_one_name_twice(tmp_path):
    write_split(tmp_path, [ONE, TWO], [ONE, TWO])
    with pytest.raises(DataError, match="has the same name; keep one of the two"):
        list_images(tmp_path / "imgs")
    with pytest.raises(DataError, match="its predictions would be named as those of"):
        find_images([tmp_path / "imgs" / f"{ONE}.png", tmp_path / "imgs" / f"{TWO}.png"],
                    tmp_path / "results")


@SPELLINGS
def test_pairs_lists_and_check(folder, make_data, first, second):
    pairs = find_pairs(folder / "data")
    # sorted by one spelling, so that an epoch has the same order for both
    assert [path.stem for pair in pairs["train"] for path in pair] == ["b", "b", first, second]
    assert current_pairs(folder / "data", folder / "DataTxt").train == pairs["train"]
    code, out, err = make_data("check", "--Data_directory", folder / "data")
    assert (code, err) == (0, "") and "3 pairs, sound" in out


@SPELLINGS
def test_an_edited_list_may_be_saved_in_another_spelling(folder, first, second):
    pairs = find_pairs(folder / "data")
    current_pairs(folder / "data", folder / "DataTxt")
    for kind in ("image", "label"):
        path = folder / "DataTxt" / f"train_{kind}.txt"
        text = unicodedata.normalize("NFC", path.read_text("utf-8").split("\n")[1])
        assert path.read_text("utf-8") != text
        path.write_text(text, "utf-8")
    assert current_pairs(folder / "data", folder / "DataTxt").train == pairs["train"][1:]
    for kind, names in (("image", (ONE, TWO)), ("label", (ONE, TWO))):
        for name in names:
            path = folder / "data" / "train" / ("imgs" if kind == "image" else "labels")
            write_png(path / f"{name}.png", image())
        (folder / "DataTxt" / f"train_{kind}.txt").write_text(
            "".join(f"{path / name}.png\n" for name in names), "utf-8")
    with pytest.raises(DataError, match="has the same name"):
        current_pairs(folder / "data", folder / "DataTxt")


@SPELLINGS
def test_a_set_has_one_digest(tmp_path, first, second):
    digests = set()
    for name, names in (("a", (first, first)), ("b", (first, second)), ("c", (second, second))):
        write_split(tmp_path / name, *([[each, "b"] for each in names]))
        pairs = pair_by_name(tmp_path / name / "imgs", tmp_path / name / "labels")
        digests.add(digest_of_set(Survey(), pairs))
    assert len(digests) == 1


@SPELLINGS
def test_copies_stay_copies(tmp_path, first, second):
    """The manifest knows the copies whose names another system has spelled otherwise."""
    names = [first, "b", f"{first}-0"]
    write_split(tmp_path, names[:2], names[:2])
    folders = tmp_path / "imgs", tmp_path / "labels"
    paths = [place / f"{first}-0.png" for place in folders]
    Manifest(*folders).write_files(paths, [(folders[0] / "b.png").read_bytes(),
                                           (folders[1] / "b.png").read_bytes()])
    originals = Manifest(*folders).original_pairs(Manifest(*folders).own_files())
    assert [pair[0].stem for pair in originals] == ["b", first]
    for path in [*paths, *(place / f"{first}.png" for place in folders)]:
        path.rename(path.with_name(path.name.replace(first, second)))
    manifest = Manifest(*folders)
    copies = {place / f"{second}-0.png" for place in folders}
    assert manifest.own_files() == manifest.listed_files() == copies
    assert all(map(manifest.lists, (*paths, *copies)))
    assert [pair[0].stem for pair in manifest.original_pairs(copies)] == ["b", second]
    pairs = pair_by_name(*folders)
    for seed in range(8):  # a copy goes with its original
        held = hold_back(pairs, 0.5, seed)
        (kept,) = {image.stem.removesuffix("-0") for image, _ in held.train}
        assert [image.stem for image, _ in held.held] == [({"b", second} - {kept}).pop()]
    (folders[0] / f"{second}-0.png").write_bytes(b"changed")
    with pytest.raises(DataError, match="changed since it was made here, its partner"):
        manifest.original_pairs(manifest.own_files())


@SPELLINGS
def test_groups(tmp_path, first, second):
    write_split(tmp_path, [f"{first}_1", f"{second}_2", "b_1"], [f"{first}_1", f"{first}_2", "b_1"])
    pairs = pair_by_name(tmp_path / "imgs", tmp_path / "labels")
    for pattern in ("(.*)_", f"({first}|b)_", f"({second}|b)_"):
        held = hold_back(pairs, 0.5, 0, pattern)
        assert {len(held.train), len(held.held)} == {1, 2}


@SPELLINGS
def test_weight_maps(tmp_path, first, second):
    maps = WeightMaps(tmp_path / "maps")
    wanted = maps.read(tmp_path / f"{first}.png", label() // 255)
    assert (maps.read(tmp_path / f"{second}.png", label() // 255) == wanted).all()
    assert len(list((tmp_path / "maps").glob("*.npy"))) == 1


@SPELLINGS
def test_predictions_and_labels(tmp_path, monkeypatch, first, second):
    monkeypatch.chdir(tmp_path)
    write_split(tmp_path, [], [])
    (tmp_path / "results").mkdir()
    (tmp_path / "instances").mkdir()
    truth = label()
    numbers = np.arange(truth.size, dtype=np.uint16).reshape(truth.shape) * (truth > 0)
    write_png(tmp_path / "labels" / f"{first}.png", truth)
    write_png(tmp_path / "instances" / f"{second}.png", numbers)
    write_png(tmp_path / "results" / f"{second}_pred.png", truth)
    np.save(tmp_path / "results" / f"{first}_prob.npy", (truth / np.float32(510)))
    (pair,) = pair_predictions(tmp_path / "results", tmp_path / "labels")
    (_, answer, wanted), = read_answers(pair, Wanted(2, instances=True, probability=True))
    assert (answer.classes == wanted.classes).all() and (wanted.instances == numbers).all()
    assert (answer.probability[1] == truth / np.float32(510)).all()
    monkeypatch.setattr("sys.argv", ["Metrics.py", "--Prediction_directory", "results",
                                     "--Label_directory", "labels", "--metric", "pixel"])
    assert run(Metrics.main) == 0


@SPELLINGS
def test_folders_and_annotations_of_ones_own(tmp_path, make_data, first, second):
    write_split(tmp_path, [first, "b"], [f"{second}_mask", "b_mask"])
    code, out, err = make_data("folders", "--images", "imgs", "--labels", "labels",
                               "--Data_directory", "set")
    assert (code, err) == (0, ""), out
    found = {path.stem for path in tmp_path.glob("set/*/*/*.png")}
    assert found == {ONE, "b"}, "one spelling in the set"
    (tmp_path / "json").mkdir()
    for name in (second, "b"):
        shape = {"label": "cell", "points": [[2, 2], [9, 2], [9, 9]], "shape_type": "polygon"}
        (tmp_path / "json" / f"{name}.json").write_text(json.dumps(
            {"shapes": [shape], "imageHeight": 20, "imageWidth": 24, "imagePath": f"{name}.png"}))
    code, out, err = make_data("annotations", "--images", "imgs", "--annotations", "json",
                               "--from", "labelme", "--label_kind", "objects",
                               "--Data_directory", "drawn")
    assert code == 0 and "without" not in out + err, out + err
    assert {path.stem for path in tmp_path.glob("drawn/*/*/*.png")} == {ONE, "b"}


def test_copies_are_made_and_removed(tmp_path):
    """By the command, where image and label are spelled differently."""
    write_split(tmp_path, [ONE], [TWO])
    flags = ("--img_path", "imgs", "--mask_path", "labels")
    done = command("DataAugmentation.py", *flags, "--sum", 1, "--workers", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / "imgs" / f"{ONE}-0.png", tmp_path / "labels" / f"{TWO}-0.png"):
        other = TWO if ONE in path.name else ONE
        path.rename(path.with_name(f"{other}-0.png"))
    again = command("DataAugmentation.py", *flags, "--sum", 1, "--workers", 1, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert {path.name for path in tmp_path.glob("*/*.png")} == {
        f"{name}{end}.png" for name in (ONE, TWO) for end in ("", "-0")}
    done = command("DataAugmentation.py", *flags, "--clean", cwd=tmp_path)
    assert done.stdout.startswith("2 augmented files removed")


def test_ome_tiff_and_its_label(tmp_path, monkeypatch, make_data):
    """`a.ome.tif` is the image of the label `a.png`, in every command that pairs files."""
    for kind in ("imgs", "labels", "results"):
        (tmp_path / kind).mkdir()
    for k, name in enumerate(("a", "b")):
        tifffile.imwrite(tmp_path / "imgs" / f"{name}.ome.tif", image(k))
        write_png(tmp_path / "labels" / f"{name}.png", label(k))
        write_png(tmp_path / "results" / f"{name}.ome_pred.png", label(k))  # as Predict.py names it
    code, out, err = make_data("folders", "--images", "imgs", "--labels", "labels",
                               "--Data_directory", "set", "--test_fraction", 0.5)
    assert (code, err) == (0, ""), out
    done = command("DataAugmentation.py", "--img_path", "imgs", "--mask_path", "labels", "--sum", 1,
                   "--workers", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    pairs = pair_by_name(tmp_path / "imgs", tmp_path / "labels")
    assert [(one.name, two.name) for one, two in pairs] == [
        ("a-0.png", "a-0.png"), ("a.ome.tif", "a.png"), ("b-0.png", "b-0.png"),
        ("b.ome.tif", "b.png")]
    held = hold_back(pairs, 0.5, 0)
    assert len(held.train) == 2 and len(held.held) == 1, "a copy goes with its original"
    for path in tmp_path.glob("labels/*-0.png"):
        path.unlink()
    monkeypatch.setattr("sys.argv", ["Metrics.py", "--Prediction_directory", "results",
                                     "--Label_directory", "labels", "--metric", "pixel"])
    assert run(Metrics.main) == 0
