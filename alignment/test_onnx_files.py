"""ONNX files and packages of the BioImage Model Zoo (needs all of requirements/align.txt).

    pytest alignment/test_onnx_files.py

Nothing here reaches the network: whoever tries is refused.
"""
import dataclasses
import io
import json
import socket
import zipfile

import numpy as np
import onnxruntime
import pytest
import ToOnnx
import torch
import TorchModel
from helpers import ROOT, command
from PIL import Image
from Terms import Terms

from command.errors import DataError
from command.version import VERSION
from images.values import Statistics
from nets.checkpoint import save
from nets.trained import TrainedNet

GREY = Statistics((0.45,), (0.18,), "uint8")
COLOURS = Statistics((0.7, 0.5, 0.6), (0.2, 0.15, 0.1), "uint8")
SMALL = {"base_channels": 4, "conv_bias": True}
# Python runs it at its start: the process that then asks for the network is refused
REFUSE = """import socket
def refuse(*_): raise OSError("the network was asked for")
socket.socket.connect = socket.getaddrinfo = refuse
"""
CARD = ("--name", "Drawn cells", "--authors", "A. Author", "B. Author", "--license", "CC-BY-4.0",
        "--cite", "Drawn pictures", "10.1000/drawn")


def refuse(*_):
    raise OSError("the network was asked for")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def trained_weights(mode, n_channels, n_classes, options):
    """{name: array} of a net that has seen some noise: its BatchNorms have statistics of it."""
    torch.manual_seed(0)
    twin = TorchModel.build_model(mode, n_channels, n_classes, **options)
    side = 188 if mode == "Unet" and not options.get("padding") else 64
    with torch.no_grad():
        for _ in range(3):
            twin(torch.randn(2, n_channels, side, side))
    return TorchModel.state_arrays(twin)


def make_terms(mode, statistics, n_classes=2, **options):
    return Terms(TrainedNet(mode, len(statistics.mean), n_classes, options, statistics))


def changed(terms, **fields):
    """Terms with other fields of the net."""
    return Terms(dataclasses.replace(terms.net, **fields))


def weights_of(terms):
    net = terms.net
    return trained_weights(net.mode, net.n_channels, net.n_classes, net.options)


def write_checkpoint(path, terms, **header):
    net, statistics = terms.net, terms.net.statistics
    save(path, weights_of(terms), {
        "mode": net.mode, "n_channels": net.n_channels, "n_classes": net.n_classes,
        "options": net.options, "mean": statistics.mean, "std": statistics.std,
        "dtype": statistics.dtype, "tile": "full", **header})


# ------------------------------------------------------------------------------ the same as Jittor
KEEPING = [(33, 70), (97, 64), (129, 101)]  # px; odd and even, none of them square
VALID = [(188, 236), (252, 204)]
NETS = {
    "padded": ("Unet", COLOURS, {**SMALL, "padding": 1, "bilinear": True}, KEEPING),
    "padded aligned": ("Unet", GREY, {**SMALL, "padding": 1, "bilinear": True,
                                      "align_corners": True, "conv_bias": False}, KEEPING),
    "padded transposed": ("Unet", GREY, {**SMALL, "padding": 1, "bilinear": False}, KEEPING),
    "valid": ("Unet", GREY, {**SMALL, "padding": 0, "bilinear": True}, VALID),
    "valid aligned": ("Unet", GREY, {**SMALL, "padding": 0, "bilinear": True,
                                     "align_corners": True}, VALID),
    "valid transposed": ("Unet", COLOURS, {**SMALL, "padding": 0, "bilinear": False}, VALID),
    "U2netS": ("U2netS", COLOURS, {}, KEEPING),
    "U2netS aligned": ("U2netS", GREY, {"align_corners": True}, KEEPING)}


