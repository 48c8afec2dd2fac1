"""What several test files share: commands as processes, small data sets, runs read back."""
import base64
import csv
import io
import os
import struct
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from nets import checkpoint

ROOT = Path(__file__).resolve().parent.parent
# the U-Net paper's net and loss, small, one image a batch: the tests know this recipe's numbers
PLAIN = ("--padding", 0, "--Batch_size", 1, "--loss", "weighted_ce", "--optimizer", "adam",
         "--lr_schedule", "constant", "--augment", "none", "--dropout_probs", 0.2, 0.3, 0.4, 0.5)
SMALL = ("--base_channels", 4, "--Learning_rate", 0.01, "--device", "cpu", *PLAIN)


def settings_of(*flags):
    """The runs.settings.Settings that these flags of Main.py make, nothing chosen yet."""
    import Main
    from runs.request import read_request
    words = [str(flag) for flag in flags]
    return read_request(words, Main.build_parser, Main.PROTOCOLS, Main.CROP).settings


def command(script, *flags, cwd, **environment):
    environment = {**os.environ, **environment}
    return subprocess.run([sys.executable, str(ROOT / script), *map(str, flags)], cwd=cwd,
                          env=environment, text=True, capture_output=True, timeout=900,
                          encoding="utf-8")


def write_set(folder, train, test, channels=1, classes=2, seed=7):
    """Write a data set into folder: discs of each class on a darker, noisy ground.

    train, test: the (height, width) of each image.
    """
    rng = np.random.default_rng(seed)
    for split, sizes in (("train", train), ("test", test)):
        for kind in ("imgs", "labels"):
            (folder / split / kind).mkdir(parents=True)
        for k, (height, width) in enumerate(sizes):
            rows, columns = np.mgrid[:height, :width]
            label = np.zeros((height, width), np.uint8)
            for disc in range(4):
                centre = rng.uniform(0, (height, width))
                inside = ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2
                          < (min(height, width) / 5) ** 2)
                label[inside] = disc % (classes - 1) + 1
            noise = rng.integers(0, 60, (height, width, channels), np.uint8)
            image = (label * (120 // (classes - 1)))[..., None] + noise
            Image.fromarray(image.squeeze(2) if channels == 1 else image).save(
                folder / split / "imgs" / f"cell_{k}.png")
            Image.fromarray(label * 255 if classes == 2 else label).save(
                folder / split / "labels" / f"cell_{k}.png")
    return folder


def predictions_of(folder):
    return {path.name: np.asarray(Image.open(path))
            for path in (folder / "results").glob("*_pred.png")}


# -------------------------------------------------------------------------------------- TensorBoard
def crc32c(data):
    """Castagnoli's checksum, bit by bit."""
    value = 0xffffffff
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82f63b78 if value & 1 else 0)
    return value ^ 0xffffffff


def masked(data):
    value = crc32c(data)
    return ((value >> 15 | value << 17) + 0xa282ead8) & 0xffffffff


def events_in(folder):
    """The events of a folder's only file.  Its format: length, checksum, Event, checksum."""
    from tensorboardX.proto.event_pb2 import Event
    (path,) = folder.iterdir()
    assert path.name.startswith("events.out.tfevents.")
    content, found = path.read_bytes(), []
    while content:
        length, = struct.unpack("<Q", content[:8])
        data = content[12:12 + length]
        assert struct.unpack("<I", content[8:12])[0] == masked(content[:8])
        assert struct.unpack("<I", content[12 + length:16 + length])[0] == masked(data)
        found.append(Event.FromString(data))
        content = content[16 + length:]
    return found


VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """A page as a browser would see it; fails where its tags are not balanced."""

    def __init__(self, path):
        super().__init__()
        self.open, self.attributes, self.images, self.texts, self.tables = [], [], [], {}, []
        self.feed(path.read_text("utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "img":
            self.images.append(dict(attrs))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)
            if {"td", "th"} & set(self.open):
                self.tables[-1][-1][-1] += data

    @property
    def text(self):
        return "\n".join(each for tag, found in self.texts.items() if tag != "style"
                         for each in found)

    def table(self, head):
        """The rows below the head row that begins with `head`."""
        (found,) = [rows[1:] for rows in self.tables if rows[0][0] == head]
        return found

    def pictures(self, file):
        """The pictures about a file, by what they show."""
        shown = {image["alt"].removesuffix(f" of {file}"): image["src"] for image in self.images
                 if image["alt"].endswith(f" of {file}")}
        return {what: np.asarray(
                    Image.open(io.BytesIO(decoded(source, "image/png"))).convert("RGB"))
                for what, source in shown.items()}


def decoded(source, kind):
    head, _, content = source.partition(",")
    assert head == f"data:{kind};base64"
    return base64.b64decode(content, validate=True)


FLAGS = [str(flag) for flag in (
    "--Data_directory", "data", *SMALL, "--base_channels", 24, "--tile", 52, "--augment", "full",
    "--Total_epochs", 4, "--Val_epochs", 1)]


def start_command(folder, *flags, through=()):
    """Start Main.py as a process of its own group, with its lines on `stdout`.

    through: a command that runs the rest of its command line.
    """
    return subprocess.Popen(
        [*through, sys.executable, str(ROOT / "Main.py"), *flags], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def end(process, number):
    """Send a signal and wait: (exit code, what was printed since)."""
    process.send_signal(number)
    printed, _ = process.communicate(timeout=600)
    return process.returncode, printed


def rows_of(table):
    """A CSV's rows without the times."""
    with open(table, newline="") as file:
        return [tuple(row.values())[:5] for row in csv.DictReader(file)]


def results(folder):
    """(rows of the one CSV without the times, arrays of last_model, arrays of best_model)."""
    table, = folder.glob("logs/*.csv")
    return rows_of(table), *(
        checkpoint.load(folder / "checkpoints" / f"{name}_model.safetensors")[0]
        for name in ("last", "best"))


def assert_same(found, expected):
    assert found[0] == expected[0]
    for arrays, others in zip(found[1:], expected[1:]):
        assert arrays.keys() == others.keys()
        assert not [name for name in arrays if not np.array_equal(arrays[name], others[name])]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*") if path.is_file()}


def with_statistics(model, rng):
    """Give a model's BatchNorms statistics and scales as after training; set its eval mode."""
    for name, var in model.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            var.assign(rng.normal(0, 0.1, var.shape).astype(np.float32))
        elif name.endswith("running_var") or len(var.shape) == 1:
            var.assign(rng.uniform(0.5, 1.5, var.shape).astype(np.float32))
    model.eval()
    return model


def assert_refused(result, *words):
    """That MakeData.py, whose (exit code, output, errors) are given, ended in one line of words."""
    code, _, error = result
    assert code == 1 and error.startswith("MakeData.py: error: ") and error.count("\n") == 1, error
    for word in words:
        assert str(word) in error, error


def write_scans(folder, height, width):
    """Write five grey images, a.png to e.png, no two alike; returns their stems."""
    for k, stem in enumerate("abcde"):
        pixels = np.random.default_rng(k).integers(0, 256, (height, width), np.uint8)
        Image.fromarray(pixels).save(folder / f"{stem}.png")
    return "abcde"
