"""The rules of docs/your-images.md for masks: what is read as foreground, and what is said."""

import numpy as np
import pytest
import tifffile
from helpers import write_scans
from PIL import Image, ImageDraw

from datasets.labels import load_label

SIDE = 32
PICTURE = Image.new("L", (SIDE * 8, SIDE * 8))
ImageDraw.Draw(PICTURE).ellipse([40, 60, 190, 200], fill=255)
MASK = np.asarray(PICTURE)[4::8, 4::8] > 0
SMOOTH = np.asarray(PICTURE.resize((SIDE, SIDE), Image.BOX))  # anti-aliased
assert MASK.any() and ((SMOOTH > 0) & (SMOOTH < 255)).sum() > 40
COLOURED = np.where(MASK[..., None], np.array([255, 0, 0], np.uint8), np.uint8(0))


def by_pillow(pixels, mode=None, **options):
    def save(path):
        image = Image.fromarray(pixels)
        (image.convert(mode) if mode else image).save(path, **options)
    return save


def by_tifffile(pixels, photometric):
    return lambda path: tifffile.imwrite(path, pixels, photometric=photometric)


def black_and_white(white):
    """A palette file in which index `white` is white and the other one black."""
    def save(path):
        image = Image.fromarray(np.where(MASK, white, 1 - white).astype(np.uint8), "P")
        image.putpalette([255 * (white == 0)] * 3 + [255 * (white == 1)] * 3)
        image.save(path)
    return save


@pytest.fixture
def make_set(make_data, tmp_path):
    """A function that makes a set of masks: (exit code, output, errors, its label files)."""
    def make(write, suffix):
        for kind in ("scans", "masks"):
            (tmp_path / kind).mkdir()
        for stem in write_scans(tmp_path / "scans", SIDE, SIDE):
            write(tmp_path / "masks" / f"{stem}{suffix}")
        result = make_data("folders", "--images", "scans", "--labels", "masks",
                           "--Data_directory", "set")
        return (*result, sorted((tmp_path / "set").glob("*/labels/*")))
    return make


@pytest.mark.parametrize("write, suffix", [
    (by_pillow(MASK * np.uint8(255)), ".png"), (by_pillow(MASK.astype(np.uint8)), ".png"),
    (by_pillow(MASK), ".png"), (by_pillow(MASK), ".bmp"), (by_pillow(MASK), ".pbm"),
    (by_pillow(MASK, compression="group4"), ".tif"), (by_tifffile(MASK, "minisblack"), ".tif"),
    (by_tifffile(MASK, "miniswhite"), ".tif"), (by_tifffile(MASK * np.uint8(255), "miniswhite"),
                                                ".tif"),
    (by_tifffile(MASK * np.uint16(65535), "minisblack"), ".tif"),
    (by_pillow(np.repeat(MASK[..., None] * np.uint8(255), 3, axis=2)), ".png"),
    (black_and_white(0), ".png"), (black_and_white(1), ".png"), (black_and_white(0), ".gif"),
    (black_and_white(0), ".tif")])
def test_masks_of_two_values(make_set, write, suffix):
    """0/255, 0/1, one bit, black and white palettes: sound, nothing to say."""
    code, output, error, labels = make_set(write, suffix)
    assert code == 0 and "\n5 pairs, sound\n" in output and "warning" not in output, output
    assert error == "" and "--n_classes 2 " in output.splitlines()[-1]
    assert len(labels) == 5
    for path in labels:
        assert np.array_equal(load_label(path, 2), MASK), path


def test_smooth_edges_are_foreground_and_not_sound(make_set):
    code, output, error, labels = make_set(by_pillow(SMOOTH), ".png")
    assert code == 1 and error == ""
    for path in labels:
        assert f"{path.relative_to(path.parents[3])}: " in output
        assert np.array_equal(load_label(path, 2), SMOOTH > 0)
    assert output.count("expected 0 and 255") == 5 and "next: mend these" in output


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_jpeg_is_cut_at_half(make_set, suffix):
    """Known by its content, whatever its name."""
    code, output, error, labels = make_set(
        by_pillow(MASK * np.uint8(255), format="JPEG", quality=60), suffix)
    assert code == 0 and "\n5 pairs, sound\n" in output
    assert error.count("a lossy label, cut at half its largest value") >= 5
    with Image.open(labels[0]) as image:
        assert image.format == "JPEG" and len(np.unique(image)) > 10
    for path in labels:
        assert np.array_equal(load_label(path, 2), MASK)


def test_colours_are_refused(make_set, tmp_path):
    code, output, error, labels = make_set(by_pillow(COLOURED), ".png")
    assert code == 1 and "a label in colour" in error and "--colours" in error
    assert not (tmp_path / "set").exists()


def test_one_and_two(make_set):
    """0 is in no label: with two classes all would be foreground."""
    code, output, error, labels = make_set(by_pillow(MASK + np.uint8(1)), ".png")
    assert code == 1 and "0 is in no label" in output + error
