"""DataAugmentation.py: the fields, the warps, and the command with its manifest."""
import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from matplotlib import pyplot
from nuclei import ellipses
from PIL import Image
from scipy import ndimage

import DataAugmentation
from command.errors import run
from DataAugmentation import (augment_pair, elastic_field, grid_field, make_field, warp_image,
                              warp_label)
from datasets import copies
from images.warp import gaussian_smooth

ROOT = Path(DataAugmentation.__file__).parent
MANIFEST = copies.MANIFEST


# ------------------------------------------------------------------------------------------ helpers
def blobs(shape, classes=2, seed=0, sigma=3):
    """A label of smooth blobs: uint8 (H, W), values 0 ... classes - 1, equally many of each."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    limits = np.quantile(smooth, np.arange(1, classes) / classes)
    return np.digitize(smooth, limits).astype(np.uint8)


def texture(shape, seed=0, dtype=np.uint8):
    """An image of smooth noise over the whole range of `dtype`."""
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, (2, 2, 0)[:len(shape)])
    largest = np.iinfo(dtype).max
    return np.interp(smooth, (smooth.min(), smooth.max()), (0, largest)).astype(dtype)


def make_set(tmp_path, names=("cell", "nerve"), shape=(48, 64)):
    """Folders imgs and labels with one grey PNG pair per name."""
    folders = tmp_path / "imgs", tmp_path / "labels"
    for folder in folders:
        folder.mkdir()
    for seed, name in enumerate(names):
        Image.fromarray(texture(shape, seed)).save(folders[0] / f"{name}.png")
        Image.fromarray(blobs(shape, seed=seed) * 255).save(folders[1] / f"{name}.png")
    return folders


def command(tmp_path, *flags):
    return [sys.executable, str(ROOT / "DataAugmentation.py"),
            "--img_path", str(tmp_path / "imgs"), "--mask_path", str(tmp_path / "labels"), *flags]


def augment_process(tmp_path, *flags, code=0):
    """Run the command as a process of its own: the CompletedProcess, after a look at its code."""
    done = subprocess.run(command(tmp_path, *flags), capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def augment(tmp_path, *flags, code=0):
    """Run the command inside this process, which saves its start: what it wrote to stderr."""
    with mock.patch.object(sys, "argv", command(tmp_path, *flags)[1:]), \
            contextlib.redirect_stdout(io.StringIO()), \
            contextlib.redirect_stderr(io.StringIO()) as error:
        assert run(DataAugmentation.main) == code, error.getvalue()
    return error.getvalue()


def contents(tmp_path):
    """{relative path: bytes} of every file below a folder."""
    return {str(path.relative_to(tmp_path)): path.read_bytes()
            for path in tmp_path.rglob("*") if path.is_file()}


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def refused(tmp_path, culprit, *flags):
    """The command ends with exit code 1 and one line that names `culprit`, and changes nothing."""
    before = contents(tmp_path)
    error = augment(tmp_path, *flags, code=1)
    assert contents(tmp_path) == before
    assert error.count("\n") == 1 and str(culprit) in error, error


# --------------------------------------------------------------------------------- fields and warps
@pytest.mark.parametrize("shape", [(64, 64), (37, 50), (1, 9)])
@pytest.mark.parametrize("sigma", [0, 0.4, 1.0, 5.12, 41.0])
def test_smoothing_is_the_gaussian_filter(shape, sigma):
    noise = np.random.default_rng(1).uniform(-1, 1, (2, *shape))
    expected = [ndimage.gaussian_filter(channel, sigma, mode="reflect") for channel in noise]
    np.testing.assert_allclose(gaussian_smooth(noise, sigma), expected, atol=1e-13)


def test_nothing_moves_without_alpha():
    image, label = texture((40, 56, 3)), blobs((40, 56), 3)
    warped, warped_label = augment_pair(image, label, np.random.default_rng(0), alpha_lv=0,
                                        alpha_affine_lv=0)
    assert (warped == image).all() and (warped_label == label).all()
    still = grid_field((40, 56), np.random.default_rng(0), sigma=0)
    assert np.array_equal(still, np.indices((40, 56)))


class FixedMoves:
    """A stand-in for a generator.

    The affine map's points move by `moves`, the elastic noise is `noise` everywhere.
    """

    def __init__(self, moves, noise=0.0):
        self.moves, self.noise = np.asarray(moves, float), noise

    def uniform(self, low, high, shape):
        return self.moves * high if shape == (3, 2) else np.full(shape, self.noise)


def test_affine_translation():
    label = blobs((30, 40), 4)
    field = elastic_field((30, 40), 0, 3, 1.0, FixedMoves([[4, -6]] * 3))
    shifted = warp_label(label, field)
    assert (shifted[4:, :-6] == label[:-4, 6:]).all()
    assert (shifted[:4, :-6] == label[1:5, 6:][::-1]).all(), "mirrored about the border pixel"


def test_affine_takes_its_points_where_they_moved():
    moves = np.array([[3.0, -2.0], [1.5, 4.0], [-2.5, 0.5]])
    field = elastic_field((60, 90), 0, 3, 1.0, FixedMoves(moves))
    points = np.array([30, 45]) + 20 * np.array([[1, 1], [-1, 1], [-1, -1]])
    for point, moved in zip(points, points + moves):
        came_from = [ndimage.map_coordinates(axis, moved[:, None], order=1)[0]
                     for axis in field]
        np.testing.assert_allclose(came_from, point, atol=1e-9)


def test_elastic_comes_before_the_inverse_affine():
    """out(x) = in(A^-1(x + d)): A^-1 also turns and shears a constant d of (5, 5) pixels."""
    moves = [[2, 1], [-3, 2], [0, -4]]
    affine = elastic_field((50, 50), 0, 3, 1.0, FixedMoves(moves))
    both = elastic_field((50, 50), 5, 3, 1.0, FixedMoves(moves, noise=1.0))
    np.testing.assert_allclose(both[:, :-5, :-5], affine[:, 5:, 5:], atol=1e-9)


def test_grid_field_has_the_papers_spread():
    fields = [grid_field((65, 65), np.random.default_rng(seed)) - np.indices((65, 65))
              for seed in range(200)]
    at_vectors = np.array(fields)[:, :, ::32, ::32]
    assert 9.5 < at_vectors.std() < 10.5
    drawn = np.random.default_rng(7).normal(0, 10, (2, 3, 3))
    np.testing.assert_allclose(fields[7][:, ::32, ::32], drawn, atol=1e-9)


@pytest.mark.parametrize("method", ["elastic", "grid"])
def test_image_and_label_move_together(method):
    label = blobs((128, 128), sigma=6)
    image, warped_label = augment_pair(label * 200, label, np.random.default_rng(3), method)
    assert ((image > 100) == warped_label).mean() > 0.99
    assert (warped_label != label).mean() > 0.02, "something moved"


def test_foreground_keeps_its_share_and_classes_their_values():
    label = np.array([0, 7, 255], np.uint8)[blobs((96, 96), 3, sigma=2)]
    shares = []
    for seed in range(20):
        warped = augment_pair(label, label, np.random.default_rng(seed))[1]
        assert warped.dtype == label.dtype and set(np.unique(warped)) <= {0, 7, 255}
        shares.append([(warped == value).mean() for value in (0, 7, 255)])
    np.testing.assert_allclose(np.mean(shares, axis=0), 1 / 3, atol=0.02)


def test_every_seed_name_and_copy_has_its_own_field():
    keys = [(0, "cell", 0), (1, "cell", 0), (0, "nerve", 0), (0, "cell", 1)]
    draws = {tuple(DataAugmentation.random_stream(*key).uniform(size=4)) for key in keys + keys}
    assert len(draws) == len(keys)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(48, 64), (48, 64, 3), (1, 1), (2, 70)])
def test_image_keeps_shape_and_dtype_and_never_wraps_around(dtype, shape):
    black_and_white = blobs(shape[:2], sigma=1).astype(dtype) * np.iinfo(dtype).max
    image = np.stack([black_and_white] * 3, axis=2) if len(shape) == 3 else black_and_white
    field = elastic_field(shape[:2], 20, 4, 2, np.random.default_rng(0))
    warped = warp_image(image, field)
    assert warped.shape == image.shape and warped.dtype == dtype
    exact = ndimage.map_coordinates(black_and_white.astype(float), field, order=3, mode="mirror")
    exact = np.rint(exact.clip(0, np.iinfo(dtype).max))
    difference = np.abs((warped if len(shape) == 2 else warped[..., 1]) - exact)
    assert difference.max() <= 1, "single precision may turn a rounding, no more"


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint32", "float16", "float32",
                                   "float64"])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_images_of_other_depths_are_warped_in_their_own_units(dtype, channels):
    """Against SciPy in double precision: values below 0 stay, floats are not rounded."""
    values = np.random.default_rng(0).normal(0, 1, (40, 52, channels))
    limits = np.finfo(dtype) if dtype[0] == "f" else np.iinfo(dtype)
    amount = min(float(limits.max) / 3, 1e9)
    image = (values * amount).clip(float(limits.min), float(limits.max)).astype(dtype)
    image = image[..., 0] if channels == 1 else image
    field = elastic_field((40, 52), 20, 4, 2, np.random.default_rng(0))
    warped = warp_image(image, field)
    assert warped.shape == image.shape and warped.dtype == dtype
    planes = image.reshape(40, 52, -1).astype(float)
    exact = np.stack([ndimage.map_coordinates(planes[..., k], field, order=3, mode="mirror")
                      for k in range(channels)], axis=2).clip(limits.min, limits.max)
    exact = np.rint(exact) if dtype[0] != "f" else exact
    step = 1 if dtype[0] != "f" else amount * max(limits.eps, 1e-7) * 10
    assert np.abs(warped.reshape(exact.shape).astype(float) - exact).max() <= step
    assert np.isfinite(warped).all()


# -------------------------------------------------------------------------------------- the command
def test_writes_copies_beside_the_originals(tmp_path):
    make_set(tmp_path)
    done = augment_process(tmp_path, "--sum", "3")
    for folder in ("imgs", "labels"):
        names = {path.name for path in (tmp_path / folder).iterdir()} - {MANIFEST}
        assert names == {f"{name}{copy}.png" for name in ("cell", "nerve")
                         for copy in ("", "-0", "-1", "-2")}
    assert set(np.unique(read(tmp_path / "labels" / "cell-2.png"))) <= {0, 255}
    assert done.stdout.startswith("6 pairs written") and "--clean" in done.stdout
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_same_seed_same_bytes(tmp_path):
    runs = {"a": ["--workers", "1"], "b": ["--workers", "3"], "c": ["--seed", "1"]}
    for name, flags in runs.items():
        (tmp_path / name).mkdir()
        make_set(tmp_path / name, ("aside", "cell", "nerve") if name == "b" else ("cell", "nerve"))
        if name == "b":  # the same two pairs and one more before them
            for path in (tmp_path / "a").rglob("*.png"):
                if path.stem in ("cell", "nerve"):
                    (tmp_path / "b" / path.parent.name / path.name).write_bytes(path.read_bytes())
        augment(tmp_path / name, *flags)
    for copy in ("cell-0", "cell-1", "nerve-0", "nerve-1"):
        first, more, other = ((tmp_path / name / "imgs" / f"{copy}.png").read_bytes()
                              for name in "abc")
        assert first == more != other
    one, two = ((tmp_path / "a" / "imgs" / f"cell-{k}.png").read_bytes() for k in (0, 1))
    assert one != two


def test_runs_again_on_its_own_files(tmp_path):
    make_set(tmp_path)
    augment(tmp_path)
    first = contents(tmp_path)
    augment(tmp_path)
    assert contents(tmp_path) == first, "same files, same bytes, the manifest too"
    augment(tmp_path, "--sum", "1", "--seed", "5")
    after = contents(tmp_path)
    assert set(after) == {name for name in first if "-1" not in name}
    assert after["imgs/cell-0.png"] != first["imgs/cell-0.png"]
    assert after["imgs/cell.png"] == first["imgs/cell.png"]
    augment(tmp_path)
    again = contents(tmp_path)
    assert again.keys() == first.keys()
    assert all(again[name] == first[name] for name in first if MANIFEST not in name)


def test_manifest_lists_every_file(tmp_path):
    make_set(tmp_path)
    augment(tmp_path)
    entries = [json.loads(line) for line in (tmp_path / "imgs" / MANIFEST).read_text().splitlines()]
    folders = {"image": "imgs", "label": "labels"}
    listed = {(folders[entry["folder"]], entry["file"]): entry["sha256"] for entry in entries}
    made = {(path.parent.name, path.name): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in tmp_path.rglob("*-?.png")}
    assert listed == made and len(made) == 8


def test_copies_of_a_lossy_label_keep_the_foreground(tmp_path):
    """A JPEG's blurred edge would all be foreground in a copy that is read with `> 0`."""
    make_set(tmp_path, ["cell"])
    sharp = tmp_path / "labels" / "cell.png"
    Image.open(sharp).save(sharp.with_suffix(".jpg"), quality=80)
    share = (np.asarray(Image.open(sharp)) > 0).mean()
    sharp.unlink()
    augment(tmp_path, "--sum", "3", "--alpha_lv", "0", "--alpha_affine_lv", "0")
    for copy in range(3):
        label = np.asarray(Image.open(tmp_path / "labels" / f"cell-{copy}.png"))
        assert set(np.unique(label)) == {0, 255} and abs((label > 0).mean() - share) < 0.002


