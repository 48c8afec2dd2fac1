"""TorchModel.py against Model.py and Loss.py (needs PyTorch and Jittor).

    pytest alignment/test_twin.py

Both frameworks get the same weights and inputs from seeded NumPy generators.  Compare.py compares
the running statistics after a step and the optimisers' steps.
"""
import itertools
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
import TorchModel
from Golden import formula_weights

import Loss
import Model
import Ours
from backend.start import jt
from command.errors import DataError
from nets.checkpoint import load_weights

COUNTS = {("Unet", 1): (17_266_306, 8_832), ("Unet", 3): (17_267_458, 8_832),
          ("U2net", 1): (44_022_566, 28_800), ("U2net", 3): (44_023_718, 28_800),
          ("U2netS", 1): (1_133_510, 5_696), ("U2netS", 3): (1_134_662, 5_696)}
SWITCHES = {"Unet": ("bilinear", "padding", "conv_bias", "align_corners"),
            "U2net": ("align_corners",), "U2netS": ("align_corners",)}
OPTIONS = [(mode, dict(zip(switches, values))) for mode, switches in SWITCHES.items()
           for values in itertools.product((True, False), repeat=len(switches))]


class Case(NamedTuple):
    """A net and the side of its input, in pixels."""
    mode: str
    n_channels: int
    n_classes: int
    options: dict
    side: int


CASES = {
    "Unet": Case("Unet", 1, 2, {"base_channels": 4}, 188),
    "Unet, align_corners": Case("Unet", 1, 2, {"base_channels": 4, "align_corners": True}, 188),
    "Unet, transposed": Case("Unet", 3, 3, {"base_channels": 4, "bilinear": False}, 188),
    "Unet, transposed, padded": Case(
        "Unet", 1, 2, {"base_channels": 4, "bilinear": False, "padding": 1}, 96),
    "Unet, padded": Case(
        "Unet", 3, 2,
        {"base_channels": 4, "padding": 1, "conv_bias": False, "align_corners": True}, 96),
    "Unet, padded, odd sizes": Case(
        "Unet", 1, 2, {"base_channels": 4, "padding": 1, "align_corners": True}, 87),
    "U2netS": Case("U2netS", 3, 2, {"side_outputs": True}, 64),
    "U2netS, align_corners": Case(
        "U2netS", 1, 1, {"side_outputs": True, "align_corners": True}, 64),
    "U2netS, odd sizes": Case("U2netS", 1, 2, {"side_outputs": True}, 75),
}


class LossAndGradients(NamedTuple):
    """What one framework makes of two images in training mode."""
    loss: float
    gradients: dict  # {parameter: array}


def build_pair(mode, n_channels, n_classes, options):
    """(Jittor's net, its twin) with the same random weights and statistics."""
    ours, twin = (module.build_model(mode, n_channels, n_classes, **options)
                  for module in (Model, TorchModel))
    shapes = {name: value.shape for name, value in TorchModel.state_arrays(twin).items()}
    arrays = formula_weights(shapes)
    for name, var in ours.state_dict().items():
        var.assign(arrays[name])
    TorchModel.load_arrays(twin, arrays)
    return ours, twin


def as_list(outputs):
    return outputs if isinstance(outputs, list) else [outputs]


def random_images(n_channels, side):
    images = np.random.default_rng(1).normal(size=(2, n_channels, side, side))
    return images.astype(np.float32)


def random_target(n_classes, size):
    """(label (2, *size) int32, weight map (2, *size) float32)."""
    rng = np.random.default_rng(2)
    label = rng.integers(0, n_classes, (2, *size), np.int32)
    return label, rng.uniform(0.5, 10, (2, *size)).astype(np.float32)


def losses_and_gradients(case, double):
    """(Jittor's, PyTorch's) LossAndGradients of the same two images; double: in float64."""
    ours, twin = build_pair(*case[:4])
    if double:
        ours.float64()
        twin.double()
    ours.train()
    dtype = np.float64 if double else np.float32
    images = random_images(case.n_channels, case.side).astype(dtype)
    twin_outputs = as_list(twin(torch.from_numpy(images)))
    label, weight_map = random_target(case.n_classes, twin_outputs[0].shape[2:])
    weight_map = weight_map.astype(dtype)
    twin_loss = TorchModel.deep_supervision_loss(
        twin_outputs, torch.from_numpy(label).long(), torch.from_numpy(weight_map))
    twin_loss.backward()
    to_jittor = jt.array64 if double else jt.array  # jt.array makes float32 of float64
    loss = Loss.deep_supervision_loss(as_list(ours(to_jittor(images))), jt.array(label),
                                      to_jittor(weight_map))
    named = {name: var for name, var in ours.state_dict().items() if "running_" not in name}
    gradients = {name: var.numpy()
                 for name, var in zip(named, jt.grad(loss, list(named.values())))}
    assert all(gradient.dtype == dtype for gradient in gradients.values())
    twin_gradients = {name: parameter.grad.numpy() for name, parameter in twin.named_parameters()}
    return (LossAndGradients(float(loss.item()), gradients),
            LossAndGradients(twin_loss.item(), twin_gradients))


