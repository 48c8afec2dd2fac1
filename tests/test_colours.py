"""`python MakeData.py folders --colours`: masks in colours become class numbers."""
from functools import partial

import numpy as np
import pytest
import tifffile
from helpers import assert_refused, write_scans
from PIL import Image, ImageDraw

HEIGHT, WIDTH = 20, 26
COLOURS = {"background": (0, 0, 0), "nucleus, dark": (255, 0, 10), "stroma": (0, 128, 255)}


@pytest.fixture
def folders(make_data, tmp_path):
    """The command; its folders have five images, no two alike."""
    for kind in ("scans", "masks"):
        (tmp_path / kind).mkdir()
    write_scans(tmp_path / "scans", HEIGHT, WIDTH)
    return partial(make_data, "folders", "--images", tmp_path / "scans", "--labels",
                   tmp_path / "masks", "--Data_directory", tmp_path / "set", "--colours",
                   tmp_path / "classes.csv")


def draw(smooth=False):
    """A mask of three classes as numbers, and in their colours; smooth: with soft edges."""
    scale = 8 if smooth else 1
    picture = Image.new("L", (WIDTH * scale, HEIGHT * scale))
    pen = ImageDraw.Draw(picture)
    pen.ellipse([2 * scale, 3 * scale, 14 * scale, 16 * scale], fill=1)
    pen.polygon([(9 * scale, scale), (25 * scale, 3 * scale), (16 * scale, 19 * scale)],
                fill=2)
    numbers = np.asarray(picture)
    colours = np.array([*COLOURS.values()], np.uint8)[numbers]
    if smooth:
        colours = np.asarray(Image.fromarray(colours).resize((WIDTH, HEIGHT), Image.BOX))
    return numbers, colours


NUMBERS, MASK = draw()


def write_masks(folder, write=lambda path: Image.fromarray(MASK).save(path), suffix=".png"):
    for stem in "abcde":
        write(folder / "masks" / f"{stem}{suffix}")


def labels_in(folder):
    found = {path.stem: np.asarray(Image.open(path)) for path in folder.glob("*/labels/*.png")}
    assert found.keys() == set("abcde")
    return found


def test_without_a_table_it_is_proposed_and_then_used(folders, tmp_path, snapshot):
    write_masks(tmp_path)
    code, output, error = folders()
    assert (code, error) == (1, "") and not (tmp_path / "set").exists()
    counts = [(MASK == colour).all(axis=2).sum() * 5 for colour in COLOURS.values()]
    assert counts[0] > counts[2] > counts[1] > 0 and sum(counts) == 5 * HEIGHT * WIDTH
    total = sum(counts)
    assert output.splitlines() == [
        f"(0, 0, 0): {counts[0]:,} pixels, {counts[0] / total:.2%}",
        f"(0, 128, 255): {counts[2]:,} pixels, {counts[2] / total:.2%}",
        f"(255, 0, 10): {counts[1]:,} pixels, {counts[1] / total:.2%}",
        f"{tmp_path}/classes.csv: written, with a class for each of 3 colours in 5 masks",
        f"next: name the classes in {tmp_path}/classes.csv, then python MakeData.py folders "
        f"--images {tmp_path}/scans --labels {tmp_path}/masks --Data_directory {tmp_path}/set "
        f"--colours {tmp_path}/classes.csv"]
    table = tmp_path / "classes.csv"
    assert table.read_text() == ("class,name,r,g,b\n0,background,0,0,0\n1,class 1,0,128,255\n"
                                 "2,class 2,255,0,10\n")
    before = table.read_bytes()
    code, output, error = folders()
    assert (code, error) == (0, "") and "\n5 pairs, sound\n" in output
    assert "--n_classes 3 " in output.splitlines()[-1]
    assert table.read_bytes() == before == (tmp_path / "set" / "classes.csv").read_bytes()
    for label in labels_in(tmp_path / "set").values():
        assert label.dtype == np.uint8 and np.array_equal(label, np.array([0, 2, 1])[NUMBERS])
    before = snapshot(tmp_path)
    assert folders()[0] == 0 and snapshot(tmp_path) == before