def test_clean_names_what_it_leaves(tmp_path):
    make_set(tmp_path, ["cell"])
    augment(tmp_path, "--sum", "2")
    changed = tmp_path / "imgs" / "cell-1.png"
    Image.fromarray(texture((48, 64), 7)).save(changed)
    told = augment(tmp_path, "--clean")
    assert told == f"{changed}: left, for it was changed since it was made here\n"
    assert sorted(contents(tmp_path)) == ["imgs/cell-1.png", "imgs/cell.png", "labels/cell.png"]


def test_clean_leaves_the_users_files(tmp_path):
    make_set(tmp_path, names=("cell", "cell-1", "nerve"))
    before = contents(tmp_path)
    augment(tmp_path, "--sum", "1")
    augment(tmp_path, "--clean")
    assert contents(tmp_path) == before
    augment(tmp_path, "--clean")
    assert contents(tmp_path) == before


def test_an_edited_copy_is_the_users(tmp_path):
    make_set(tmp_path)
    augment(tmp_path)
    edited = tmp_path / "imgs" / "cell-1.png"
    Image.fromarray(texture((48, 64), 9)).save(edited)
    refused(tmp_path, edited)
    refused(tmp_path, edited, "--sum", "1")
    label = tmp_path / "labels" / "cell-1.png"
    Image.fromarray(blobs((48, 64), seed=9)).save(label)
    refused(tmp_path, edited)  # would be overwritten
    mine = edited.read_bytes(), label.read_bytes()
    augment(tmp_path, "--sum", "1")
    assert (tmp_path / "labels" / "cell-1-0.png").exists(), "an original like any other"
    augment(tmp_path, "--clean")
    assert (edited.read_bytes(), label.read_bytes()) == mine
    names = sorted(path.name for path in (tmp_path / "imgs").iterdir())
    assert names == ["cell-1.png", "cell.png", "nerve.png"]