def has_no_gradient(name, options):
    """Whether a parameter's gradient is 0 by mathematics.

    So it is where the next BatchNorm takes a constant away: for the bias of a convolution before
    a BatchNorm, and of a transposed convolution whose output reaches one through a convolution
    without padding.
    """
    endings = ("double_conv.0.bias", "double_conv.3.bias", "conv_s1.bias")
    return name.endswith(endings if options.get("padding") else (*endings, "up.bias"))


def compare_gradients(gradients, expected, options):
    """Jittor's {name: gradient} against PyTorch's: two numbers.

    The first is the largest ||difference|| / ||gradient||.  The second is the norm of Jittor's
    largest gradient where 0 is right, relative to the largest norm of all.
    """
    norms = {name: np.linalg.norm(gradient) for name, gradient in expected.items()}
    zeros = {name for name in norms if has_no_gradient(name, options)}
    worst = max(np.linalg.norm(gradients[name] - expected[name]) / norms[name]
                for name in norms.keys() - zeros)
    rest = max((np.linalg.norm(gradients[name]) for name in zeros), default=0)
    return worst, rest / max(norms.values())


# ------------------------------------------------------------------------------- counts and names
@pytest.mark.parametrize("mode, n_channels", COUNTS)
def test_parameter_counts(mode, n_channels):
    with torch.device("meta"):
        twin = TorchModel.build_model(mode, n_channels, 2)
    statistics = sum(value.numel() for name, value in twin.named_buffers() if "running_" in name)
    parameters = sum(value.numel() for value in twin.parameters())
    assert (parameters, statistics) == COUNTS[mode, n_channels]


@pytest.mark.parametrize("mode, options", OPTIONS)
def test_names_and_shapes(mode, options):
    size = {"base_channels": 2} if mode == "Unet" else {}
    ours = Model.build_model(mode, 3, 2, **options, **size).state_dict()
    with torch.device("meta"):
        twin = TorchModel.build_model(mode, 3, 2, **options, **size).state_dict()
    shapes = {name: list(value.shape) for name, value in twin.items()
              if not name.endswith("num_batches_tracked")}
    found = [(name, list(var.shape)) for name, var in ours.items()]
    assert list(shapes.items()) == found, "names, their order, shapes"
    norms = {name.removesuffix("running_var") for name in ours if name.endswith("running_var")}
    assert twin.keys() - shapes.keys() == {f"{norm}num_batches_tracked" for norm in norms}


def test_arrays_travel_strictly():
    twin = TorchModel.build_model("Unet", 1, 2, base_channels=2)
    arrays = {name: array + 1 for name, array in TorchModel.state_arrays(twin).items()}
    TorchModel.load_arrays(twin, arrays)
    found = TorchModel.state_arrays(twin)
    assert found.keys() == arrays.keys()
    assert all((found[name] == arrays[name]).all() for name in arrays)
    found["outc.conv.bias"] += 1
    again = TorchModel.state_arrays(twin)["outc.conv.bias"]
    assert (again == arrays["outc.conv.bias"]).all(), "the arrays are no copy"
    missing = {name: array for name, array in arrays.items() if name != "outc.conv.bias"}
    for wrong in (missing, {**arrays, "outc.conv.scale": np.ones(2, np.float32)},
                  {**arrays, "outc.conv.bias": np.ones(3, np.float32)}):
        with pytest.raises(RuntimeError, match=r"outc\.conv\.(bias|scale)"):
            TorchModel.load_arrays(twin, wrong)


def test_optimizer_settings():
    twin = TorchModel.build_model("Unet", 1, 2, base_channels=2)
    adam, sgd = (TorchModel.build_optimizer(name, twin, 1e-3).defaults for name in ("adam", "sgd"))
    assert adam["lr"] == 1e-3 and adam["betas"] == (0.99, 0.999)
    assert adam["eps"] == 1e-8 and adam["weight_decay"] == 1e-4
    assert sgd["lr"] == 1e-3 and sgd["momentum"] == 0.99
    assert sgd["weight_decay"] == 0 and sgd["dampening"] == 0