ROWS = [(name, *colour) for name, colour in COLOURS.items()]


def write_table(path, head, rows, comma=",", **how):
    quoted = [[f'"{value}"' if comma in str(value) else str(value) for value in row]
              for row in [head, *rows]]
    path.write_text("\r\n".join(comma.join(row) for row in quoted) + "\r\n", **how)


@pytest.mark.parametrize("head, rows, comma, encoding, expected", [
    (("name", "r", "g", "b"), ROWS, ",", "utf-8", [0, 1, 2]),
    (("name", "r", "g", "b"), ROWS[::-1], ",", "utf-8", [2, 1, 0]),
    (("b", "g", "r", "name"), [row[::-1] for row in ROWS], ";", "utf-8-sig", [0, 1, 2]),
    (("class", "name", "r", "g", "b"), [(2, *ROWS[0]), (0, *ROWS[1]), (1, *ROWS[2])], ",",
     "utf-8", [2, 0, 1]),
    (("name", "class", "r", "g", "b"), [(name, k, *colour) for k, (name, *colour)
                                        in zip((0, 1, 1), ROWS)], ",", "utf-8", [0, 1, 1]),
    (("name", "class", "r", "g", "b"), [(name, k, *colour) for k, (name, *colour)
                                        in zip((0, 300, 1), ROWS)], ",", "utf-8", [0, 300, 1]),
])
def test_tables(folders, tmp_path, head, rows, comma, encoding, expected):
    write_masks(tmp_path)
    write_table(tmp_path / "classes.csv", head, rows, comma, encoding=encoding)
    code, output, error = folders(*(("--ignore_label", 300) if 300 in expected else ()))
    assert (code, error) == (0, ""), output
    for label in labels_in(tmp_path / "set").values():
        assert np.array_equal(label, np.array(expected)[NUMBERS])
        assert label.dtype == (np.uint16 if 300 in expected else np.uint8)
    classes = 3 if expected[1:] == [1, 2] or expected[0] == 2 else 2
    assert f"--n_classes {classes} " in output.splitlines()[-1]


@pytest.mark.parametrize("kind", ["rgba", "palette", "tiff", "bmp", "grey"])
def test_colours_in_other_files(folders, tmp_path, kind):
    grey = np.array([0, 100, 200], np.uint8)[NUMBERS]
    writers = {
        "rgba": (lambda path: Image.fromarray(MASK).convert("RGBA").save(path), ".png"),
        "palette": (lambda path: Image.fromarray(MASK).quantize(3).save(path), ".png"),
        "tiff": (lambda path: tifffile.imwrite(path, MASK, photometric="rgb"), ".tif"),
        "bmp": (lambda path: Image.fromarray(MASK).save(path), ".bmp"),
        "grey": (lambda path: Image.fromarray(grey).save(path), ".png")}
    write_masks(tmp_path, *writers[kind])
    rows = [(name, k, k, k) for (name, *_), k in zip(ROWS, (0, 100, 200))]
    write_table(tmp_path / "classes.csv", ("name", "r", "g", "b"), rows if kind == "grey" else ROWS)
    code, output, _ = folders()
    assert code == 0, output
    for label in labels_in(tmp_path / "set").values():
        assert np.array_equal(label, NUMBERS)


def test_smooth_edges_are_refused_with_their_number(folders, tmp_path):
    """The rule for anti-aliased masks: no colour is guessed."""
    _, smooth = draw(smooth=True)
    write_masks(tmp_path)
    Image.fromarray(smooth).save(tmp_path / "masks" / "c.png")
    write_table(tmp_path / "classes.csv", ("name", "r", "g", "b"), ROWS)
    colours, counts = np.unique(smooth.reshape(-1, 3), axis=0, return_counts=True)
    odd = {tuple(colour): count for colour, count in zip(colours.tolist(), counts.tolist())
           if tuple(colour) not in COLOURS.values()}
    assert len(odd) > 20
    worst = max(odd, key=odd.get)
    assert_refused(folders(), f"{tmp_path}/masks/c.png: the colour ",
                   f" of {odd[worst]:,} pixels (and {len(odd) - 1} more colours in "
                   f"{sum(odd.values()) - odd[worst]:,}) is not in {tmp_path}/classes.csv",
                   "anti-aliasing")
    assert not (tmp_path / "set").exists()


