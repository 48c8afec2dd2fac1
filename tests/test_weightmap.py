"""WeightMap.py: against the definition written out, at its limits, and with a damaged cache."""
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nuclei import ellipses
from PIL import Image
from scipy import ndimage

import WeightMap
from command.errors import DataError
from images.formats import write_pixels, write_png
from WeightMap import WeightMaps, border_weights, class_weights, compute_weight_map

ROOT = Path(WeightMap.__file__).resolve().parent


def by_definition(label, w0=10, sigma=5):
    """Equation 2 word by word: the distances to every single object in the image, sorted."""
    ratio = {value: label.size / np.sum(label == value) for value in np.unique(label)}
    weight = np.vectorize(ratio.get, otypes=[float])(label) / max(ratio.values())
    objects, count = ndimage.label(label > 0, structure=np.ones((3, 3)))
    if count < 2:
        return weight
    edt = ndimage.distance_transform_edt
    distances = [edt(objects != k) + edt(objects == k) for k in range(1, count + 1)]
    distances = np.sort(distances, axis=0)
    return weight + w0 * np.exp(-(distances[0] + distances[1]) ** 2 / (2 * sigma ** 2))


def blobs(rng, height, width, smooth, level=0.5):
    noise = ndimage.gaussian_filter(rng.random((height, width)), smooth)
    return noise > np.quantile(noise, level)


def rings():
    rows, columns = np.mgrid[:50, :61]
    return np.hypot(rows - 25, columns - 30) % 9 < 4


def labels():
    rng = np.random.default_rng(0)
    giant = np.ones((60, 70), int)
    giant[10:50, 10:60] = rng.random((40, 50)) < 0.05  # one object around many pixels
    corners = np.zeros((40, 30), int)
    corners[[0, 0, -1, -1], [0, -1, 0, -1]] = 1
    diagonal = np.eye(20, dtype=int)
    diagonal[15, 2] = 1
    return {
        "blobs": blobs(rng, 64, 80, 3), "few blobs": blobs(rng, 80, 64, 4, 0.8),
        "dense": blobs(rng, 64, 64, 2, 0.2),
        "single pixels": rng.random((64, 64)) < 0.03, "noise": rng.random((40, 50)) < 0.3,
        "rings with an island": rings(),
        "giant": giant, "corners": corners, "touching by a corner": diagonal,
        "many classes": blobs(rng, 64, 64, 2) * rng.integers(1, 6, (64, 64)),
        "one row": rng.random((1, 90)) < 0.3, "one column": rng.random((90, 1)) < 0.3,
        "stripes": np.arange(60)[:, None] % 4 * np.ones(50, int) > 1,
    }


@pytest.mark.parametrize("name", labels())
@pytest.mark.parametrize("w0, sigma", [(10, 5), (1000, 2), (1, 0.5), (10, 40)])
def test_equals_the_definition(name, w0, sigma):
    label = labels()[name].astype(np.uint8)
    weight_map = compute_weight_map(label, w0, sigma)
    assert weight_map.dtype == np.float32 and weight_map.shape == label.shape
    np.testing.assert_allclose(weight_map, by_definition(label, w0, sigma), rtol=1e-6, atol=1e-4)


def test_random_small_labels_equal_the_definition():
    rng = np.random.default_rng(1)
    for _ in range(100):
        label = (rng.random(rng.integers(1, 25, 2)) < rng.random()) * rng.integers(1, 4)
        expected = by_definition(label, 10, 3)
        np.testing.assert_allclose(compute_weight_map(label, 10, 3), expected, atol=1e-4)


def test_by_hand():
    label = np.zeros((5, 5), int)
    label[:, 0] = label[:, 4] = 1  # two bars, three pixels of background between them
    across = np.array([1 + 4, 1 + 3, 2 + 2, 3 + 1, 4 + 1])  # d1 + d2; in a bar d1 is 1
    expected = np.tile(10 * np.exp(-across ** 2 / 50), (5, 1))
    np.testing.assert_allclose(border_weights(label, 10, 5), expected, rtol=1e-6)
    expected = [1, 10 / 15, 10 / 15, 10 / 15, 1]
    np.testing.assert_allclose(class_weights(label)[0], expected, rtol=1e-6)


def test_class_weights_give_the_rarest_class_one():
    label = np.repeat([0, 3, 200], [60, 30, 10]).reshape(10, 10).astype(np.uint8)
    weights = class_weights(label)
    found = [weights[label == value][0] for value in (0, 3, 200)]
    assert np.allclose(found, [10 / 60, 10 / 30, 1])


@pytest.mark.parametrize("value", [0, 1, 7])
def test_one_class_only(value):
    assert (compute_weight_map(np.full((6, 4), value)) == 1).all()