@pytest.mark.parametrize("name", NETS)
def test_the_file_answers_as_jittor(tmp_path, name):
    mode, statistics, options, sizes = NETS[name]
    terms = make_terms(mode, statistics, **options)
    weights = weights_of(terms)
    ours = ToOnnx.build_ours(terms, weights, "weights")
    ToOnnx.write_file(terms, weights, tmp_path / "a.onnx")
    exported = ToOnnx.open_file(tmp_path / "a.onnx")
    for count, (height, width) in enumerate(sizes, 1):
        raw = np.stack([np.roll(terms.draw(height, width), 7 * k, axis=1) for k in range(count)])
        found = exported(raw)
        assert found.shape == (count, 2, height - terms.margin, width - terms.margin)
        assert found.dtype == np.float32 and np.allclose(found.sum(1), 1, atol=1e-5)
        assert found.std() > 1e-3, "another answer than one everywhere"
        assert np.abs(found - ours(raw)).max() <= 1e-4
        # raw pixels of other channels, or not normalised, are another input
        assert np.abs(exported(raw / terms.white) - found).max() > 1e-3
    (given,), (answer,) = (each() for each in (exported_io(tmp_path / "a.onnx")))
    less = " - 184" if terms.margin else ""
    assert given.shape == ["batch", len(statistics.mean), "height", "width"]
    assert answer.shape == ["batch", 2, f"height{less}", f"width{less}"]


