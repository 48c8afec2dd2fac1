"""A training that begins with weights: what is taken from a file, what flags may say, --freeze."""
import csv
import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import fake_model
from helpers import (PLAIN, ROOT, Page, assert_same, command, results, settings_of, with_statistics,
                     write_set)
from training import copy_of, differing, make_trainer

from command.errors import DataError
from nets.beginning import Beginning, adapt_channels, begin_with, fit, read_beginning
from nets.catalogue import CATALOGUE
from nets.checkpoint import load, save
from nets.trained import TrainedNet

RGB = np.arange(2 * 3 * 9, dtype=np.float32).reshape(2, 3, 3, 3)


# ------------------------------------------------------------------------------------ what is taken
def beginning_of(weights, mode="Unet", n_channels=3, n_classes=2, options=None, unseen_from=""):
    net = TrainedNet(mode, n_channels, n_classes, options or {}, None)
    return Beginning(Path("a.pth"), weights, net, unseen_from, {"name": "a.pth", "sha256": "0"})


def unet(n_channels=3, n_classes=2, rng=np.random.default_rng(0)):
    """Tensors of the parts of a U-Net that matter here."""
    shapes = {"inc.double_conv.0.weight": (4, n_channels, 3, 3), "inc.double_conv.0.bias": (4,),
              "down1.x": (2, 3), "up1.x": (5,), "outc.conv.weight": (n_classes, 4, 1, 1),
              "outc.conv.bias": (n_classes,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def shapes_of(weights):
    return {name: array.shape for name, array in weights.items()}


def test_grey_and_rgb_give_the_same_answer():
    """By hand: the convolution of a grey image, and of that image shown three times."""
    grey = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
    thrice = np.stack([grey] * 3)
    summed, spread = adapt_channels(RGB, 1), adapt_channels(RGB[:, :1], 3)
    assert summed.shape == (2, 1, 3, 3) and (summed[0, 0, 0, 0], summed[1, 0, 2, 2]) == (27, 132)
    assert spread.shape == (2, 3, 3, 3) and np.allclose(spread[:, 1], RGB[:, 0] / 3)
    assert np.allclose((summed * grey).sum((1, 2, 3)), (RGB * thrice).sum((1, 2, 3)), rtol=1e-5)
    assert np.allclose((spread * thrice).sum((1, 2, 3)), (RGB[:, :1] * grey).sum((1, 2, 3)),
                       rtol=1e-5)
    for filters, channels in ((RGB, 3), (RGB, 4), (RGB[:, :2], 3), (RGB[:, :1], 2)):
        assert adapt_channels(filters, channels) is filters


def test_all_that_fits_is_taken():
    weights = unet()
    found = fit(beginning_of(weights), shapes_of(weights))
    assert found.weights.keys() == weights.keys() and not found.lines and not found.anew
    assert all(found.weights[name] is weights[name] for name in weights)


@pytest.mark.parametrize("before, now, said", [
    ((3, 2), (1, 2), ["First convolution inc.double_conv.0: 3 channels -> 1: its filters are "
                      "summed"]),
    ((1, 2), (3, 2), ["First convolution inc.double_conv.0: 1 channels -> 3: its filters are "
                      "spread"]),
    ((3, 2), (4, 2), ["First convolution inc.double_conv.0: 3 channels -> 4: its filters begin "
                      "anew"]),
    ((3, 1), (3, 5), ["Output outc.conv: begun anew, for another number of classes than 1"]),
    ((2, 2), (1, 3), ["First convolution inc.double_conv.0: 2 channels -> 1: its filters begin "
                      "anew", "Output outc.conv: begun anew, for another number of classes than "
                      "2"]),
])
def test_other_channels_and_classes(before, now, said):
    old, new = unet(*before), unet(*now)
    found = fit(beginning_of(old, "Unet", *before), shapes_of(new))
    assert found.lines == said
    first = "inc.double_conv.0.weight"
    anew = {first} if "begin anew" in said[0] else set()
    if before[1] != now[1]:
        anew |= {"outc.conv.weight", "outc.conv.bias"}
    assert set(found.anew) == anew and set(found.weights) == set(new) - anew
    assert shapes_of(found.weights) == {name: new[name].shape for name in found.weights}
    for name in set(found.weights) - {first}:
        assert found.weights[name] is old[name]


def test_the_outputs_of_u2net_begin_anew_together():
    shapes = {f"side{k}.{part}": (1, 4) for k in range(1, 7) for part in ("weight", "bias")}
    shapes |= {"outconv.weight": (1, 6), "outconv.bias": (1,), "stage1.x": (3,)}
    weights = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    new = {name: shape if name == "stage1.x" else (2, *shape[1:]) for name, shape in shapes.items()}
    found = fit(beginning_of(weights, "U2netS", n_classes=1), new)
    assert list(found.weights) == ["stage1.x"]
    assert found.lines == ["Output side1, side2, side3 and 4 more: begun anew, for another number "
                           "of classes than 1"]


def test_tensors_that_lack_or_are_foreign_are_said():
    weights = unet()
    wanted = shapes_of(weights)
    del weights["down1.x"]
    weights |= {"up1.x": np.ones(6, np.float32), "attention\n.weight": np.ones(1, np.float32)}
    found = fit(beginning_of(weights), wanted)
    assert found.lines == ["Begun anew, not in the file in this shape: down1.x, up1.x",
                           r"Left out, not of this net: 'attention\n.weight'"]


def test_a_model_gets_what_fits_and_keeps_the_rest():
    weights, model = unet(), fake_model(**shapes_of(unet(1, 3)))
    filters = weights["inc.double_conv.0.weight"]
    begun = beginning_of(weights, options={"padding": 1, "align_corners": True},
                         unseen_from="--preset milesial")
    said = begin_with(model, begun)
    assert said[0].startswith("Begins with the weights of a.pth: Unet, n_channels 3, n_classes 2, ")
    assert said[1] == ("a.pth does not show padding 1, align_corners True: from --preset milesial")
    assert len(said) == 4 and not weights, "the model has them"
    state = model.state_dict()
    assert np.allclose(state["inc.double_conv.0.weight"].value, filters.sum(1, keepdims=True))
    assert not state["outc.conv.weight"].assigned and not state["outc.conv.bias"].assigned


def test_a_frozen_module_never_stays_random():
    for now, missing in ((unet(4), "inc.double_conv.0.weight"), (unet(), "down1.x")):
        weights = unet()
        weights.pop(missing if missing == "down1.x" else "up1.x")
        model = fake_model(**shapes_of(now))
        with pytest.raises(DataError, match=f"--freeze: a.pth does not give {missing}, which would "
                                            "stay random; leave --freeze out"):
            begin_with(model, beginning_of(weights), ("inc", "down1"))
        assert not any(var.assigned for var in model.state_dict().values())


# ----------------------------------------------------------------------------------------- the file
OPTIONS = {"bilinear": False, "dropout_probs": [0.1] * 4, "base_channels": 6, "padding": 1,
           "conv_bias": False, "align_corners": False}
HEADER = {"mode": "Unet", "n_channels": 3, "n_classes": 2, "options": OPTIONS, "mean": [0.5] * 3,
          "std": [0.2] * 3, "dtype": "uint8", "tile": "full"}
OTHERS = {"inc.double_conv.0.weight": np.zeros((6, 3, 3, 3), np.float32),
          "outc.conv.weight": np.zeros((2, 6, 1, 1), np.float32)}
TRANSPOSED = {**OTHERS, "up1.up.weight": np.zeros((2, 2, 2, 2), np.float32)}
BIASED = {**OTHERS, "inc.double_conv.0.bias": np.zeros(6, np.float32)}
U2NET = {"stage1.rebnconvin.conv_s1.weight": np.zeros((64, 3, 3, 3), np.float32),
         "stage1.rebnconv1.conv_s1.weight": np.zeros((16, 64, 3, 3), np.float32),
         "outconv.weight": np.zeros((1, 6, 1, 1), np.float32)}


@pytest.fixture
def ours(tmp_path):
    save(tmp_path / "best_model.safetensors", TRANSPOSED, HEADER)
    return tmp_path / "best_model.safetensors"


@pytest.fixture
def others(tmp_path):
    """A function that writes weights without a header."""
    from safetensors.numpy import save_file

    def write(weights):
        save_file(weights, tmp_path / "a.safetensors")
        return tmp_path / "a.safetensors"
    return write


def request_of(*flags):
    import Main
    from runs.request import read_request
    return read_request(list(map(str, flags)), Main.build_parser, Main.PROTOCOLS, Main.CROP)


def test_options_of_a_checkpoint_take_the_place_of_defaults_and_of_a_protocols(ours):
    for protocol in ("default", "fast", "paper"):
        request = request_of("--weights", ours, "--protocol", protocol)
        net = request.settings.net
        assert (net.mode, net.bilinear, net.base_channels, net.padding, net.conv_bias,
                net.align_corners) == ("Unet", False, 6, 1, False, False)
        assert net.dropout_probs != [0.1] * 4, "how it is trained is not the net's"
    assert request.weights_from == {"name": "best_model.safetensors",
                                    "sha256": hashlib.sha256(ours.read_bytes()).hexdigest()}
    assert net.options["conv_bias"] is False


def test_the_same_flags_as_in_the_file_may_be_given(ours):
    assert request_of("--weights", ours, "--padding", 1, "--bilinear", "False", "--base_channels",
                      6, "--mode", "Unet", "--align_corners", "False").beginning
    assert request_of("--weights", ours, "--n_channels", 1, "--n_classes", 5).beginning


def test_an_older_header_and_a_last_model(ours):
    header = {**HEADER, "options": {**OPTIONS}}
    del header["options"]["align_corners"]
    save(ours, {**TRANSPOSED, "optimizer.m.0": np.full(3, np.nan, np.float32)}, header)
    request = request_of("--weights", ours)
    assert request.settings.net.align_corners is False
    assert set(request.beginning.weights) == set(TRANSPOSED)


@pytest.mark.parametrize("weights, flags, found, source", [
    (OTHERS, [], (1, True), "flags, or else as is usual where convolutions have no bias"),
    (OTHERS, ["--padding", 0], (0, True),
     "flags, or else as is usual where convolutions have no bias"),
    (OTHERS, ["--preset", "milesial"], (1, True), "--preset milesial"),
    (BIASED, ["--preset", "milesial"], (1, True), "--preset milesial"),
    (BIASED, [], (0, False), "--padding and --align_corners"),
    (BIASED, ["--protocol", "fast"], (1, False), "--padding and --align_corners"),
    (BIASED, ["--align_corners", "True"], (0, True), "--padding and --align_corners"),
    (U2NET, [], (0, False), "--align_corners"),
    (U2NET, ["--protocol", "fast", "--align_corners", "True"], (0, True), "--align_corners"),
    (U2NET, ["--preset", "u2netp"], (0, False), "--preset u2netp")])
def test_what_others_weights_do_not_show(others, weights, flags, found, source):
    request = request_of("--weights", others(weights), *flags)
    net = request.settings.net
    assert (net.padding, net.align_corners) == found
    assert request.beginning.unseen_from == source
    assert net.mode == ("U2netS" if weights is U2NET else "Unet")
    if net.mode == "Unet":
        assert (net.base_channels, net.bilinear) == (6, True)
        assert net.conv_bias is (weights is BIASED)


@pytest.mark.parametrize("flags, said", [
    (["--padding", 0], "--padding 0: {ours} has padding 1; leave it out"),
    (["--bilinear", "True"], "--bilinear True: {ours} has bilinear False; leave it out"),
    (["--base_channels", 8], "--base_channels 8: {ours} has base_channels 6; leave it out"),
    (["--mode", "U2net"], "--mode U2net: {ours} has mode Unet; leave it out"),
    (["--align_corners", "1"], "--align_corners True: {ours} has align_corners False; leave it "
                               "out"),
    (["--preset", "milesial"], "--preset: {ours} is a checkpoint of Main.py and says it itself")])
def test_flags_that_contradict_a_checkpoint_are_refused(ours, capsys, flags, said):
    assert_refused(capsys, said.format(ours=ours), "--weights", ours, *flags)


@pytest.mark.parametrize("flags, said", [
    (["--preset", "u2net"], "--preset u2net: {path} holds Unet, n_channels 3, n_classes 2, "),
    (["--preset", "milesial", "--padding", 0],
     "--padding 0: --preset milesial has padding 1; leave it out"),
    (["--preset", "milesial", "--base_channels", 64],
     "--base_channels 64: {path} has base_channels 6; leave it out")])
def test_flags_that_contradict_others_weights_are_refused(others, capsys, flags, said):
    path = others(OTHERS)
    assert_refused(capsys, said.format(path=path), "--weights", path, *flags)


@pytest.mark.parametrize("flags", [["--preset", "milesial"], ["--freeze", "encoder"]])
def test_flags_for_weights_want_weights(capsys, flags):
    assert_refused(capsys, f"{flags[0]}: only with --weights", *flags)


def test_a_net_without_an_encoder_cannot_freeze_it(ours, capsys, monkeypatch):
    monkeypatch.setitem(CATALOGUE, "Unet", replace(CATALOGUE["Unet"], encoder=()))
    assert_refused(capsys, "--freeze encoder: Unet has none", "--weights", ours, "--freeze",
                   "encoder")


def assert_refused(capsys, said, *flags):
    with pytest.raises(SystemExit) as stop:
        request_of(*flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and said in error and error.count("\n") == 1, error


def test_files_that_are_no_good(tmp_path, others):
    with pytest.raises(DataError, match="no such checkpoint"):
        request_of("--weights", tmp_path / "none.pth")
    (tmp_path / "junk.pth").write_bytes(b"junk" * 10)
    with pytest.raises(DataError, match="junk.pth: not a readable safetensors checkpoint"):
        request_of("--weights", tmp_path / "junk.pth")
    with pytest.raises(DataError, match="the weights of neither a U-Net"):
        request_of("--weights", others({"a": np.zeros(3, np.float32)}))
    bad = {**OTHERS, "up1.conv.double_conv.1.running_var": np.float32([1, np.inf])}
    with pytest.raises(DataError, match="a.safetensors: up1.conv.double_conv.1.running_var has "
                                        "values that are not finite; choose another"):
        read_beginning(others(bad), None)


def test_align_corners_without_weights():
    found, plain = settings_of("--align_corners", "True").net, settings_of().net
    assert found.options == {**plain.options, "align_corners": True}
    assert found.geometry != plain.geometry, "its tiles are not exact"
    for mode in ("U2net", "U2netS"):
        options = settings_of("--mode", mode, "--align_corners", "True").net.options
        assert options == {"align_corners": True, "side_outputs": True}


# -------------------------------------------------------------------------------- a frozen encoder
NETS = pytest.mark.parametrize("mode, options", [
    ("Unet", {"base_channels": 4, "padding": 1, "dropout_probs": [0.5] * 4}),
    ("U2netS", {"side_outputs": True})])


def frozen_net(build, mode, options, rng):
    from backend.freezing import freeze
    model = with_statistics(build(mode, 1, 2, **options), rng)
    model.train()
    freeze(model, CATALOGUE[mode].encoder)
    return model


def is_encoders(name, mode):
    return name.partition(".")[0] in CATALOGUE[mode].encoder


@pytest.mark.jittor
@NETS
def test_steps_leave_a_frozen_encoder_alone(build, dataset, tmp_path, mode, options):
    """Weights and running statistics, through a test too; all of the decoder moves."""
    model = frozen_net(build, mode, options, np.random.default_rng(5))
    before = {name: var.numpy().copy() for name, var in model.state_dict().items()}
    trainer = make_trainer(model, dataset((64, 64), (64, 64)), tmp_path, epochs=(2, 0))
    trained = len(trainer.optimizer.param_groups[0]["params"])
    assert trained == len([name for name in before if not is_encoders(name, mode)
                           and "running" not in name])
    assert trainer.run() and len(trainer.bests) and not any(
        record["skipped"] for record in trainer.records)
    after = copy_of(trainer)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    # a convolution's bias before BatchNorm has no gradient
    still = {name for name in before if not is_encoders(name, mode)} - moved
    assert not [name for name in moved if is_encoders(name, mode)]
    assert all(name.endswith(".bias") for name in still) and len(moved) > len(still)


@pytest.mark.jittor
@NETS
def test_gradients_of_the_decoder_are_those_of_jittors_operators(build, jt, mode, options):
    """With the encoder in eval mode, in float32, by our kernels and without."""
    from backend.operators import without_kernels
    rng = np.random.default_rng(6)
    x = rng.normal(size=(1, 1, 64, 64)).astype(np.float32)
    model = frozen_net(build, mode, {**options, "side_outputs": False} if mode != "Unet"
                       else options, rng)
    trained = {name: var for name, var in model.state_dict().items()
               if not is_encoders(name, mode) and "running" not in name}
    statistics = {name: var.numpy() for name, var in model.state_dict().items()
                  if "running" in name}
    assert all(var.is_stop_grad() != (name in trained) for name, var in model.state_dict().items()
               if "running" not in name)

    def gradients():
        loss = (model(jt.array(x)) * jt.array(factors)).sum()
        return [gradient.numpy() for gradient in jt.grad(loss, list(trained.values()))]
    factors = rng.normal(size=(1, 2, 64, 64)).astype(np.float32)
    model.train()
    found = gradients()
    for name, var in model.state_dict().items():
        if name in statistics:
            var.assign(statistics[name])
    with without_kernels():
        expected = gradients()
    largest = max(np.abs(each).max() for each in expected)
    for name, one, other in zip(trained, found, expected):
        # as a whole: rounding moves a number across a ReLU's corner here and there
        room = 1e-2 * np.linalg.norm(other) + 1e-5 * largest
        assert np.linalg.norm(one - other) <= room, name
    assert sum(np.abs(each).max() > 0 for each in expected) > len(expected) / 2


@pytest.mark.jittor
def test_no_step_goes_backward_through_the_encoder(build, jt, monkeypatch):
    """As many convolutions have gradients as the decoder has; none of them wants its skip's."""
    from backend import cpu_convolution
    wanted, real = [], cpu_convolution.layer_gradients

    def counted(shape, xs, weight, gradient, others, needed, bias):
        wanted.append(list(needed))
        return real(shape, xs, weight, gradient, others, needed, bias)
    monkeypatch.setattr(cpu_convolution, "layer_gradients", counted)
    model = frozen_net(build, "Unet", {"base_channels": 4, "padding": 1}, np.random.default_rng(7))
    model.train()
    loss = model(jt.ones((1, 1, 64, 64))).sum()
    parameters = [var for var in model.parameters() if not var.is_stop_grad()]
    jt.sync(jt.grad(loss, parameters))
    assert sorted(wanted) == sorted([[False, False], *[[False, True]] * 3, *[[True]] * 4])


# ---------------------------------------------------------------------------------- whole commands
FAST = ("--protocol", "fast", "--Batch_size", 2, "--tile", "full", "--device", "cpu")


def scores_of(folder):
    """The IoU after each epoch of the one run in a folder."""
    table, = folder.glob("logs/*.csv")
    with open(table, newline="") as file:
        return [float(row["iou"]) for row in csv.DictReader(file)]


@pytest.mark.jittor
def test_weights_save_two_thirds_of_the_steps(tmp_path, machine):
    """From weights of one set to another: an IoU in 4 epochs that 11 from scratch do not reach."""
    for seed, name in enumerate(("old", "new")):
        done = command("MakeData.py", "sample", "--Data_directory", name, "--seed", seed, "--size",
                       128, "--train", 8, "--test", 2, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    small = [*FAST, "--base_channels", 8]
    runs = {"teacher": ["--Data_directory", "../old", "--Total_epochs", 24, "--Val_epochs", 22,
                        "--Learning_rate", 0.005],
            "scratch": ["--Data_directory", "../new", "--Total_epochs", 11, "--Val_epochs", 0,
                        "--Learning_rate", 0.005],
            "begun": ["--Data_directory", "../new", "--Total_epochs", 4, "--Val_epochs", 0,
                      "--Learning_rate", 0.002,
                      "--weights", "../teacher/checkpoints/best_model.safetensors"]}
    started = {}
    for name, flags in runs.items():
        (tmp_path / name).mkdir()
        if name == "begun":
            assert [process.wait(600) for process in started.values()] == [0, 0]
        started[name] = subprocess.Popen(
            [sys.executable, ROOT / "Main.py", *map(str, [*small, *flags])],
            cwd=tmp_path / name, stdout=subprocess.DEVNULL)
    assert started["begun"].wait(600) == 0
    assert max(scores_of(tmp_path / "begun")) >= 0.855 > max(scores_of(tmp_path / "scratch"))


@pytest.mark.jittor
def test_a_frozen_run_and_its_resumed_twin(tmp_path, machine, jt):
    """From others' grey net without biases to RGB and three classes; the file is gone later."""
    from Model import build_model
    from safetensors.numpy import save_file
    net = build_model("Unet", 1, 2, base_channels=4, padding=1, conv_bias=False)
    weights = {name: var.numpy() for name, var in
               with_statistics(net, np.random.default_rng(8)).state_dict().items()}
    write_set(tmp_path / "data", [(48, 48)] * 2, [(48, 48)], channels=3, classes=3)
    flags = ["--Data_directory", "../data", "--Val_epochs", 0, "--device", "cpu", *PLAIN[2:],
             "--Learning_rate", 0.01, "--weights", "../a.safetensors", "--align_corners", "False",
             "--freeze", "encoder"]
    save_file(weights, tmp_path / "a.safetensors")
    digest = hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    for name, epochs in (("whole", 2), ("parted", 1)):
        (tmp_path / name).mkdir()
        done = command("Main.py", *flags, "--Total_epochs", epochs, cwd=tmp_path / name)
        assert done.returncode == 0, done.stderr
        for line in (f"Begins with the weights of ../a.safetensors: Unet, n_channels 1, n_classes "
                     "2, base_channels 4, bilinear True, conv_bias False, align_corners False, "
                     f"padding 1; SHA-256 {digest}",
                     "../a.safetensors does not show padding 1, align_corners False: from flags, "
                     "or else as is usual where convolutions have no bias",
                     "First convolution inc.double_conv.0: 1 channels -> 3: its filters are spread",
                     "Output outc.conv: begun anew, for another number of classes than 2"):
            assert f"\n{line}\n" in f"\n{done.stdout}"
    (tmp_path / "a.safetensors").unlink()
    for more, said in ((["--weights", "b.pth"], "--weights: a resumed run goes on with its own"),
                       (["--align_corners", "True"], "--align_corners True (was False)")):
        refused = command("Main.py", "--resume", *more, cwd=tmp_path / "parted")
        assert refused.returncode == 2 and said in refused.stderr
        assert refused.stderr.count("\n") == 1
    done = command("Main.py", "--resume", "--Total_epochs", 2, cwd=tmp_path / "parted")
    assert done.returncode == 0, done.stderr
    assert_same(results(tmp_path / "parted"), results(tmp_path / "whole"))
    for folder in ("whole", "parted"):
        path = tmp_path / folder / "checkpoints"
        for name in ("best_model.safetensors", "last_model.safetensors"):
            arrays, header = load(path / name)
            assert header["weights_from"] == {"name": "a.safetensors", "sha256": digest}
            assert (header["options"]["conv_bias"], header["options"]["padding"]) == (False, 1)
            assert header["mean"] != [0.0] * 3 and len(header["mean"]) == 3
            encoder = {name for name in weights if is_encoders(name, "Unet")}
            first = "inc.double_conv.0.weight"
            assert not [name for name in encoder - {first}
                        if not np.array_equal(arrays[name], weights[name])]
            assert np.array_equal(arrays[first], np.repeat(weights[first] / 3, 3, axis=1))
        page_path, = (tmp_path / folder).glob("logs/*.html")
        page = Page(page_path)
        assert "Began with the weights of a.safetensors" in page.text and digest in page.text
        assert "conv_bias=" not in page.text and "--conv_bias" not in page.text
    done = command("Predict.py", "--Checkpoint", path / "best_model.safetensors", "--Input",
                   "../data/test/imgs", "--device", "cpu", cwd=tmp_path / "whole")
    assert done.returncode == 0 and "conv_bias False" in done.stdout, done.stderr