def test_ignored_pixels_count_nowhere():
    """They are no part of an object, of a class's number of pixels, or of the map."""
    label = blobs(np.random.default_rng(2), 40, 50, 3).astype(int)
    ignored = np.zeros(label.shape, bool)
    ignored[5:20, 10:30] = True
    marked, cut = np.where(ignored, -1, label), np.where(ignored, 0, label)
    counts = np.bincount(label[~ignored])
    expected = (counts.min() / counts)[cut] + border_weights(cut)
    expected = np.where(ignored, 0, expected)
    np.testing.assert_allclose(compute_weight_map(marked), expected, rtol=1e-6)
    assert not compute_weight_map(np.full((5, 5), -1)).any()


def test_no_border_term():
    one_object = np.eye(9, dtype=int)
    assert not border_weights(one_object).any()  # a diagonal is one 8-connected object
    assert not border_weights(np.tile([1, 0], (4, 4)), w0=0).any()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("sigma, expected", [(1e-300, 0), (0.1, 0), (1e200, 10)])
def test_extreme_sigma(sigma, expected):
    assert (border_weights(np.tile([1, 0], (4, 4)), 10, sigma) == expected).all()


@pytest.mark.parametrize("arguments", [dict(sigma=0), dict(sigma=-1), dict(sigma=float("nan")),
                                       dict(w0=-1), dict(w0=float("inf"))])
def test_refuses_wrong_parameters(arguments):
    with pytest.raises(ValueError):
        compute_weight_map(np.eye(4, dtype=int), **arguments)


@pytest.mark.parametrize("label", [np.zeros((2, 2, 2), int), np.zeros((2, 2)),
                                   np.zeros((0, 3), int), -2 * np.eye(3, dtype=int)])
def test_refuses_what_is_no_label(label):
    with pytest.raises(ValueError):
        compute_weight_map(label)


def test_types_of_label_agree():
    label = rings()
    for dtype in (np.uint8, np.uint16, np.int32, np.int64):
        assert (compute_weight_map(label.astype(dtype)) == compute_weight_map(label)).all()


# ---------------------------------------------------------------------------------------- the cache
LABEL = rings().astype(np.int64)


@pytest.fixture
def computed(monkeypatch):
    """The arguments of every real computation, in order."""
    calls = []

    def counting(label, w0, sigma, numbered):
        calls.append((w0, sigma))
        return compute_weight_map(label, w0, sigma, numbered)
    monkeypatch.setattr(WeightMap, "compute_weight_map", counting)
    return calls


def cached(folder, label=LABEL, w0=10, sigma=5):
    weight_map = WeightMaps(folder / "maps", w0, sigma).read("data/labels/frame_1.png", label)
    assert weight_map.dtype == np.float32 and weight_map.flags.writeable
    assert (weight_map == compute_weight_map(label, w0, sigma)).all()
    return weight_map


def test_second_time_is_read(tmp_path, computed):
    cached(tmp_path)
    cached(tmp_path, LABEL.astype(np.uint8), w0=10.0, sigma=5.0)  # equal values, other types
    assert len(computed) == 1
    names = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert names == ["frame_1.npy", "frame_1.png"]


def test_defaults_are_the_papers(tmp_path):
    found = WeightMaps(tmp_path).read("frame_1.png", LABEL)
    assert (found == compute_weight_map(LABEL, w0=10, sigma=5)).all()


@pytest.mark.parametrize("change", [dict(w0=11), dict(sigma=4), dict(label=1 - LABEL),
                                    dict(label=LABEL[:, :-1]), dict(label=LABEL.reshape(61, 50))])
def test_a_change_is_computed(tmp_path, computed, change):
    cached(tmp_path)
    cached(tmp_path, **change)
    cached(tmp_path, **change)
    assert len(computed) == 2


def overwrite_with_array(path):
    np.save(path, np.zeros((2, 2), np.float32))