def exported_io(path):
    """The functions that name an ONNX file's inputs and outputs."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.get_inputs, session.get_outputs


def test_a_file_that_differs_is_refused(capsys):
    terms = make_terms("Unet", GREY, **SMALL, padding=1)

    def ours(raw):
        return np.full((len(raw), 2, *raw.shape[2:]), 0.5, np.float32)
    ToOnnx.compare(terms, ours, lambda raw: ours(raw) + np.float32(9e-5))
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"{size:39}  9.0e-05" for size in ("(1, 1, 33, 69)", "(2, 1, 54, 37)", "(3, 1, 72, 96)")]
    for wrong in (lambda raw: ours(raw) + np.float32(1.1e-4), lambda raw: ours(raw) * np.nan,
                  lambda raw: ours(raw)[..., :-1]):
        with pytest.raises(DataError, match="nothing is written"):
            ToOnnx.compare(terms, ours, wrong)


# ------------------------------------------------------------------------------------- what it says
@pytest.mark.parametrize("dtype, white, raw_range", [
    ("uint8", 255, (0, 255)), ("uint16", 65535, (0, 65535)), ("", 1, (0, 1)),
    ("int16", 1, (-32768, 32767)), ("float32", 1, (None, None)), ("float16", 1, (None, None))])
def test_raw_pixels(dtype, white, raw_range):
    means = {"int16": (120.0, -500.0), "float32": (-3.5, 8.0)}.get(dtype, (0.4, 0.5))
    stds = tuple(abs(mean) / 4 for mean in means)
    terms = make_terms("Unet", Statistics(means, stds, dtype), **SMALL, padding=1)
    assert (terms.white, terms.raw_range) == (white, raw_range)
    raw = terms.draw(40, 56)
    assert raw.shape == (2, 40, 56) and raw.dtype == (dtype if dtype not in ("", "float16")
                                                      else np.float32)
    expected = ((raw / white - np.reshape(means, (2, 1, 1))) / np.reshape(stds, (2, 1, 1)))
    np.testing.assert_allclose(terms.prepare(raw), expected, rtol=1e-4, atol=1e-4)
    assert abs(expected.mean()) < 0.1 and 0.7 < expected.std() < 1.3
    assert not np.array_equal(raw[0], raw[1])


def test_the_metadata(tmp_path):
    statistics = Statistics((0.5, 0.25), (0.1, 0.2), "uint16")
    terms = make_terms("Unet", statistics, **SMALL, padding=0, bilinear=False)
    terms = changed(terms, threshold=0.375, smallest_object=12)
    ToOnnx.write_file(terms, weights_of(terms), tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    plain = ("net", "version", "pixel_type", "label_kind", "input", "output")
    values = {name: text if name in plain else json.loads(text) for name, text in told.items()}
    assert (values.pop("input"), values.pop("output")) == (terms.metadata()["input"],
                                                           terms.metadata()["output"])
    assert values.pop("mean") == pytest.approx([32767.5, 16383.75])
    assert values.pop("std") == pytest.approx([6553.5, 13107])
    assert values == {
        "net": str(terms.net), "version": VERSION, "channels": 2, "label_kind": "classes",
        "classes": ["background", "foreground"], "border": 0, "pixel_type": "uint16", "step": 16,
        "minimum": 188, "halo": 92, "threshold": 0.375, "smallest_object": 12}
    several = changed(terms, n_classes=4)
    assert json.loads(several.metadata()["classes"])[1:] == ["class_1", "class_2", "class_3"]
    assert several.metadata()["threshold"] == "null"
    keeping = make_terms("U2netS", GREY)
    assert (keeping.step, keeping.minimum, keeping.halo) == (1, 64, 0)


# ---------------------------------------------------------------------------- by the command line
def run_command(folder, *arguments, **environment):
    """The command in a folder, without a network."""
    traps = folder / "traps"
    traps.mkdir(exist_ok=True)
    (traps / "sitecustomize.py").write_text(REFUSE)
    path = ":".join([environment.pop("PYTHONPATH", ""), str(traps)])
    return command("alignment/ToOnnx.py", *arguments, cwd=folder, PYTHONPATH=path, **environment)


def test_the_file_answers_as_predict(tmp_path):
    """An image as a person has it: from the checkpoint by Predict.py, and by the file alone."""
    terms = make_terms("Unet", COLOURS, **SMALL, padding=1, bilinear=True)
    write_checkpoint(tmp_path / "best_model.safetensors", terms)
    done = run_command(tmp_path, "best_model.safetensors", "net.onnx")
    assert done.returncode == 0, done.stderr
    head, *rows, last = done.stdout.splitlines()
    assert "largest difference" in head and last.startswith("Wrote net.onnx: Unet, n_channels 3")
    assert len(rows) == 3 and all(float(row.split()[-1]) <= 1e-4 for row in rows)
    pixels = terms.draw(64, 96).transpose(1, 2, 0)
    Image.fromarray(pixels).save(tmp_path / "cell.png")
    done = command("Predict.py", "--Checkpoint", "best_model.safetensors", "--Input", "cell.png",
                   "--Result_directory", "out", "--probabilities", "--device", "cpu",
                   cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = np.load(tmp_path / "out" / "cell_prob.npy")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    found, = session.run(None, {"image": pixels.transpose(2, 0, 1)[None].astype(np.float32)})
    assert np.abs(found[0] - expected).max() <= 1e-4


def load_package(path):
    """(ModelDescr, {name: bytes}) of a package."""
    from bioimageio.core import load_model_description
    with zipfile.ZipFile(path) as archive:
        return (load_model_description(path),
                {name: archive.read(name) for name in archive.namelist()})


def test_a_package_of_valid_convolutions(tmp_path):
    from bioimageio.core import test_model as try_model
    statistics = Statistics((0.02,), (0.01,), "uint16")
    terms = make_terms("Unet", statistics, n_classes=3, **SMALL, padding=0, bilinear=True)
    write_checkpoint(tmp_path / "best_model.safetensors", terms)
    done = run_command(tmp_path, "best_model.safetensors", "net.onnx", "--bioimageio", "net.zip",
                       *CARD)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("Wrote net.onnx and net.zip: Unet, n_channels 1")
    rows = [row.split(")")[0] for row in done.stdout.splitlines()[1:4]]
    sides = [[int(side) for side in row.split(", ")[2:]] for row in rows]
    assert all(a != b and a % 16 == b % 16 == 12 for a, b in sides)

    summary = try_model(tmp_path / "net.zip")
    assert summary.status == "passed"
    tried = [detail.name for detail in summary.details]
    assert "Reproduce test outputs from test inputs (onnx)" in tried
    assert sum("inference for inputs with batch_size" in name for name in tried) == 6

    model, files = load_package(tmp_path / "net.zip")
    assert (model.name, str(model.license)) == ("Drawn cells", "CC-BY-4.0")
    assert [author.name for author in model.authors] == ["A. Author", "B. Author"]
    assert [str(cited.doi) for cited in model.cite] == ["10.1007/978-3-319-24574-4_28",
                                                        "10.1000/drawn"]
    (image,), (answer,) = model.inputs, model.outputs
    assert image.data.type == "uint16" and tuple(image.data.range) == (0, 65535)
    assert [axis.id for axis in image.axes] == ["batch", "channel", "y", "x"]
    assert all((axis.size.min, axis.size.step) == (188, 16) for axis in image.axes[2:])
    assert all(axis.size.offset == -184 for axis in answer.axes[2:])
    assert answer.axes[1].channel_names == ["background", "class_1", "class_2"]
    assert files["weights.onnx"] == (tmp_path / "net.onnx").read_bytes()
    raw, expected = (np.load(io.BytesIO(files[f"test_{name}.npy"])) for name in ("input", "output"))
    assert raw.dtype == np.uint16 and raw.shape[2] - 184 == expected.shape[2]
    cover = Image.open(io.BytesIO(files["cover.png"]))
    assert cover.width == 2 * cover.height and len(files["cover.png"]) < 500_000
    told = files["README.md"].decode()
    assert "mirror the image there by 92 px first" in " ".join(told.split())


def test_a_package_whose_test_fails_is_not_written(tmp_path):
    """The test compares the file with Jittor's answer: another answer is seen."""
    from ZooPackage import ModelCard, write_package
    terms = changed(make_terms("U2netS", GREY), threshold=0.25, smallest_object=30,
                    label_kind="objects", border=3)
    ToOnnx.write_file(terms, weights_of(terms), tmp_path / "a.onnx")
    exported = ToOnnx.open_file(tmp_path / "a.onnx")
    card = ModelCard("Drawn cells", ["A. Author"], "MIT", "Cells.", [])
    write_package(terms, card, exported, tmp_path / "a.onnx", tmp_path / "a.zip")
    model, files = load_package(tmp_path / "a.zip")
    assert [str(cited.doi) for cited in model.cite] == ["10.1016/j.patcog.2020.107404"]
    assert all((axis.size.min, axis.size.step) == (64, 1) for axis in model.inputs[0].axes[2:])
    told = " ".join(files["README.md"].decode().split())
    assert "above 0.25. Pieces smaller than 30 px are background." in told
    assert "Objects that touch are 3 px smaller there" in told
    with pytest.raises(DataError, match="bioimage.io's test does not pass"):
        write_package(terms, card, lambda raw: exported(raw) * np.float32(0.98),
                      tmp_path / "a.onnx", tmp_path / "b.zip")


