"""Images of any number of channels and any depth: from files to statistics, nets and pictures.

Facts and copies are compared with NumPy.  The commands are run as processes on small made sets.
"""
import json

import numpy as np
import pytest
import tifffile
from helpers import command
from PIL import Image

from command.errors import DataError, say_first_time
from datasets.check import check_set
from datasets.mixtures import check_mixtures, describe_mixture
from datasets.survey import Survey, facts_of_set, statistics_of
from images import pages
from images.channels import VALUE_DTYPES, as_planes, describe_channels, is_scaled
from images.pages import ImageFile
from images.reading import LargePage, examine_file, pages_of, read_image, read_label
from images.values import NormalisedRows, Statistics, load_image, normalise
from nets import checkpoint, levels
from nets.trained import TrainedNet

SMALL = ("--base_channels", 2, "--tile", 64, "--padding", 1, "--protocol", "fast", "--device",
         "cpu", "--Total_epochs", 1, "--Val_epochs", 0)


def values_of(dtype, shape, seed=0):
    """Values over most of what a dtype holds, below 0 too; floats around 3 million."""
    rng, dtype = np.random.default_rng(seed), np.dtype(dtype)
    if dtype.kind == "f":
        unit = 1e4 if dtype == np.float16 else 1e6
        return rng.normal(3 * unit, unit, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def write_tiff(path, pixels):
    """Pixels (H, W) or (H, W, C), with the axes that say so, or of float16 as samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = "YX" if pixels.ndim == 2 else "CYX"
    if pixels.dtype == np.float16:
        planar = "contig" if pixels.ndim == 3 else None
        tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig=planar, metadata=None)
        return path
    stored = pixels if pixels.ndim == 2 else np.ascontiguousarray(np.moveaxis(pixels, 2, 0))
    tifffile.imwrite(path, stored, photometric="minisblack", metadata={"axes": axes}, ome=True)
    return path


def cells(dtype, channels, seed, size=64):
    """(image (size, size, channels), label) of discs; values below 0 and far above 1 for floats."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    inside = np.zeros((size, size), bool)
    for row, column in rng.uniform(10, size - 10, (4, 2)):
        inside |= (rows - row) ** 2 + (columns - column) ** 2 < 60
    unit = {"float32": 500.0, "uint16": 9000, "uint8": 90, "int16": 900}[dtype]
    light = rng.normal(1, 0.2, (size, size, channels)) + inside[..., None] * np.arange(channels)
    offset = 1.5 if dtype in ("float32", "int16") else 0
    limits = np.finfo(dtype) if dtype == "float32" else np.iinfo(dtype)
    image = ((light - offset) * unit).clip(limits.min, limits.max).astype(dtype)
    return image, inside.astype(np.uint8) * 255


def write_cells(folder, dtype, channels, train=3, test=2):
    """A data set of `cells` in OME-TIFF files."""
    for split, count in (("train", train), ("test", test)):
        for k in range(count):
            image, label = cells(dtype, channels, seed=k + 10 * (split == "test"))
            write_tiff(folder / split / "imgs" / f"cell_{k}.tif", image.squeeze())
            path = folder / split / "labels" / f"cell_{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(label).save(path)
    return folder


# --------------------------------------------------------------------------------------- statistics
@pytest.mark.parametrize("dtype", VALUE_DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_statistics_are_numpys_in_the_files_own_units(tmp_path, dtype, channels):
    shapes = [(6, 7), (9, 4), (5, 5)]
    images = [values_of(dtype, (*shape, channels), k) for k, shape in enumerate(shapes)]
    paths = [write_tiff(tmp_path / f"{k}.tif", image.squeeze(2) if channels == 1 else image)
             for k, image in enumerate(images)]
    survey = Survey(tmp_path)
    found = statistics_of(survey, paths, channels)
    unit = {"uint8": 255, "uint16": 65535}.get(dtype, 1)
    every = np.concatenate([image.reshape(-1, channels) for image in images]).astype(float) / unit
    np.testing.assert_allclose(found.mean, every.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.std, every.std(axis=0), rtol=1e-6)
    assert (found.dtype, found.is_scaled) == (dtype, unit != 1)
    facts = survey.image(paths[0])
    assert (facts.dtype, facts.channels, facts.of_pages) == (dtype, channels, False)
    kept = Survey(tmp_path)
    survey.save()
    assert statistics_of(kept, paths, channels) == found
    planes = normalise(load_image(paths[0], channels), found)
    exact = (images[0] / unit - every.mean(axis=0)) / every.std(axis=0)
    np.testing.assert_allclose(np.moveaxis(planes, 0, 2), exact, atol=2e-6 * (
        1 + np.abs(every).max() / every.std()))


@pytest.mark.parametrize("scale", [1e-12, 1e9])
def test_a_channel_is_constant_in_its_own_units(tmp_path, scale):
    """A spread of a trillionth is one where all values are so small; 3 + rounding is none."""
    pixels = values_of("float32", (8, 9, 2)) * np.float32(scale)
    pixels[..., 1] = scale * 3
    found = statistics_of(Survey(), [write_tiff(tmp_path / "a.tif", pixels)], 2)
    assert found.std[0] == pytest.approx(pixels[..., 0].astype(float).std()) and found.std[1] == 1


def test_grey_and_rgb_read_as_each_other(tmp_path):
    colour = values_of("float32", (8, 9, 3))
    grey = colour @ np.array([19595, 38470, 7471]) / 65536
    path = write_tiff(tmp_path / "a.tif", colour)
    found = statistics_of(Survey(), [path], 1)
    np.testing.assert_allclose([*found.mean, *found.std], [grey.mean(), grey.std()], rtol=1e-6)
    path = write_tiff(tmp_path / "b.tif", colour[..., 0])
    found = statistics_of(Survey(), [path], 3)
    np.testing.assert_allclose(found.std, [colour[..., 0].std()] * 3, rtol=1e-6)


def test_values_beyond_32_bit_floats_are_refused(tmp_path):
    path = write_tiff(tmp_path / "a.tif", np.array([[1.0, 1e200]]))
    with pytest.raises(DataError, match="a.tif: values beyond those of 32-bit floats; scale"):
        Survey().image(path)


# ---------------------------------------------------------------------------------- pages, mixtures
def test_pages_are_channels_only_where_so_many_are_asked_for(tmp_path):
    """What was decoded as channels is not reused by who takes the pages for images."""
    stack, path = values_of("uint16", (4, 6, 7)), tmp_path / "a.tif"
    tifffile.imwrite(path, stack, photometric="minisblack", metadata=None)
    with pytest.raises(DataError, match="a.tif: has 4 pages"):
        Survey(tmp_path).image(path)
    survey = Survey(tmp_path, n_channels=4)
    assert (survey.image(path).channels, survey.image(path).of_pages) == (4, True)
    survey.save()
    np.testing.assert_allclose(statistics_of(survey, [path], 4).mean,
                               stack.mean(axis=(1, 2)) / 65535)
    for n_channels in (None, 1, 2):
        with pytest.raises(DataError, match="a.tif: has 4 pages"):
            Survey(tmp_path, n_channels).image(path)
    assert "a.tif" in json.dumps(Survey(tmp_path, 4).stored)
    assert Survey(tmp_path, 4).image(path) == survey.image(path)


def test_channels_of_a_set(tmp_path):
    label = tmp_path / "label.png"
    Image.fromarray(np.eye(6, 7, dtype=np.uint8)).save(label)
    for channels in (1, 2, 3, 7, 16):
        shape = (6, 7, channels)[:2 if channels == 1 else 3]
        image = write_tiff(tmp_path / f"{channels}.tif", values_of("float32", shape))
        assert facts_of_set(Survey(), [(image, label)], [], [(image, label)],
                            None).n_channels == channels


def test_mixtures_in_a_set(tmp_path):
    """One function for Main.py and the check: two files are named."""
    paths = [write_tiff(tmp_path / f"{name}.tif", values_of(dtype, shape))
             for name, dtype, shape in (("a", "uint8", (6, 7)), ("b", "uint8", (6, 7, 3)),
                                        ("c", "uint8", (6, 7)), ("deep", "uint16", (6, 7)),
                                        ("two", "uint8", (6, 7, 2)))]
    survey = Survey()
    check_mixtures(survey, paths[:3])
    assert describe_mixture(survey, paths[:3], 1).endswith("in one set: all are read as grey")
    assert describe_mixture(survey, paths[:3], 3) == (
        "Grey images (2) and RGB images (1) in one set: all are read as RGB")
    assert describe_mixture(survey, paths[:1], 3) == ""
    for odd, kind in ((3, "16-bit grey"), (4, "8-bit, 2 channels")):
        with pytest.raises(DataError) as refused:
            check_mixtures(survey, [*paths[:3], paths[odd]])
        assert str(refused.value).startswith(
            f"{paths[odd]}: {kind}, but {paths[0]} is 8-bit grey; ")
    with pytest.raises(DataError, match="b.tif: 8-bit RGB, but --n_channels is 2"):
        check_mixtures(survey, [paths[4], paths[1]], 2)


def test_the_check_names_what_main_refuses(tmp_path, capsys):
    write_cells(tmp_path, "float32", 4)
    assert check_set(tmp_path, Survey()).n_channels == 4
    assert "float32, 4 channels" in capsys.readouterr().out
    write_tiff(tmp_path / "test/imgs/cell_1.tif", cells("uint16", 4, 3)[0])
    verdict = check_set(tmp_path, Survey())
    first = tmp_path / "train/imgs/cell_0.tif"
    assert not verdict.is_sound and (
        f"{tmp_path}/test/imgs/cell_1.tif: 16-bit, 4 channels, but {first} is float32, 4 channels; "
        in capsys.readouterr().out)


# ------------------------------------------------------------------------------ what a net can take
def net(dtype, n_channels=1):
    return TrainedNet("Unet", n_channels, 2, {},
                      Statistics((0.4,) * n_channels, (0.2,) * n_channels, dtype))


@pytest.mark.parametrize("dtype", VALUE_DTYPES)
@pytest.mark.parametrize("trained", ["", *VALUE_DTYPES])
def test_which_depths_a_net_takes(tmp_path, capsys, trained, dtype):
    """Scaled ones among each other, own units among each other; floats where nobody knows."""
    say_first_time.cache_clear()
    file = examine_file(write_tiff(tmp_path / "a.tif", values_of(dtype, (6, 7))))
    fits = (is_scaled(dtype) == is_scaled(trained)) if trained else (
        is_scaled(dtype) or dtype.startswith("float"))
    if fits:
        levels.check_suits(file, net(trained))
        levels.say_conversion(file, net(trained))
        said = capsys.readouterr().err
        if trained and not is_scaled(trained):
            assert (f"Images of {dtype}, but the net was trained on {trained}" in said) == (
                dtype != trained)
        else:
            assert ("Images of 8 bits" in said) == ((dtype, trained) == ("uint8", "uint16"))
        return
    with pytest.raises(DataError) as refused:
        levels.check_suits(file, net(trained))
    assert str(refused.value).startswith(f"{file.path}: {dtype} values, ")
    assert (f"was trained on {trained} values" if trained else "nobody knows") in str(refused.value)


def test_floats_for_weights_of_others_lie_within_0_and_1(tmp_path):
    pixels = np.random.default_rng(0).random((6, 7), np.float32)
    file = examine_file(write_tiff(tmp_path / "a.tif", pixels))
    found = levels.find_levels(file, pixels, net(""), True)
    assert found.white is None and tuple(found.shades) == (pixels.min(), pixels.max())
    for odd in (pixels - 0.1, pixels * 2):
        with pytest.raises(DataError, match="a.tif: values from .* and nobody knows in which"):
            levels.find_levels(file, odd, net(""), True)
        assert levels.find_levels(file, odd, net("float32"), True).white is None


@pytest.mark.parametrize("channels, n_channels, fits", [
    (1, 1, True), (1, 3, True), (3, 1, True), (2, 2, True), (2, 1, False), (2, 3, False),
    (4, 3, False), (3, 4, False), (1, 2, False)])
def test_which_channels_a_net_takes(tmp_path, channels, n_channels, fits):
    file = ImageFile(tmp_path / "a.tif", 6, 7, channels, np.dtype(np.uint8))
    if fits:
        levels.check_suits(file, net("uint8", n_channels))
        return
    with pytest.raises(DataError, match=f"a.tif: {describe_channels(channels)}, but the net takes "
                                        f"{describe_channels(n_channels)}; "):
        levels.check_suits(file, net("uint8", n_channels))


@pytest.mark.parametrize("dtype", ["uint16", "float32", "int32"])
@pytest.mark.parametrize("channels", [2, 6])
def test_levels_show_each_channel_from_end_to_end(tmp_path, dtype, channels):
    pixels = values_of(dtype, (6, 7, channels))
    file = examine_file(write_tiff(tmp_path / "a.tif", pixels))
    found = levels.find_levels(file, pixels, net(dtype, channels), True)
    assert found.white == (65535 if dtype == "uint16" else None)
    for shade, ends in zip(found.shades, (pixels.min(axis=(0, 1)), pixels.max(axis=(0, 1)))):
        assert (shade == ends).all()


@pytest.mark.parametrize("dtype, trained, white, is_read", [
    ("uint16", "uint16", 65535, False), ("float32", "float32", None, False),
    ("int16", "float32", None, False), ("uint16", "uint8", 16383, True),
    ("float32", "", None, True)])
def test_values_are_looked_at_only_where_they_matter(tmp_path, monkeypatch, dtype, trained, white,
                                                     is_read):
    """Without an overlay, and where the net's training says what is white, no page is read."""
    pixels = np.array([[0, 1]] if dtype == "float32" else [[0, 9000]], dtype)
    file, read = examine_file(write_tiff(tmp_path / "a.tif", pixels)), []
    monkeypatch.setattr(levels, "find_ends", lambda pages, find=levels.find_ends:
                        read.append(True) or find(pages))
    taker = net(trained)
    assert levels.find_levels(file, pixels, taker, False).white == white and bool(read) == is_read
    assert levels.find_levels(file, pixels, taker, True).white == white and read


def test_pages_of_a_stack_share_their_levels(tmp_path):
    stack = values_of("float32", (3, 6, 7))
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", metadata=None)
    found = levels.find_levels(examine_file(tmp_path / "a.tif"), stack[0], net("float32"), True)
    assert tuple(found.shades) == (stack.min(), stack.max())
    bands = levels.find_ends([values_of("int16", (2500, 3, 2))])  # more rows than a band has
    whole = values_of("int16", (2500, 3, 2))
    assert (bands.lowest == whole.min(axis=(0, 1))).all()
    assert (bands.highest == whole.max(axis=(0, 1))).all()


@pytest.mark.parametrize("dtype", ["float32", "int16", "uint16"])
def test_rows_of_a_large_file_are_those_of_the_whole(tmp_path, monkeypatch, dtype):
    """Four channels in tiles, left on disk: read in bands, normalised as the whole image is."""
    monkeypatch.setattr(pages, "LARGE", 1000)
    pixels = values_of(dtype, (90, 70, 4))
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(pixels, 2, 0), photometric="minisblack",
                     tile=(32, 16), metadata={"axes": "CYX"}, ome=True)
    file, taker = examine_file(tmp_path / "a.tif"), net(dtype, 4)
    page, = pages_of(file)
    found = levels.find_levels(file, page, taker, True)
    assert type(page) is LargePage and found.white == (65535 if dtype == "uint16" else None)
    rows = NormalisedRows(page, 4, taker.statistics, found.white)
    whole = normalise(load_image(tmp_path / "a.tif", 4), taker.statistics)
    assert rows.shape == whole.shape and np.array_equal(rows[:, 40:75], whole[:, 40:75])


@pytest.mark.parametrize("dtype", VALUE_DTYPES)
def test_rows_are_normalised_as_in_training(dtype):
    pixels = values_of(dtype, (20, 7, 4))
    planes = as_planes(pixels)
    statistics = Statistics((1.0, -2.0, 3.5, 4.0), (0.5, 2.0, 1.0, 7.0), dtype)
    rows = NormalisedRows(pixels, 4, statistics, None)
    assert np.array_equal(rows[:, 3:11], normalise(planes, statistics)[:, 3:11])


# ---------------------------------------------------------------------------- copies of every depth
@pytest.mark.parametrize("dtype, channels, suffix", [
    ("float32", 4, ".tif"), ("uint16", 2, ".tif"), ("int16", 1, ".tif"), ("uint8", 1, ".png"),
    ("uint16", 1, ".png"), ("uint8", 3, ".png"), ("uint16", 3, ".tif")])
def test_copies_are_files_of_the_same_kind(tmp_path, dtype, channels, suffix):
    folder = write_cells(tmp_path / "set", dtype, channels, train=2, test=1) / "train"
    flags = ("--img_path", folder / "imgs", "--mask_path", folder / "labels", "--workers", 1)
    numbers = np.zeros((64, 64), np.uint32)
    numbers[5:30, 5:30], numbers[30:60, 10:50] = 70_000, 2 ** 24 + 1
    (folder / "labels/cell_1.png").unlink()
    tifffile.imwrite(folder / "labels/cell_1.tif", numbers, photometric="minisblack")
    before = sorted(folder.rglob("*.*"))
    done = command("DataAugmentation.py", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for k, label_suffix in ((0, ".png"), (1, ".tif")):
        original = read_image(folder / f"imgs/cell_{k}.tif")
        copies = [read_image(folder / f"imgs/cell_{k}-{number}{suffix}") for number in (0, 1)]
        assert all(copy.dtype == dtype and copy.shape == original.shape for copy in copies)
        assert np.abs(copies[0].mean() - original.mean(dtype=float)) < original.std(dtype=float)
        label = read_label(folder / f"labels/cell_{k}-0{label_suffix}")
        assert set(np.unique(label)) == ({0, 70_000, 2 ** 24 + 1} if k else {0, 255})
    done = command("DataAugmentation.py", *flags, "--preview", "look.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = command("DataAugmentation.py", *flags, "--sum", 1, cwd=tmp_path)
    assert done.returncode == 0 and not list(folder.rglob("*-1.*"))
    assert command("DataAugmentation.py", *flags, "--clean", cwd=tmp_path).returncode == 0
    assert sorted(folder.rglob("*.*")) == before


# ------------------------------------------------------------------------------------- the commands
@pytest.mark.jittor
@pytest.mark.parametrize("dtype, channels", [("float32", 4), ("uint16", 2), ("int16", 1)])
def test_training_and_prediction_of_other_images(tmp_path, dtype, channels):
    """An epoch as a process, its page; a prediction of the test images is that of the training."""
    data = write_cells(tmp_path / "data", dtype, channels)
    done = command("MakeData.py", "check", "--Data_directory", data, cwd=tmp_path)
    assert done.returncode == 0 and f"--n_channels {channels} --n_classes 2" in done.stdout
    done = command("Main.py", "--Data_directory", data, *SMALL, "--augment", "full", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    what = "grey images" if channels == 1 else f"images of {channels} channels"
    assert f"--n_channels {channels} ({what})" in done.stdout
    assert (f"Values of {dtype} stay in their own units: mean " in done.stdout) == (
        dtype != "uint16")
    _, header = checkpoint.load(tmp_path / "checkpoints/best_model.safetensors")
    every = np.concatenate([read_image(path).reshape(-1, channels).astype(float)
                            for path in sorted((data / "train/imgs").iterdir())])
    unit = 65535 if dtype == "uint16" else 1
    np.testing.assert_allclose(header["mean"], every.mean(axis=0) / unit, rtol=1e-6)
    np.testing.assert_allclose(header["std"], every.std(axis=0) / unit, rtol=1e-6)
    assert (header["dtype"], "bits" in header) == (dtype, False)
    assert "not written" not in done.stdout and (tmp_path / "results/overview.png").exists()
    done = command("Predict.py", "--Input", data / "test/imgs", "--overlay", "--device", "cpu",
                   cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for k in (0, 1):
        ours, trained = (np.asarray(Image.open(tmp_path / folder / f"cell_{k}_pred.png"))
                         for folder in ("predictions", "results"))
        assert np.array_equal(ours, trained)
        overlay = np.asarray(Image.open(tmp_path / f"predictions/cell_{k}_overlay.png"))
        assert overlay.shape == (64, 64, 3) and overlay.std() > 10


@pytest.mark.jittor
def test_pages_as_channels_from_the_check_to_the_prediction(tmp_path):
    """Files whose five pages are channels: each command says so, none takes them for images."""
    data = write_cells(tmp_path / "data", "uint16", 5, train=2, test=1)
    for path in data.glob("*/imgs/*"):
        stack = np.ascontiguousarray(np.moveaxis(read_image(path), 2, 0))
        tifffile.imwrite(path, stack, photometric="minisblack", metadata=None)
    check = ("MakeData.py", "check", "--Data_directory", data)
    done = command(*check, cwd=tmp_path)
    assert done.returncode == 1 and "if they are channels: --n_channels 5" in done.stdout
    done = command(*check, "--n_channels", 5, cwd=tmp_path)
    assert done.returncode == 0 and "are read as images of 5 channels" in done.stderr
    done = command("DataAugmentation.py", "--img_path", data / "train/imgs", "--mask_path",
                   data / "train/labels", "--n_channels", 5, "--sum", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_image(data / "train/imgs/cell_0-0.tif").shape == (64, 64, 5)
    flags = ("--Data_directory", data, *SMALL)
    done = command("Main.py", *flags, "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 1 and "if they are channels: --n_channels 5" in done.stderr
    done = command("Main.py", *flags, "--is_grayscale", False, "--n_channels", 5, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = command("Predict.py", "--Input", data / "test/imgs", "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ours, trained = (np.asarray(Image.open(tmp_path / folder / "cell_0_pred.png"))
                     for folder in ("predictions", "results"))
    assert np.array_equal(ours, trained)


@pytest.mark.jittor
def test_main_refuses_a_mixture_and_names_both_files(tmp_path):
    data = write_cells(tmp_path / "data", "uint16", 2, train=2, test=1)
    write_tiff(data / "test/imgs/cell_0.tif", cells("float32", 2, 0)[0])
    done = command("Main.py", "--Data_directory", data, *SMALL, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        f"Main.py: error: {data}/test/imgs/cell_0.tif: float32, 2 channels, but "
        f"{data}/train/imgs/cell_0.tif is 16-bit, 2 channels; ")


@pytest.mark.jittor
def test_a_format_does_not_change_a_prediction(tmp_path, build):
    """The same values of 16 bits as PNG, TIFF and .npy; a net of two channels refuses others."""
    from helpers import with_statistics
    model = with_statistics(build("Unet", 1, 2, base_channels=2), np.random.default_rng(3))
    header = {"mode": "Unet", "n_channels": 1, "n_classes": 2,
              "options": {"bilinear": True, "base_channels": 2}, "mean": [0.4], "std": [0.25],
              "tile": "full", "dtype": "uint16"}
    checkpoint.save(tmp_path / "net.safetensors", checkpoint.state_arrays(model), header)
    pixels = values_of("uint16", (52, 60))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    write_tiff(tmp_path / "b.tif", pixels)
    write_tiff(tmp_path / "float.tif", pixels.astype(np.float32))
    write_tiff(tmp_path / "two.tif", np.dstack([pixels, pixels]))
    np.save(tmp_path / "c.npy", pixels)
    done = command("Predict.py", "--Checkpoint", "net.safetensors", "--probabilities", "--device",
                   "cpu", "--Input", "a.png", "b.tif", "c.npy", "float.tif", "two.tif",
                   cwd=tmp_path)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if "error" in line]
    assert len(errors) == 2 and "float.tif: float32 values, but the net was" in errors[0]
    assert "two.tif: 2 channels, but the net takes grey; " in errors[1]
    a, b, c = (np.load(tmp_path / f"predictions/{name}_prob.npy") for name in "abc")
    assert np.array_equal(a, b) and np.array_equal(a, c) and a.std() > 0.01