@pytest.mark.parametrize("name, damage", [
    ("frame_1.npy", lambda path: path.write_bytes(path.read_bytes()[:-100])),
    ("frame_1.npy", lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x01")),
    ("frame_1.npy", lambda path: path.write_bytes(b"")),
    ("frame_1.npy", overwrite_with_array),
    ("frame_1.npy", Path.unlink),
    ("frame_1.png", Path.unlink),
    ("frame_1.png", lambda path: path.write_bytes(b"no picture")),
    ("frame_1.png", lambda path: path.write_bytes(path.read_bytes()[:30])),
    ("frame_1.png", lambda path: Image.new("L", (61, 50)).save(path)),
])
def test_damage_is_computed_again(tmp_path, computed, name, damage):
    cached(tmp_path)
    damage(tmp_path / "maps" / name)
    cached(tmp_path)
    cached(tmp_path)
    assert len(computed) == 2


@pytest.mark.parametrize("last_step", ["atomic_write", "_write_picture"])
def test_stopped_between_the_files(tmp_path, computed, monkeypatch, last_step):
    def stop(*_):
        raise KeyboardInterrupt
    cached(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(WeightMap, last_step, stop)
        with pytest.raises(KeyboardInterrupt):
            cached(tmp_path, sigma=3)
    assert not (tmp_path / "maps" / "frame_1.png").exists()
    cached(tmp_path)  # neither the old key nor the new one vouches for what lies there
    assert computed == [(10, 5), (10, 3), (10, 5)]


def test_pair_of_two_writers_is_not_trusted(tmp_path, computed):
    cached(tmp_path)
    picture = (tmp_path / "maps" / "frame_1.png").read_bytes()
    cached(tmp_path, sigma=3)
    # one writer's picture beside the other one's array
    (tmp_path / "maps" / "frame_1.png").write_bytes(picture)
    cached(tmp_path)
    assert len(computed) == 3


def test_picture_is_dark_where_the_weight_is_high(tmp_path):
    weight_map = cached(tmp_path)
    picture = np.asarray(Image.open(tmp_path / "maps" / "frame_1.png"))
    assert picture.shape == LABEL.shape and picture.dtype == np.uint8
    assert (picture[weight_map == weight_map.max()] == 0).all()
    assert (picture[weight_map == weight_map.min()] == 255).all()


def test_constant_map_has_a_picture(tmp_path, computed):
    cached(tmp_path, np.zeros((5, 5), int))
    cached(tmp_path, np.zeros((5, 5), int))
    assert len(computed) == 1


def test_a_map_is_verified_once_and_then_read_in_parts(tmp_path, computed, monkeypatch):
    """And again where another run has put its map there, or where the file is gone."""
    maps, asked = WeightMaps(tmp_path / "maps"), []

    def opened(by=maps):
        found = by.open("labels/frame_1.png", lambda: asked.append(1) or LABEL)
        assert found.dtype == np.float32
        assert (found == compute_weight_map(LABEL, by.w0, by.sigma)).all()
        return isinstance(found.base, np.memmap)
    assert not opened() and not opened(), "computed; then read and verified"
    assert opened() and opened() and len(asked) == 2 and len(computed) == 1
    assert not opened(WeightMaps(tmp_path / "maps", sigma=3)), "of another run"
    assert not opened() and not opened() and opened() and len(asked) == 5 and len(computed) == 3
    (tmp_path / "maps" / "frame_1.npy").unlink()
    assert not opened() and not opened() and opened()


def test_folder_that_cannot_be(tmp_path):
    (tmp_path / "maps").write_text("a file")
    with pytest.raises(DataError):
        cached(tmp_path)


# -------------------------------------------------------------------------------------- the picture
def draw(*arguments, folder, **options):
    command = [sys.executable, ROOT / "Loss.py", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, **options)


def test_draws_without_jittor(tmp_path):
    Image.fromarray((LABEL * 255).astype(np.uint8)).save(tmp_path / "cells.png")
    (tmp_path / "jittor.py").write_text("raise ImportError('Loss.py must not import jittor')")
    done = draw("--label", "cells.png", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Wrote cells_weights.png\n", "")
    with Image.open(tmp_path / "cells_weights.png") as picture:
        assert picture.width > 3 * picture.height


def test_draws_a_mask_of_32_bits(tmp_path):
    """In little memory: a table of all values up to the largest would take 34 GB."""
    write_pixels(tmp_path / "cells.tif", LABEL.astype(np.uint32) * (2 ** 32 - 1))
    done = draw("--label", "cells.tif", folder=tmp_path, preexec_fn=lambda: resource.setrlimit(
        resource.RLIMIT_AS, (2 ** 33, 2 ** 33)))
    assert (done.returncode, done.stdout, done.stderr) == (0, "Wrote cells_weights.png\n", "")


def test_draws_numbered_objects(tmp_path):
    write_png(tmp_path / "cells.png", ellipses(1, 128).astype(np.uint16))
    pictures = []
    for flags, says in (((), True), (("--label_kind", "objects"), False),
                        (("--label_kind", "classes"), False)):
        done = draw("--label", "cells.png", *flags, folder=tmp_path)
        assert done.returncode == 0 and done.stdout.endswith("Wrote cells_weights.png\n")
        assert ("--label_kind classes" in done.stdout) is says
        pictures.append((tmp_path / "cells_weights.png").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


@pytest.mark.parametrize("arguments, code, words", [
    ((), 2, "--label"),
    (("--label", "cells.png", "--Loss_sigma", "0"), 2, "--Loss_sigma"),
    (("--label", "cells.png", "--Loss_w0", "-1"), 2, "--Loss_w0"),
    (("--label", "cells.png", "--output", "out.xyz"), 2, "out.xyz"),
    (("--label", "none.png"), 1, "none.png"),
    (("--label", "text.png"), 1, "text.png"),
])
def test_mistakes_are_answered_in_one_line(tmp_path, arguments, code, words):
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "cells.png")
    (tmp_path / "text.png").write_text("no image")
    done = draw(*arguments, folder=tmp_path)
    assert done.returncode == code and words in done.stderr and done.stderr.count("\n") == 1