def test_the_papers_are_those_of_the_citation():
    from ZooPackage import PAPERS
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert all(f"doi: {doi}\n" in citation for _, doi in PAPERS.values())


def test_mistakes_are_one_line_and_change_nothing(tmp_path):
    terms = make_terms("Unet", GREY, **SMALL, padding=1, bilinear=True)
    write_checkpoint(tmp_path / "a.safetensors", terms)
    weights = weights_of(terms)
    del weights["outc.conv.bias"]
    save(tmp_path / "less.safetensors", weights, {
        "mode": "Unet", "n_channels": 1, "n_classes": 2, "options": terms.net.options,
        "mean": [0], "std": [1], "tile": "full"})
    torch.save({name: torch.from_numpy(array) for name, array in weights_of(terms).items()},
               tmp_path / "others.pth")
    for name in ("onnxruntime", "bioimageio"):
        (tmp_path / "without" / name / name).mkdir(parents=True)
        (tmp_path / "without" / name / name / "__init__.py").write_text(
            "raise ImportError('not here')\n")
    (tmp_path / "traps").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    package = ("a.safetensors", "b.onnx", "--bioimageio", "b.zip")

    def replaced(flag, *words):
        place = CARD.index(flag)
        return (*package, *CARD[:place + 1], *words, *CARD[place + 1 + len(words):])
    for arguments, code, words, without in (
            (("a.safetensors", "b.pth"), 2, "ends in .onnx", ""),
            (package, 2, "--bioimageio: needs --name too", ""),
            ((*package, *CARD[:2]), 2, "--bioimageio: needs --authors too", ""),
            (("a.safetensors", "b.onnx", *CARD), 2, "--name: only with --bioimageio", ""),
            (replaced("--name", "a/b/c"), 2, "expected 5 to 128 letters", ""),
            (replaced("--cite", "x", "drawn"), 2, "expected a DOI as 10.1000/name, got 'drawn'",
             ""),
            (replaced("--license", "CC"), 1, "--license CC: no name of a licence", ""),
            (("none.safetensors", "b.onnx"), 1, "none.safetensors: no such checkpoint", ""),
            (("others.pth", "b.onnx"), 1, "others.pth: not a checkpoint of Main.py", ""),
            (("less.safetensors", "b.onnx"), 1, "missing outc.conv.bias", ""),
            (("a.safetensors", "no/b.onnx"), 1, "no/b.onnx: its folder does not exist", ""),
            (("a.safetensors", "b.onnx"), 1, "-r requirements/align.txt", "onnxruntime"),
            ((*package, *CARD), 1, "-r requirements/align.txt", "bioimageio")):
        done = run_command(tmp_path, *arguments,
                           PYTHONPATH=str(tmp_path / "without" / without) if without else "")
        assert done.returncode == code and words in done.stderr, (arguments, done.stderr)
        assert done.stderr.count("\n") == 1 and not done.stdout, done.stderr
    (tmp_path / "traps" / "sitecustomize.py").unlink()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*")
            if path.is_file() and path.suffix != ".pyc"} == before
