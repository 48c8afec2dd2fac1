"""command/ and images/formats.py: exit codes, one-line errors, flag types, image files, writing."""
import argparse
import io
import os
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from command import bars
from command.errors import DataError, describe_failure, run, say_once
from command.files import atomic_write, make_folder, parse_json
from command.flags import Parser, boolean, number
from datasets.labels import IGNORED, load_label
from datasets.pairs import pair_by_name
from datasets.segmentation import SegmentationSet
from datasets.survey import Survey
from images.formats import list_images, png_bytes, write_pixels, write_png
from images.reading import image_size, read_image, read_label

needs_permissions = pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")


def noise(shape, seed=0, high=256, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


# ----------------------------------------------------------------------------------------- commands
WITH_ROOT = {**os.environ, "PYTHONPATH": str(ROOT)}
SCRIPT = """
import os, signal, sys
from command.errors import DataError, describe_failure, run
from command.flags import Parser, boolean, number

def main():
    parser = Parser("A command.")
    parser.add_argument("--count", type=number(int, 1), default=1, help="how many")
    parser.add_argument("--quick", type=boolean, help="or not")
    args = parser.parse_args()
    if args.count == 2:
        raise DataError("a.png: two\\nlines")
    if args.count == 3:
        open("nowhere/a.txt")
    if args.count == 4:
        raise KeyboardInterrupt
    if args.count == 5:
        os.kill(os.getpid(), signal.SIGTERM)
    if args.count == 6:
        for _ in range(100000):
            print("a long line of output that fills the pipe")
        sys.stdout.flush()
    return 7 if args.count == 7 else None

sys.exit(run(main))
"""


def test_a_forked_process_ends_by_sigterm_however_early_it_comes():
    """A pool ends workers that it has forked just now.  One that lived on would be waited for."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for _ in range(30):
            worker = os.fork()
            if not worker:
                try:
                    time.sleep(5)
                finally:
                    os._exit(0)
            os.kill(worker, signal.SIGTERM)
            assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("command") / "Command.py"
    path.write_text(SCRIPT)
    return path


@pytest.mark.parametrize("flags, code, error", [
    ([], 0, ""),
    (["--count", "7"], 7, ""),
    (["--count", "2"], 1, "Command.py: error: a.png: two lines\n"),
    (["--count", "3"], 1, "Command.py: error: nowhere/a.txt: No such file or directory\n"),
    (["--count", "4"], 130, "\nCommand.py: stopped\n"),
    (["--count", "5"], 130, "\nCommand.py: stopped\n"),
    (["--count", "0"], 2,
     "Command.py: error: argument --count: expected a whole number at least 1, got '0' "
     "(see Command.py --help)\n"),
])
def test_exit_codes_and_messages(script, flags, code, error):
    done = subprocess.run([sys.executable, str(script), *flags], env=WITH_ROOT,
                          capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", error)


def test_a_closed_pipe_is_no_traceback(script):
    process = subprocess.Popen([sys.executable, str(script), "--count", "6"], env=WITH_ROOT,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(timeout=60) == 1
    process.stderr.close()


def test_other_exceptions_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0)


def raised(error):
    """The exception as `except` would have it."""
    try:
        raise error
    except Exception as caught:  # noqa: BLE001 - any
        return caught


@pytest.mark.parametrize("error, line", [
    (DataError("a/b.png: not\nreadable"), "a/b.png: not readable"),
    (DataError("too large"), "a/b.png: too large"),
    (FileNotFoundError(2, "No such file", "a/b.png"), "a/b.png: No such file"),
    (OSError(28, "No space", "out/b_pred.png"), "a/b.png: out/b_pred.png: No space"),
    (OSError(28, "No space"), "a/b.png: out: No space"),
    (KeyError("axis"), "a/b.png: not expected: KeyError: 'axis' (test_common.py, line 0)"),
    (ValueError("a\nb"), "a/b.png: not expected: ValueError: a b (test_common.py, line 0)"),
])
def test_what_went_wrong_with_one_file_of_many(error, line):
    found = describe_failure(raised(error), "a/b.png", "out")
    assert re.sub(r"line \d+\)$", "line 0)", found) == line


def test_parser(capsys):
    parser = Parser("A command.", prog="Command.py")
    parser.add_argument("--count", type=int, default=5, help="how many")
    parser.add_argument("--name", help="its name")
    for flags in (["--cou", "3"], ["--name"], ["more"]):
        with pytest.raises(SystemExit) as stopped:
            parser.parse_args(flags)
        assert stopped.value.code == 2
        assert re.fullmatch(r"Command\.py: error: .+ \(see Command\.py --help\)\n",
                            capsys.readouterr().err)
    help_text = parser.format_help()
    assert "how many (default: 5)" in help_text and "its name\n" in help_text, (
        "where there is no default, the help names none")


COMMANDS = sorted(path for folder in (".", "alignment", "benchmarks")
                  for path in (ROOT / folder).glob("[!_]*.py")
                  if path.read_text().endswith("sys.exit(run(main))\n"))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda path: path.name)
def test_help_waits_for_no_heavy_import(command):
    """What takes most of a start is left until the flags are known."""
    done = subprocess.run([sys.executable, "-X", "importtime", command, "--help"],
                          capture_output=True, text=True)
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0 and done.stdout.startswith("usage: ") and "argparse" in imported
    assert not imported & {"jittor", "torch", "matplotlib", "skimage", "scipy.ndimage",
                           "scipy.linalg", "scipy.sparse"}


# --------------------------------------------------------------------------------------- flag types
def test_boolean():
    assert [boolean(word) for word in ("True", "true", "TRUE", "1", "yes", " True ")] == [True] * 6
    assert [boolean(word) for word in ("False", "false", "0", "no", "NO")] == [False] * 5
    for word in ("", "2", "maybe", "None", "-1", "truee"):
        with pytest.raises(argparse.ArgumentTypeError,
                           match=f"expected True or False, got '{word}'"):
            boolean(word)


@pytest.mark.parametrize("parse, good, bad", [
    (number(int, 1), {"1": 1, "25": 25, "9" * 30: 10 ** 30 - 1},
     ["0", "-1", "1.0", "1e3", "", "nan", "inf"]),
    (number(int, 0, 2 ** 31), {"0": 0, "2147483647": 2 ** 31 - 1}, ["2147483648", "-1"]),
    (number(float, 0), {"0": 0, "-0.0": 0, "1e300": 1e300, "5": 5},
     ["-1e-9", "nan", "inf", "-inf", "1e999", "one"]),
    (number(float, 0, include_low=False), {"1e-9": 1e-9}, ["0", "-0.0", "-1", "nan", "inf"]),
    (number(float, 0, 1), {"0": 0, "0.999": 0.999}, ["1", "1.0", "-0.1", "nan"]),
])
def test_number(parse, good, bad):
    for text, value in good.items():
        assert parse(text) == value and type(parse(text)) is type(parse(next(iter(good))))
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError,
                           match=f"^expected a.* number .*, got '{re.escape(text)}'$"):
            parse(text)


def test_number_says_its_bounds():
    for parse, words in ((number(int, 1), "a whole number at least 1,"),
                         (number(float, 0, 1), "a number at least 0 and below 1,"),
                         (number(int, 0, 2 ** 32), "at least 0 and below 4294967296,"),
                         (number(float, 0, include_low=False), "a number above 0,")):
        with pytest.raises(argparse.ArgumentTypeError, match=words):
            parse("x")


# -------------------------------------------------------------------------------- folders and pairs
def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_list_images(tmp_path):
    folder = touch(tmp_path / "imgs", "b.PNG", "a.tif", "c.jpeg",
                   ".hidden.png", "notes.txt", "a", "d.npy", "a_prob.npy", "Thumbs.db")
    (folder / "folder.png").mkdir()
    assert list(list_images(folder).items()) == [("a", folder / "a.tif"), ("b", folder / "b.PNG"),
                                                 ("c", folder / "c.jpeg"), ("d", folder / "d.npy")]
    assert list(list_images(str(folder), {folder / "b.PNG"})) == ["a", "c", "d"]
    touch(folder, "a.png")
    with pytest.raises(DataError, match="imgs/a.tif: a.png has the same name; keep one of the two"):
        list_images(folder)
    assert list_images(folder, {folder / "a.tif"})["a"] == folder / "a.png"
    with pytest.raises(DataError, match="nowhere: no such folder"):
        list_images(tmp_path / "nowhere")


def test_pair_by_name(tmp_path):
    imgs, labels = (touch(tmp_path / "imgs", "b.jpg", "a.png"),
                    touch(tmp_path / "labels", "a.tif", "b.png"))
    pairs = [(imgs / "a.png", labels / "a.tif"), (imgs / "b.jpg", labels / "b.png")]
    assert pair_by_name(imgs, labels) == pairs
    touch(imgs, "c.png")
    with pytest.raises(DataError, match="imgs/c.png: no label of this name in .*labels"):
        pair_by_name(imgs, labels)
    assert pair_by_name(imgs, labels, {imgs / "c.png"}) == pairs
    (imgs / "c.png").rename(labels / "c.png")
    with pytest.raises(DataError, match="labels/c.png: no image of this name in .*imgs"):
        pair_by_name(imgs, labels)
    assert pair_by_name(imgs, labels, {labels / "c.png"}) == pairs
    with pytest.raises(DataError, match="empty: no images here"):
        pair_by_name(touch(tmp_path / "empty"), labels)


# -------------------------------------------------------------------------------------- image files
GREY, DEEP, BITS = (noise((4, 6)), noise((4, 6), high=2 ** 16, dtype=np.uint16),
                    noise((4, 6), high=2).astype(bool))
COLOUR, ALPHA = noise((4, 6, 3)), noise((4, 6, 1), seed=1)
PALETTE = [10, 20, 30, 200, 100, 0, 7, 7, 7]
INDICES = noise((4, 6), high=3)
SIGNED = DEEP.astype(np.int32) - 1000


def palette_image():
    image = Image.fromarray(INDICES)
    image.putpalette(PALETTE)
    return image


def mask_of_palette(colours):
    """BITS in a palette file: black and white, or white and black."""
    image = Image.fromarray((BITS if colours[0] == 0 else ~BITS).astype(np.uint8))
    image.putpalette(colours)
    return image


def luma(colour):
    return np.asarray(Image.fromarray(colour).convert("L"))


FROM_PALETTE = np.array(PALETTE, np.uint8).reshape(3, 3)[INDICES]
BLACK_OR_WHITE = BITS.astype(np.uint8) * 255
INK = Image.merge("CMYK", [Image.fromarray(noise((4, 6), k)) for k in range(4)])
KINDS = {
    # name: (image, what read_image reads, what it says on stderr, what read_label reads)
    "bits.png": (Image.fromarray(BITS), BLACK_OR_WHITE, None, BLACK_OR_WHITE),
    "grey.bmp": (Image.fromarray(GREY), GREY, None, GREY),
    "deep.png": (Image.fromarray(DEEP), DEEP, None, DEEP),
    "deep.tif": (Image.fromarray(DEEP), DEEP, None, DEEP),
    "grey-alpha.png": (Image.fromarray(np.dstack([GREY, ALPHA])), GREY,
                       "alpha channels", GREY),
    "palette.png": (palette_image(), FROM_PALETTE, "palette colours", INDICES),
    "palette.tif": (palette_image(), FROM_PALETTE, "palette colours", INDICES),
    "black-white.png": (mask_of_palette([0] * 3 + [255] * 3), np.dstack([BLACK_OR_WHITE] * 3),
                        "palette colours", BLACK_OR_WHITE),
    "white-black.png": (mask_of_palette([255] * 3 + [0] * 3), np.dstack([BLACK_OR_WHITE] * 3),
                        "palette colours", BLACK_OR_WHITE),
    "colour.tif": (Image.fromarray(COLOUR), COLOUR, None, "a label in colour"),
    "alpha.png": (Image.fromarray(np.dstack([COLOUR, ALPHA])), COLOUR, "alpha channels",
                  "a label in colour"),
    "grey-rgba.png": (Image.fromarray(np.dstack([GREY] * 3 + [ALPHA])), np.dstack([GREY] * 3),
                      "alpha channels", GREY),
    "ink.tif": (INK, np.asarray(INK.convert("RGB")), "CMYK colours", "a label in colour"),
    "signed.tif": (Image.fromarray(SIGNED), SIGNED, None, f"has the label value {SIGNED.min()}"),
    "float.tif": (Image.fromarray(GREY.astype(np.float32)), GREY.astype(np.float32), None,
                  GREY.astype(np.uint32)),
}


def equal(found, expected):
    return (found.dtype == expected.dtype and found.shape == expected.shape
            and (found == expected).all())


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_files(tmp_path, name, capsys):
    (image, plain, said, label), path = KINDS[name], tmp_path / name
    image.save(path)
    assert image_size(path) == (4, 6)
    if isinstance(label, str):
        with pytest.raises(DataError, match=f"{name}: {label}"):
            read_label(path)
    else:
        assert equal(read_label(path), label) and read_label(path).ndim == 2
    assert capsys.readouterr().err == ""
    assert equal(read_image(path), plain)
    if plain.dtype in (np.uint8, np.uint16):
        assert equal(read_image(path, 1), plain if plain.ndim == 2 else luma(plain))
        assert equal(read_image(path, 3), plain if plain.ndim == 3 else np.dstack([plain] * 3))
    error = capsys.readouterr().err
    assert error.count("\n") == (said is not None)
    assert said is None or f"{tmp_path}: " in error and said in error


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_damaged_files(tmp_path):
    whole, path = png_bytes(noise((40, 50))), tmp_path / "damaged.png"
    bomb = (b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", 20000, 20000, 8, 0, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b""))
    contents = {"": "not a readable image;",
                "These are words, not pixels.": "not a readable image;",
                whole[:len(whole) // 2]: r"not a readable image \(",
                whole[:20]: "not a readable image",
                bomb: "larger than 268,435,456 pixels; cut it"}
    for content, message in contents.items():
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        for read in (read_image, read_label):
            with pytest.raises(DataError, match=f"damaged.png: {message}"):
                read(path)
    for read in (read_image, read_label, image_size):
        with pytest.raises(DataError, match="damaged.png: larger than"):
            read(path)
        with pytest.raises(DataError, match="nowhere.png: no such file$"):
            read(tmp_path / "nowhere.png")
        with pytest.raises(DataError, match=f"{tmp_path.name}: not a readable image"):
            read(tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["TIFF", "BMP", "PNG", "JPEG"])
def test_whatever_is_damaged_it_is_a_data_error(tmp_path, kind):
    rng, buffer, path = np.random.default_rng(0), io.BytesIO(), tmp_path / "damaged.png"
    Image.fromarray(noise((20, 30, 3))).save(buffer, kind)
    refused = 0
    for _ in range(300):
        content = bytearray(buffer.getvalue())
        end = min(len(content), 150) if rng.random() < 0.5 else len(content)
        for place in rng.integers(0, end, rng.integers(1, 6)):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            read_image(path)
        except DataError:
            refused += 1
    assert refused > 20


def test_pages(tmp_path):
    pages = [Image.fromarray(noise((4, 6), k)) for k in range(3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    for read in (read_image, read_label):
        with pytest.raises(DataError, match="stack.tif: has 3 pages; `python MakeData.py folders"):
            read(tmp_path / "stack.tif")


def test_only_pages_of_an_image_may_be_channels(tmp_path):
    pages = [Image.fromarray(noise((4, 6), k)) for k in range(4)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    for read, is_told in ((read_image, True), (read_label, False)):
        with pytest.raises(DataError) as caught:
            read(tmp_path / "stack.tif")
        assert str(caught.value).endswith("(if they are channels: --n_channels 4)") is is_told


@needs_permissions
def test_permissions(tmp_path):
    write_png(tmp_path / "a.png", GREY)
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(DataError, match="a.png: may not be read; check its permissions"):
        read_image(tmp_path / "a.png")
    (tmp_path / "closed").mkdir(0o555)
    with pytest.raises(DataError, match="closed: this folder is not writable"):
        make_folder(tmp_path / "closed")
    with pytest.raises(DataError, match=r"closed/a: cannot make this folder \(Permission denied\)"):
        make_folder(tmp_path / "closed" / "a")


def test_ignored_pixels_of_a_label(tmp_path):
    stored = np.array([[0, 1, 2, 7, 255]], np.uint8)
    write_png(tmp_path / "a.png", stored)
    assert load_label(tmp_path / "a.png", 2, 7).tolist() == [[0, 1, 1, IGNORED, 1]]
    assert load_label(tmp_path / "a.png", 2, 0).tolist() == [[IGNORED, 1, 1, 1, 1]]
    assert load_label(tmp_path / "a.png", 8, 255).tolist() == [[0, 1, 2, 7, IGNORED]], (
        "the ignored value is no class")
    with pytest.raises(DataError, match="has the value 255"):
        load_label(tmp_path / "a.png", 8, 7)
    Image.fromarray(stored).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="JPEG changes class numbers"):
        load_label(tmp_path / "a.jpg", 2, 7)


@pytest.mark.parametrize("value", [2 ** 31, 2 ** 32 - 1])
def test_class_numbers_beyond_32_bits_with_sign(tmp_path, value):
    """They are refused, at once and without a table of so many classes; none becomes IGNORED."""
    path, words = tmp_path / "a.tif", f"a.tif: has the value {value}, but --n_classes 3 allows"
    write_pixels(path, np.array([[0, 1, 2, value]], np.uint32))
    with pytest.raises(DataError, match=words):
        load_label(path, 3)
    dataset = SegmentationSet([(path, path)], 1, 3, None)
    with pytest.raises(DataError, match=words):
        dataset.check_labels(Survey())
    assert load_label(path, 3, value).tolist() == [[0, 1, 2, IGNORED]]
    assert load_label(path, 2).tolist() == [[0, 1, 1, 1]]


def test_a_remark_is_made_once_by_all_threads(monkeypatch):
    """A terminal may take its time: meanwhile others have the same to say."""
    said = []

    class SlowStream:
        def write(self, text):
            time.sleep(0.01)
            said.append(text)
    monkeypatch.setattr("sys.stderr", SlowStream())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(say_once, ["the same to all of them"] * 4))
    assert "".join(said) == "the same to all of them\n"


# ------------------------------------------------------------------------------------------ writing
def test_parse_json():
    assert parse_json('{"a": [1, 2.5, "x"]}') == {"a": [1, 2.5, "x"]}
    for text in ("", "{", "[" * 100000, '{"a":' * 100000, "9" * 5000, "\0"):
        with pytest.raises(ValueError):
            parse_json(text)


def test_atomic_write_replaces_whole(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with atomic_write(str(path)) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.parent == tmp_path
        assert temporary.suffix == ".json" and temporary.name.startswith("."), (
            "hidden, and of the same kind")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_write_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.json"
    for names in ([], ["a.json"]):
        with pytest.raises(error), atomic_write(path) as temporary:
            temporary.write_text("half")
            raise error
        assert os.listdir(tmp_path) == names
        path.write_text("old")
    assert path.read_text() == "old"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_atomic_write_follows_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_png(tmp_path / "a.png", GREY)
        assert os.umask(mask) == mask, "left as it was"
    finally:
        os.umask(before)
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("pixels", [GREY, DEEP, COLOUR])
def test_write_png(tmp_path, pixels):
    write_png(tmp_path / "图像.png", pixels)
    assert equal(read_image(tmp_path / "图像.png"), pixels)
    assert (tmp_path / "图像.png").read_bytes() == png_bytes(pixels)


def test_make_folder(tmp_path):
    assert make_folder(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()
    assert make_folder(tmp_path / "a" / "b").is_dir(), "again"
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "a"):
        with pytest.raises(DataError, match=f"{path}: cannot make this folder .*; choose another"):
            make_folder(path)


# -------------------------------------------------------------------------------------- long work
def worked(capfd, steps):
    """What a file gets of a bar over `steps` steps of 0.02 s each."""
    with bars.progress_bar(total=steps, desc="steps") as bar:
        for step in range(steps):
            time.sleep(0.02)
            bar.set_postfix_str(f"loss {step}", refresh=False)
            bar.update()
    return capfd.readouterr().err


def test_a_file_gets_a_line_now_and_then(capfd, monkeypatch):
    assert worked(capfd, 10) == "", "what is short says nothing"
    monkeypatch.setattr(bars, "IN_A_FILE", 0.1)
    shown = re.findall(r"(\d+)/40 .*?loss (\d+)", worked(capfd, 40))
    assert 2 <= len(shown) <= 8 and all(int(done) == int(loss) + 1 for done, loss in shown), shown
