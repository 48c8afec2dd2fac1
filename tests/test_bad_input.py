"""What a user may give by mistake: one line names it and says what to do; nothing is touched.

Every case runs the real command, and shows no traceback.  It does not need Jittor: a mistake is
answered before Jittor would be imported.
"""
import io
import os
import pickle
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from helpers import ROOT, command, contents, write_set
from PIL import Image
from safetensors.numpy import save_file

from nets import checkpoint
from WeightMap import compute_weight_map

pytestmark = pytest.mark.usefixtures("machine")
IMAGE, LABEL = "set/train/imgs/cell_0.png", "set/train/labels/cell_0.png"
TEST_LABEL = "set/test/labels/cell_0.png"


def saved(image, form):
    content = io.BytesIO()
    image.save(content, form)
    return content.getvalue()


def grey(height=64, width=64):
    return Image.fromarray(
        np.random.default_rng(0).integers(0, 200, (height, width)).astype(np.uint8))


def png_of_claimed_size(side):
    """A PNG whose header claims side x side pixels, but which holds almost none."""
    def chunk(kind, data):
        return (struct.pack(">I", len(data)) + kind + data
                + struct.pack(">I", zlib.crc32(kind + data)))
    return (b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""))


def file(path, content):
    """A change of the folder: `path` holds `content` (bytes, or a picture as PNG)."""
    def change(folder):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(
            content if isinstance(content, bytes) else saved(content, "PNG"))
    return change


def removed(path):
    return lambda folder: (folder / path).unlink()


def emptied(path):
    return lambda folder: [each.unlink() for each in (folder / path).iterdir()]


def link(path, target):
    def change(folder):
        (folder / path).unlink(missing_ok=True)
        (folder / path).symlink_to(target)
    return change


def both(*changes):
    return lambda folder: [change(folder) for change in changes]


def nothing(folder):
    pass


def saved_checkpoint(name="last_model", **header):
    def change(folder):
        (folder / "checkpoints").mkdir(exist_ok=True)
        checkpoint.save(folder / "checkpoints" / f"{name}.safetensors",
                        {"a": np.zeros(3, np.float32)}, header)
    return change


class Malicious:
    def __reduce__(self):
        return open, ("canary", "w")


LAST = "checkpoints/last_model.safetensors"
CHOSEN = {"n_channels": ["1"], "n_classes": ["2"], "base_channels": ["16"], "tile": ["full"],
          "loss": ["ce"], "Batch_size": ["1"], "Total_epochs": ["200"], "Val_epochs": ["50"]}
RUN = dict(settings=CHOSEN, log="Unet_2025-01-31_12-00-00", records=[], data="",
           progress=dict(epoch=1, step=0, n_step=4, best_iou=0.5, losses=[], accepted=[0.5],
                         skipped=0, tested=0, bad_in_a_row=0, good_in_a_row=4, went_back=False,
                         seconds=9.5, images=0, epoch_seconds=0.0, test_seconds=1.5,
                         all_test_seconds=1.5))