# --------------------------------------------------------------------------------- public weights
@pytest.mark.parametrize("mode, n_classes, options, zipped, height, width", [
    ("Unet", 2, {"padding": 1, "conv_bias": False, "align_corners": True}, True, 100, 87),
    ("Unet", 2, {"padding": 1, "conv_bias": False, "bilinear": False}, True, 64, 75),
    ("U2net", 1, {}, False, 96, 160),
    ("U2netS", 1, {}, False, 96, 160)],
    ids=["milesial, bilinear", "milesial", "u2net.pth", "u2netp.pth"])
def test_public_weights_predict_as_at_home(tmp_path, mode, n_classes, options, zipped, height,
                                           width):
    """Nets at full width, in the file formats in which they are published.

    They are loaded from a file into a net of other weights.
    """
    _, twin = build_pair(mode, 3, n_classes, options)
    state = {**twin.state_dict(), "mask_values": [0, 1]} if zipped else twin.state_dict()
    torch.save(state, tmp_path / "public.pth", _use_new_zipfile_serialization=zipped)
    ours = Model.build_model(mode, 3, n_classes, **options)
    load_weights(ours, tmp_path / "public.pth")
    images = np.random.default_rng(1).uniform(size=(1, 3, height, width)).astype(np.float32)
    with torch.no_grad():
        expected = twin.eval()(torch.from_numpy(images)).numpy()
    found = ours.eval()(jt.array(images)).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * np.ptp(expected)


# ------------------------------------------------------------------------------------ the numbers
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", CASES)
def test_forward(name, training):
    case = CASES[name]
    ours, twin = build_pair(*case[:4])
    if training:
        ours.train()
    else:
        ours.eval()
    twin.train(training)
    images = random_images(case.n_channels, case.side)
    with torch.no_grad():
        expected = [logits.numpy() for logits in as_list(twin(torch.from_numpy(images)))]
    found = [logits.numpy() for logits in as_list(ours(jt.array(images)))]
    assert [logits.shape for logits in found] == [logits.shape for logits in expected]
    for one, other in zip(found, expected):
        assert np.abs(one - other).max() <= 1e-4 * np.ptp(other)


@pytest.mark.parametrize("scale", [1, 100])
def test_losses(scale):
    logits = [np.random.default_rng(seed).normal(0, scale, (2, 3, 20, 30)).astype(np.float32)
              for seed in range(7)]
    label, weight_map = random_target(3, (20, 30))
    target = jt.array(label), jt.array(weight_map)
    twin_target = torch.from_numpy(label).long(), torch.from_numpy(weight_map)
    single = TorchModel.weighted_cross_entropy(torch.from_numpy(logits[0]), *twin_target).item()
    found = Loss.weighted_cross_entropy(jt.array(logits[0]), *target).item()
    assert found == pytest.approx(single, rel=1e-5)
    tensors = list(map(torch.from_numpy, logits))
    total = TorchModel.deep_supervision_loss(tensors, *twin_target).item()
    found = Loss.deep_supervision_loss(list(map(jt.array, logits)), *target).item()
    assert found == pytest.approx(total, rel=1e-5)


def test_double_precision_refuses_a_gpu(monkeypatch):
    monkeypatch.setattr(Ours, "jt", SimpleNamespace(flags=SimpleNamespace(use_cuda=1)))
    with pytest.raises(DataError, match=r"^double precision: [^\n]* on a GPU; --device cpu has$"):
        Ours.Ours.to_double(None)


@pytest.mark.parametrize("double, limit, limit_of_zeros", [(True, 1e-3, 1e-6), (False, 5e-2, 1e-4)],
                         ids=["float64", "float32"])
# With one class the loss is 0.
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.n_classes > 1])
def test_loss_and_gradients(name, double, limit, limit_of_zeros):
    """float64 shows that the nets are the same, float32 that Jittor's fast kernels work.

    In float32 rounding switches a ReLU or the choice of a max-pool here and there.  PyTorch's
    gradients of a U-2-Net are up to 4e-2 away from its own in float64, and up to 2e-5 of the
    largest where 0 is right.
    """
    if double and jt.flags.use_cuda:
        pytest.skip("Jittor has no convolutions in float64 on a GPU")
    if double and name == "U2netS, odd sizes":
        pytest.skip("Jittor's resize has its coordinates in float32 even then: "
                    "it is exact only where the scale is 2")
    found, expected = losses_and_gradients(CASES[name], double)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert found.gradients.keys() == expected.gradients.keys()
    worst, zeros = compare_gradients(found.gradients, expected.gradients, CASES[name].options)
    assert worst < limit and zeros < limit_of_zeros