def test_one_colour_that_is_missing_is_named(folders, tmp_path):
    changed = MASK.copy()
    changed[3:5, 4:7] = 1, 2, 3
    write_masks(tmp_path)
    Image.fromarray(changed).save(tmp_path / "masks" / "d.png")
    write_table(tmp_path / "classes.csv", ("name", "r", "g", "b"), ROWS)
    assert_refused(folders(), "d.png: the colour (1, 2, 3) of 6 pixels is not in")


@pytest.mark.parametrize("colours, words", [
    (40, "warning: 40 colours are many"), (300, ": 300 colours in the masks up to this one")])
def test_many_colours(folders, tmp_path, colours, words):
    shades = np.arange(HEIGHT * WIDTH) % colours
    mask = np.stack([shades // 2, shades % 256, 255 - shades // 2], axis=-1).astype(np.uint8)
    mask = mask.reshape(HEIGHT, WIDTH, 3)
    assert len(np.unique(mask.reshape(-1, 3), axis=0)) == colours
    write_masks(tmp_path, lambda path: Image.fromarray(mask).save(path))
    code, output, error = folders()
    assert code == 1 and words in output + error and "anti-aliasing" in output + error
    assert (tmp_path / "classes.csv").exists() == (colours == 40)
    if colours == 40:
        assert "\nand 20 more colours\n" in output and output.count(" pixels, ") == 20
    else:
        assert "more than 256" in error and error.count("\n") == 1


@pytest.mark.parametrize("text, words", [
    ("", "no column b"), ("name,r,g\n", "no column b"), ("name;r;g;b\na;0;0;x", "line 2: class,"),
    ("name,r,g,b\na,0,0,0\nb,1,2\n", "line 3"), ("name,r,g,b\na,0,0,0\nb,1,2,-3\n", "line 3"),
    ("name,r,g,b\na,0,0,0\nb,0,0,0\n", "the colour (0, 0, 0) has 2 rows"),
    ("name,r,g,b\na,0,0,0\n", "fewer than two classes"), ("name,r,g,b\n", "fewer than two"),
    ("name,class,r,g,b\na,1.5,0,0,0\n", "line 2"), ("name,class,r,g,b\na,70000,0,0,0\n", "line 2"),
    (b"name,r,g,b\n\xff,0,0,0\n", "UTF-8"),
])
def test_tables_that_cannot_be_used(folders, tmp_path, text, words):
    write_masks(tmp_path)
    (tmp_path / "classes.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_refused(folders(), tmp_path / "classes.csv", words)
    assert not (tmp_path / "set").exists()


def test_jpeg_and_other_sizes_are_refused(folders, tmp_path):
    write_masks(tmp_path, suffix=".jpg")
    assert_refused(folders(), "a.jpg: JPEG changes colours")
    write_table(tmp_path / "classes.csv", ("name", "r", "g", "b"), ROWS)
    assert_refused(folders(), "a.jpg: JPEG changes colours")
    for path in (tmp_path / "masks").iterdir():
        path.unlink()
    write_masks(tmp_path, lambda path: Image.fromarray(MASK[:-1]).save(path))
    assert_refused(folders(), "a.png: 19 x 26 px (height x width)")
    assert not (tmp_path / "set").exists()


def test_the_table_of_a_set_is_not_overwritten(folders, tmp_path):
    write_masks(tmp_path)
    write_table(tmp_path / "classes.csv", ("name", "r", "g", "b"), ROWS)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "classes.csv").write_text("mine")
    assert_refused(folders(), tmp_path / "set" / "classes.csv", "choose another --Data_directory")
    assert (tmp_path / "set" / "classes.csv").read_text() == "mine"
    assert not (tmp_path / "set" / "train").exists()


def test_the_name_of_a_table(make_data, tmp_path):
    code, output, error = make_data("folders", "--images", "a", "--labels", "b",
                                    "--Data_directory", "set", "--colours", "classes.txt")
    assert code == 2 and error.count("\n") == 1 and ".csv" in error