MAIN = "Main.py --Data_directory set --device cpu"
WARP = "DataAugmentation.py --img_path set/train/imgs --mask_path set/train/labels"
SCORE = "Metrics.py --Prediction_directory results --Label_directory set/test/labels"
CASES = {  # name: (change of the folder, command, exit code, words of the line)
    # ----------------------------------------------------------------------------- files of the set
    "truncated PNG": (
        lambda folder: (folder / IMAGE).write_bytes((folder / IMAGE).read_bytes()[:900]),
        MAIN, 1, f"{IMAGE}: not a readable image .*; export it again as PNG or TIFF"),
    "truncated label of the test set": (
        lambda folder: (folder / TEST_LABEL).write_bytes((folder / TEST_LABEL).read_bytes()[:100]),
        MAIN, 1, f"{TEST_LABEL}: not a readable image"),
    "zero bytes": (file(IMAGE, b""), MAIN, 1, f"{IMAGE}: not a readable image"),
    "zero bytes, augmented": (file(IMAGE, b""), WARP, 1, f"{IMAGE}: not a readable image"),
    "text named .png": (file(IMAGE, b"These are words.\n"), MAIN, 1,
                        f"{IMAGE}: not a readable image"),
    "decompression bomb": (file(IMAGE, png_of_claimed_size(40000)), MAIN, 1,
                           f"{IMAGE}: larger than 268,435,456 pixels; cut it into smaller images"),
    "decompression bomb, augmented": (file(IMAGE, png_of_claimed_size(40000)), WARP, 1,
                                      f"{IMAGE}: larger than"),
    "a wrong check sum": (
        lambda folder: (folder / IMAGE).write_bytes(
            (folder / IMAGE).read_bytes()[:-30] + bytes(30)),
        MAIN, 1, f"{IMAGE}: not a readable image"),
    "NaN TIFF": (
        both(removed(IMAGE), file("set/train/imgs/cell_0.tif", saved(
            Image.fromarray(np.full((64, 64), np.nan, np.float32)), "TIFF"))),
        MAIN, 1, "set/train/imgs/cell_0.tif: 4,096 of its values are NaN or infinite; "
                 "replace them"),
    "label of another size": (file(LABEL, grey(64, 60)), MAIN, 1,
                              f"{LABEL}: 64 x 60 px .*, but its image {IMAGE} has 64 x 64 px"),
    "label of another size, augmented": (file(LABEL, grey(64, 60)), WARP, 1,
                                         f"{LABEL}: 64 x 60 px"),
    "image without a label": (removed(LABEL), MAIN, 1,
                              f"{IMAGE}: no label of this name in set/train/labels; add one"),
    "label without an image": (removed(IMAGE), MAIN, 1,
                               f"{LABEL}: no image of this name in set/train/imgs; add one"),
    "image without a label, augmented": (removed(LABEL), WARP, 1,
                                         f"{IMAGE}: no label of this name"),
    "two images of one name": (file("set/train/imgs/cell_0.bmp", saved(grey(), "BMP")), MAIN, 1,
                               "cell_0.png: cell_0.bmp has the same name; keep one of the two"),
    "label in colour": (file(LABEL, Image.merge("RGB", [grey(), grey().rotate(90), grey()])),
                        MAIN, 1,
                        f"{LABEL}: a label in colour; store class numbers as one grey channel"),
    "label value above the classes": (
        file(LABEL, Image.new("L", (64, 64), 7)), f"{MAIN} --n_classes 3", 1,
        f"{LABEL}: has the value 7, but --n_classes 3 allows 0 ... 2"),
    "JPEG label with three classes": (
        both(removed(LABEL), file("set/train/labels/cell_0.jpg", saved(grey(), "JPEG"))),
        f"{MAIN} --n_classes 3", 1,
        "cell_0.jpg: JPEG changes class numbers; store labels as PNG or TIFF"),
    "TIFF of several pages": (
        both(removed(IMAGE), lambda folder: grey().save(
            folder / "set/train/imgs/cell_0.tif", save_all=True, append_images=[grey()])),
        MAIN, 1, "cell_0.tif: has 2 pages"),
    "no images": (both(emptied("set/train/imgs"), emptied("set/train/labels")), MAIN, 1,
                  r"set/train/imgs: no images here \(.png, "),
    "no images, augmented": (both(emptied("set/train/imgs"), emptied("set/train/labels")), WARP, 1,
                             "set/train/imgs: no images here"),
    "no such folder": (nothing, "Main.py --Data_directory other --device cpu", 1,
                       "other: no such folder; `python MakeData.py sample`"),
    "no such folder, listed": (nothing, "MakeTxt.py --Data_directory other", 1,
                               "other: no such folder"),
    "a file for a folder": (nothing, f"Main.py --Data_directory {IMAGE} --device cpu", 1,
                            f"{IMAGE}: no such folder"),
    "link to nothing": (link(IMAGE, "nowhere.png"), MAIN, 1,
                        "cell_0.png: no image of this name in set/train/imgs"),
    "link to itself": (link(IMAGE, "cell_0.png"), MAIN, 1, "cell_0.png"),
    "folder that is a link to itself": (
        lambda folder: [emptied("set/train/imgs")(folder), (folder / "set/train/imgs").rmdir(),
                        (folder / "set/train/imgs").symlink_to("imgs")],
        MAIN, 1, "set/train/imgs: no such folder"),
    "line break in a name": (
        lambda folder: [(folder / path).rename(folder / path.replace("cell_0", "a\nb"))
                        for path in (IMAGE, LABEL)],
        MAIN, 1, "a.{1,2}nb.png.*: a line break in the name; rename it"),
    "nothing labelled in a test image": (
        file(TEST_LABEL, Image.new("L", (64, 64), 9)), f"{MAIN} --ignore_label 9", 1,
        f"{TEST_LABEL}: every pixel has the value 9, which --ignore_label leaves out"),
    "not 512 px": (nothing, f"{MAIN} --tile reference", 1,
                   "64 x 64 px, but --tile reference is made for 512 x 512 px"),
    # ------------------------------------------------------------------------------ what is written
    "output folder is a file": (file("there", b"mine"), f"{MAIN} --Log_directory there", 1,
                                "there: cannot make this folder"),
    "output folder cannot be": (nothing, f"{MAIN} --Result_directory /proc/results", 1,
                                "/proc/results: cannot make this folder"),
    "output folder is a link to itself": (link("loop", "loop"),
                                          f"{MAIN} --Checkpoint_directory loop", 1,
                                          "loop: cannot make this folder"),
    "lists cannot be written": (
        nothing, "MakeTxt.py --Data_directory set --Datatxt_directory /proc/lists", 1,
        "/proc/lists"),
    "sample over other files": (nothing, "MakeData.py sample --Data_directory set", 1,
                                "set/.*; choose another --Data_directory"),
    # ---------------------------------------------------------------------------------------- flags
    "unknown flag": (nothing, f"{MAIN} --epochs 5", 2, "unrecognized arguments: --epochs 5"),
    "abbreviated flag": (nothing, f"{MAIN} --Total 5", 2, "unrecognized arguments: --Total 5"),
    "unknown net": (nothing, f"{MAIN} --mode Vnet", 2, "argument --mode: invalid choice: 'Vnet'"),
    "one class": (nothing, f"{MAIN} --n_classes 1", 2,
                  "--n_classes: expected a whole number at least 2"),
    "too many channels": (nothing, f"{MAIN} --n_channels 17", 2,
                          "--n_channels: expected a whole number at least 1 and below 17"),
    "no batch": (nothing, f"{MAIN} --Batch_size 0", 2,
                 "--Batch_size: expected a whole number at least 1, got '0'"),
    "half a batch": (nothing, f"{MAIN} --Batch_size 0.5", 2,
                     "--Batch_size: expected a whole number"),
    "no epochs": (nothing, f"{MAIN} --Total_epochs 0", 2,
                  "--Total_epochs: expected a whole number at least 1"),
    "nothing tested": (nothing, f"{MAIN} --Val_epochs 9 --Total_epochs 9", 2,
                       "--Val_epochs 9 must be below --Total_epochs 9"),
    "NaN learning rate": (nothing, f"{MAIN} --Learning_rate nan", 2,
                          "--Learning_rate: expected a number above 0, got 'nan'"),
    "negative learning rate": (nothing, f"{MAIN} --Learning_rate=-0.1", 2,
                               "--Learning_rate: expected a number above 0"),
    "infinite learning rate": (nothing, f"{MAIN} --Learning_rate inf", 2,
                               "--Learning_rate: expected a number above 0"),
    "dropout of everything": (nothing, f"{MAIN} --dropout_probs 0 0 0 1.0", 2,
                              "--dropout_probs: expected a number at least 0 and below 1"),
    "three dropouts": (nothing, f"{MAIN} --dropout_probs 0 0 0", 2,
                       "--dropout_probs: expected 4 arguments"),
    "negative w0": (nothing, f"{MAIN} --Loss_w0=-1", 2, "--Loss_w0: expected a number at least 0"),
    "sigma 0": (nothing, f"{MAIN} --Loss_sigma 0", 2, "--Loss_sigma: expected a number above 0"),
    "negative seed": (nothing, f"{MAIN} --seed=-1", 2,
                      "--seed: expected a whole number at least 0"),
    "tile too small": (nothing, f"{MAIN} --tile 20 --padding 0", 2,
                       "--tile 20: too small for this net, 52 is the smallest"),
    "tile of words": (nothing, f"{MAIN} --tile half", 2,
                      "--tile: expected a whole number at least 16, got 'half'"),
    "odd base": (nothing, f"{MAIN} --base_channels 5", 2, "--base_channels 5 must be even"),
    "grey and three channels": (nothing, f"{MAIN} --is_grayscale True --n_channels 3", 2,
                                "--is_grayscale True does not suit --n_channels 3"),
    "maybe": (nothing, f"{MAIN} --bilinear maybe", 2,
              "--bilinear: expected True or False, got 'maybe'"),
    "saved never": (nothing, f"{MAIN} --save_every 0", 2,
                    "--save_every: expected a whole number at least 1"),
    "CUDA without CUDA": (nothing, "Main.py --Data_directory set --device cuda", 1,
                          "--device cuda: .*; use --device cpu or auto"),
    "no copies": (nothing, f"{WARP} --sum 0", 2, "--sum: expected a whole number at least 1"),
    "NaN strength": (nothing, f"{WARP} --alpha_lv nan", 2, "--alpha_lv: expected a number"),
    "no workers": (nothing, f"{WARP} --workers 0", 2,
                   "--workers: expected a whole number at least 1"),
    "unknown method": (nothing, f"{WARP} --method cubic", 2, "--method: invalid choice: 'cubic'"),
    "preview that is no PNG": (nothing, f"{WARP} --preview a.jpg", 2,
                               "--preview: expected a name that ends in .png, got 'a.jpg'"),
    "sample of no size": (nothing, "MakeData.py sample --size 8", 2,
                          "--size: expected a whole number at least 64"),
    "no command": (nothing, "MakeData.py", 2, "required: COMMAND"),
    "--force alone": (nothing, f"{MAIN} --force", 2, "--force: only with --resume"),
    # ---------------------------------------------------------------------------------- checkpoints
    "nothing to resume": (nothing, f"{MAIN} --resume", 1,
                          f"{LAST}: no such checkpoint, nothing to resume"),
    "text for a checkpoint": (
        file(LAST, b"These are words, more than eight of them.\n"), f"{MAIN} --resume", 1,
        f"{LAST}: not a readable safetensors checkpoint"),
    "empty checkpoint": (file(LAST, b""), f"{MAIN} --resume", 1,
                         f"{LAST}: not a readable safetensors checkpoint"),
    "truncated checkpoint": (
        both(saved_checkpoint(),
             lambda folder: (folder / LAST).write_bytes((folder / LAST).read_bytes()[:-5])),
        f"{MAIN} --resume", 1, f"{LAST}: not a readable safetensors checkpoint"),
    "header of 2^63 bytes": (file(LAST, b"\xff" * 7 + b"\x7f{}"), f"{MAIN} --resume", 1,
                             f"{LAST}: not a readable safetensors checkpoint"),
    "a pickle that calls": (file(LAST, pickle.dumps(Malicious())), f"{MAIN} --resume", 1,
                            f"{LAST}: not a readable safetensors checkpoint"),
    "weights without a run": (saved_checkpoint(mode="Unet"), f"{MAIN} --resume", 1,
                              f"{LAST}: holds no run to resume"),
    "a header without end": (
        both(saved_checkpoint(), lambda folder: save_file(
            {"a": np.zeros(3, np.float32)}, folder / LAST,
            {"format": checkpoint.FORMAT, "header": '{"run":' + "[" * 100000})),
        f"{MAIN} --resume", 1,
        f"{LAST}: not a readable safetensors checkpoint .nested too deeply"),
    "a run with a path": (saved_checkpoint(run={**RUN, "log": "../../x"}), f"{MAIN} --resume", 1,
                          f"{LAST}: holds no run to resume"),
    "a run with a folder": (
        saved_checkpoint(run={**RUN, "settings": {"Log_directory": ["elsewhere"]}}),
        f"{MAIN} --resume", 1,
        f"{LAST}: holds no run to resume .a run does not keep --Log_directory"),
    "a run with other flags": (saved_checkpoint(run=RUN), f"{MAIN} --resume --n_channels 3", 2,
                               r"--n_channels 3 \(was 1\)"),
    "a run that has not chosen": (
        saved_checkpoint(run={**RUN, "settings": {}}), f"{MAIN} --resume", 1,
        f"{LAST}: holds no run to resume .a run keeps --n_channels"),
    "other data": (saved_checkpoint(run=RUN), f"{MAIN} --resume", 1,
                   "set: not the data that this run began with"),
    # --------------------------------------------------------------------------------------- scores
    "no predictions": (nothing, SCORE, 1, "results: no such folder"),
    "prediction of another size": (
        file("results/cell_0_pred.png", grey(60, 64)), f"{SCORE} --n_classes 2", 1,
        "results/cell_0_pred.png: 60 x 64 px"),
    "prediction without a label": (
        both(file("results/cell_0_pred.png", grey()), file("results/cell_7_pred.png", grey())),
        SCORE, 1, "results/cell_7_pred.png: no label cell_7"),
    "probabilities that are a pickle": (
        both(file("results/cell_0_pred.png", grey()),
             file("results/cell_0_prob.npy", pickle.dumps(Malicious()))),
        f"{SCORE} --n_classes 2 --metric curve", 1,
        "results/cell_0_prob.npy: not a readable .npy file"),
    "prediction of many values": (file("results/cell_0_pred.png", grey()), SCORE, 1,
                                  "results: values up to 199; give --n_classes"),
    "unknown metric": (nothing, f"{SCORE} --metric F2", 2, "--metric: invalid choice: 'F2'"),
}