def test_collision_changes_nothing(tmp_path):
    imgs, labels = make_set(tmp_path, names=("cell", "cell-1"))
    refused(tmp_path, imgs / "cell-1.png")
    augment(tmp_path, "--sum", "1")
    refused(tmp_path, imgs / "cell-1.png", "--sum", "2")
    for folder in (imgs, labels):
        (folder / "cell-1.png").rename(folder / "cell-1.bmp")  # a copy would have the same stem
    refused(tmp_path, imgs / "cell-1.bmp", "--sum", "2")


def test_missing_partner(tmp_path):
    imgs, labels = make_set(tmp_path)
    (labels / "nerve.png").rename(tmp_path / "nerve.png")
    refused(tmp_path, imgs / "nerve.png")


def test_sizes_differ(tmp_path):
    _, labels = make_set(tmp_path)
    Image.fromarray(blobs((48, 63))).save(labels / "nerve.png")
    refused(tmp_path, labels / "nerve.png")


def test_unreadable_file(tmp_path):
    imgs, labels = make_set(tmp_path)
    augment(tmp_path)
    whole = (imgs / "nerve.png").read_bytes()
    (imgs / "nerve.png").write_bytes(whole[:len(whole) // 2])
    before = contents(tmp_path)
    done = augment_process(tmp_path, "--sum", "1", code=1)
    assert str(imgs / "nerve.png") in done.stderr and done.stderr.count("\n") == 1
    assert contents(tmp_path) == before
    (imgs / "nerve.png").write_bytes(whole)
    (labels / "nerve.png").write_bytes(b"")
    refused(tmp_path, labels / "nerve.png", "--sum", "1")


def test_folder_mistakes(tmp_path):
    imgs, _ = make_set(tmp_path)
    refused(tmp_path, imgs, "--mask_path", str(imgs / "."))
    refused(tmp_path, "nowhere", "--mask_path", str(tmp_path / "nowhere"))
    refused(tmp_path, "nowhere", "--img_path", str(tmp_path / "nowhere"), "--clean")
    for path in imgs.iterdir():
        path.unlink()
    refused(tmp_path, imgs)


def test_manifest_damage(tmp_path):
    imgs, _ = make_set(tmp_path)
    augment(tmp_path)
    manifest = imgs / MANIFEST
    sound = manifest.read_text()
    manifest.write_text(sound + '{"folder": "image", "fi')
    before = contents(tmp_path)
    augment(tmp_path)
    assert contents(tmp_path) == {**before, f"imgs/{MANIFEST}": sound.encode()}
    augment(tmp_path, "--seed", "2")
    assert all(json.loads(line) for line in manifest.read_text().splitlines())
    manifest.write_text("{oops\n" + sound)
    refused(tmp_path, manifest)
    manifest.write_text(sound[:-1])  # an editor that drops the last line's end
    augment(tmp_path, "--seed", "2", "--clean")


@pytest.mark.parametrize("name", [
    "../precious-0.png", "/{root}/precious-0.png", "labels/../../precious-0.png",
    "..\\precious-0.png", ".precious-0.png", "cell.png", 5, None])
@pytest.mark.parametrize("flags", [["--clean"], ["--sum", "1"]])
def test_manifest_reaches_only_our_names(tmp_path, name, flags):
    imgs, _ = make_set(tmp_path)
    precious = tmp_path / "precious-0.png"
    precious.write_bytes(b"precious")
    name = name.format(root=tmp_path) if isinstance(name, str) else name
    digest = hashlib.sha256(b"precious").hexdigest()
    line = json.dumps({"folder": "image", "file": name, "sha256": digest})
    (imgs / MANIFEST).write_text(line + "\n")
    refused(tmp_path, imgs / MANIFEST, *flags)


def wait_for(path, lines):
    deadline = time.monotonic() + 20
    while not (path.exists() and path.read_text().count("\n") >= lines):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_middle(tmp_path, stop):
    imgs, labels = make_set(tmp_path)
    originals = {name for name in contents(tmp_path)}
    process = subprocess.Popen(command(tmp_path, "--sum", "5000", "--workers", "2"),
                               stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(imgs / MANIFEST, 60)
    (os.killpg if stop == signal.SIGINT else os.kill)(process.pid, stop)
    error = process.communicate(timeout=120)[1]  # ends once the workers have closed stderr too
    if stop == signal.SIGINT:
        assert process.returncode == 130
        assert error.split() == ["DataAugmentation.py:", "stopped"]
        assert not [path for path in tmp_path.rglob(".*")], "no half file"
    entries = [json.loads(line) for line in (imgs / MANIFEST).read_text().split("\n")[:-1]]
    folders = {"image": "imgs", "label": "labels"}
    listed = {f"{folders[entry['folder']]}/{entry['file']}" for entry in entries}

    def visible():
        return {name for name in contents(tmp_path) if not Path(name).name.startswith(".")}
    assert visible() - originals - {f"imgs/{MANIFEST}"} <= listed
    augment(tmp_path, "--clean")
    assert visible() == originals


# ----------------------------------------------------------------------------------- kinds of files
def test_kinds_of_files(tmp_path):
    imgs, labels = make_set(tmp_path, names=())
    shape = (48, 64)
    classes = blobs(shape, 4)
    Image.fromarray(texture((*shape, 3))).save(imgs / "colour.jpg")
    palette = Image.fromarray(classes)
    palette.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200, 9, 9, 9])
    palette.save(labels / "colour.png")
    Image.fromarray(texture(shape, dtype=np.uint16)).save(imgs / "deep.tif")
    Image.fromarray(classes.astype(np.uint16) * 1000).save(labels / "deep.tif")
    Image.fromarray(texture(shape)).convert("RGBA").save(imgs / "alpha.png")
    Image.fromarray(blobs(shape).astype(bool)).save(labels / "alpha.png")
    done = augment_process(tmp_path)
    assert done.stderr.count("\n") == 1, "said once, not once per copy"
    assert "alpha channels are left out" in done.stderr
    for name, mode, kind, values in (("colour", "RGB", np.uint8, {0, 1, 2, 3}),
                                     ("deep", "I;16", np.uint16, {0, 1000, 2000, 3000}),
                                     ("alpha", "RGB", np.uint8, {0, 255})):
        with Image.open(imgs / f"{name}-1.png") as image:
            assert image.mode == mode and image.size == (64, 48)
        label = read(labels / f"{name}-1.png")
        assert label.ndim == 2 and label.dtype.itemsize >= np.dtype(kind).itemsize
        assert set(np.unique(label)) == values
    assert read(imgs / "deep-0.png").max() > 2 ** 15


def test_preview_writes_one_picture(tmp_path):
    imgs, _ = make_set(tmp_path, names=("cell",))
    before = contents(tmp_path)
    drawn = tmp_path / "figures" / "warp.png"
    augment(tmp_path, "--preview", str(drawn), "--method", "grid")
    after = contents(tmp_path)
    assert set(after) - set(before) == {"figures/warp.png"} and min(read(drawn).shape[:2]) > 500
    assert not pyplot.get_fignums(), "the figure is closed"
    refused(tmp_path, imgs / "warp.png", "--preview", str(imgs / "warp.png"))


@pytest.mark.parametrize("flags", [
    ["--sum", "0"], ["--sum", "-1"], ["--sum", "1.5"], ["--alpha_lv", "nan"], ["--alpha_lv", "-1"],
    ["--sigma_lv", "inf"], ["--alpha_affine_lv", "-0.1"], ["--seed", "-1"], ["--workers", "0"],
    ["--method", "spline"], ["--su", "1"], ["--preview", "warp.pdf"],
    ["--preview", "warp.png", "--clean"]])
def test_usage_errors(flags, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["DataAugmentation.py", *flags])
    with pytest.raises(SystemExit) as stopped:
        DataAugmentation.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_usage_error_as_a_process(tmp_path):
    make_set(tmp_path)
    before = contents(tmp_path)
    done = augment_process(tmp_path, "--sum", "0", code=2)
    assert "--sum" in done.stderr and done.stderr.count("\n") == 1
    assert contents(tmp_path) == before


# ------------------------------------------------------------------------------- numbered objects
@pytest.mark.parametrize("dtype, step", [(np.uint8, 3), (np.uint16, 1000),
                                         (np.uint32, 2 ** 25 + 1)])
@pytest.mark.parametrize("method", ["elastic", "grid"])
def test_numbers_of_objects_stay_what_they_are(dtype, step, method):
    """Every pixel has the number of the nearest one, to the last digit."""
    objects = (ellipses(2, 96, (8, 12)).astype(np.int64) * step).astype(dtype)
    image = (objects > 0).astype(np.uint8)
    warped_image, warped = augment_pair(image, objects, np.random.default_rng(1), method)
    assert warped.dtype == dtype and set(np.unique(warped)) <= set(np.unique(objects))
    field = make_field(objects.shape, np.random.default_rng(1), method)
    period = 2 * 95  # mirrored without end
    rows, columns = np.rint(field).astype(int) % period
    rows, columns = (np.minimum(axis, period - axis) for axis in (rows, columns))
    assert (warped == objects[rows, columns]).mean() > 0.999  # halves may be rounded either way