@pytest.fixture
def folder(tmp_path):
    write_set(tmp_path / "work" / "set", [(64, 64)] * 2, [(64, 64)])
    return tmp_path / "work"


@pytest.mark.parametrize("change, line, code, words", CASES.values(), ids=CASES)
def test_one_line(folder, no_jittor, change, line, code, words):
    change(folder)
    before = contents(folder)
    done = command(*line.split(), cwd=folder, **no_jittor)
    errors = [each for each in done.stderr.splitlines() if ": error: " in each]
    assert done.returncode == code and len(errors) == 1, done.stderr
    assert errors[0].startswith(
        f"{line.split()[0]}{' sample' if ' sample ' in line and code == 2 else ''}: error: ")
    assert (re.search(words, errors[0]) and "Traceback" not in done.stderr
            and "Jittor was imported" not in done.stderr)
    after = contents(folder)
    assert {path: after.get(path) for path in before} == before, "a file of the user has changed"
    assert not [path for path in after if ".part" in path.name or path.name == "canary"]


WITHOUT_ROOTS_RIGHTS = """
import ctypes, os, sys
# CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: without them root is bound to permissions as anyone is
for capability in (1, 2):
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.parametrize("path, mode, line, words", [
    ("set/train/imgs", 0o000, MAIN, "set/train/imgs: .*; check its permissions"),
    ("set/train/imgs", 0o444, MAIN, "set/train/imgs/cell_0.png: .*; check its permissions"),
    ("set/train/labels", 0o000, WARP, "set/train/labels: .*; check its permissions"),
    (IMAGE, 0o000, MAIN, f"{IMAGE}: may not be read; check its permissions"),
    (LABEL, 0o000, WARP, f"{LABEL}: may not be read; check its permissions"),
    (LAST, 0o000, f"{MAIN} --resume", f"{LAST}: may not be read; check its permissions"),
    ("results", 0o555, MAIN, "results: this folder is not writable; choose another"),
    ("lists", 0o555, "MakeTxt.py --Data_directory set --Datatxt_directory lists",
     "lists: this folder is not writable; choose another"),
    ("set/train/labels", 0o555, WARP,
     "set/train/labels: this folder is not writable; choose another"),
    (".", 0o555, "MakeData.py sample --Data_directory new", "new.*; choose another")])
def test_permissions(folder, no_jittor, path, mode, line, words):
    saved_checkpoint(run=RUN)(folder)
    for name in ("results", "lists"):
        (folder / name).mkdir()
    before, usual = contents(folder), (folder / path).stat().st_mode
    (folder / path).chmod(mode)
    try:
        script, *flags = line.split()
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_ROOTS_RIGHTS, ROOT / script, *flags], cwd=folder,
            text=True, capture_output=True, env={**os.environ, **no_jittor})
    finally:
        (folder / path).chmod(usual)
    assert (done.returncode == 1
            and re.search(f"^{script}: error: {words}$", done.stderr)), done.stderr
    after = contents(folder)
    assert ({path: after.get(path) for path in before} == before
            and not [path for path in after if ".part" in path.name])


def test_what_other_runs_left_is_not_trusted(folder, no_jittor):
    """Everything is made anew: maps of other flags or labels, damaged statistics and lists."""
    label = np.asarray(Image.open(folder / LABEL)) > 0

    def prepared(*flags):
        assert "Jittor was imported" in command(
            *MAIN.split(), "--loss", "weighted_ce", *flags, cwd=folder, **no_jittor).stderr
        return np.load(folder / "weight_maps" / "cell_0.npy")
    first = prepared()
    assert np.array_equal(first, compute_weight_map(label, 10, 5))
    kept = {path: path.read_bytes() for path in (folder / "DataTxt").iterdir()}
    assert np.array_equal(prepared("--Loss_w0", 3), compute_weight_map(label, 3, 5))
    for content in (b"", b"[" * 100000, b"\0\xff", b'{"key": 5}'):
        for path in kept:
            path.write_bytes(content)
        for kind in ("npy", "png"):
            (folder / "weight_maps" / f"cell_0.{kind}").write_bytes(
                (folder / "weight_maps" / f"cell_1.{kind}").read_bytes())
        assert (np.array_equal(prepared(), first)
                and {path: path.read_bytes() for path in kept} == kept)


def test_there_are_sixty():
    assert len(CASES) >= 60


@pytest.mark.parametrize("name, image, words", [
    ("palette", grey().convert("P"), "palette colours are read as RGB"),
    ("CMYK", Image.merge("CMYK", [grey()] * 4), "CMYK colours are read as RGB"),
    ("alpha", Image.merge("RGBA", [grey()] * 4), "alpha channels are left out"),
    ("grey and alpha", Image.merge("LA", [grey()] * 2), "alpha channels are left out"),
    ("16 bits", Image.fromarray(np.asarray(grey()).astype(np.uint16) * 257), "")])
def test_what_can_be_read_is_read(folder, no_jittor, name, image, words):
    (folder / IMAGE).unlink()
    image.save(folder / "set/train/imgs/cell_0.tif")
    done = command(*WARP.split(), "--sum", 1, cwd=folder, **no_jittor)
    assert done.returncode == 0 and words in done.stderr and "Traceback" not in done.stderr
    with Image.open(folder / "set/train/imgs/cell_0-0.png") as copy:
        assert copy.mode == (
            "I;16" if name == "16 bits" else "L" if name == "grey and alpha" else "RGB")


@pytest.mark.parametrize("name", ["two words", "图像 一", "quo'te\"s", "-dash", "%s{}$HOME",
                                  "a" * 200, "\\back", "<b>&amp;"])
def test_names_of_all_kinds(folder, no_jittor, name):
    for kind in ("imgs", "labels"):
        (folder / "set/train" / kind / "cell_0.png").rename(
            folder / "set/train" / kind / f"{name}.png")
    done = command(*WARP.split(), "--sum", 1, cwd=folder, **no_jittor)
    assert done.returncode == 0, done.stderr
    assert (folder / "set/train/labels" / f"{name}-0.png").is_file()
    assert command("MakeTxt.py", "--Data_directory", "set", cwd=folder, **no_jittor).returncode == 0
    assert (f"set/train/imgs/{name}.png"
            in (folder / "DataTxt/train_image.txt").read_text("utf-8").splitlines())


@pytest.mark.parametrize("line", [pytest.param(MAIN, marks=pytest.mark.jittor), f"{WARP} --sum 1",
                                  "MakeData.py sample --Data_directory new"])
def test_a_full_disk(folder, line, request):
    """A file may grow to 1 KiB.  Then writing fails, and nothing half-written takes a name."""
    if line == MAIN:
        request.getfixturevalue("jt")  # Jittor's own files are there already
    before = contents(folder)
    program = (
        f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)); "
        f"sys.argv = {line.split()!r}; "
        f"runpy.run_path({str(ROOT / line.split()[0])!r}, run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    errors = [each for each in done.stderr.splitlines() if ": error: " in each]
    assert (done.returncode == 1 and len(errors) == 1 and "File too large" in errors[0]
            and "Traceback" not in done.stderr)
    after = contents(folder)
    assert ({path: after[path] for path in before} == before
            and not [path for path in after if ".part" in path.name])
    for path in set(after) - set(before):
        if path.suffix == ".png":
            Image.open(folder / path).load()
