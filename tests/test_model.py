"""Model.py, backend/summary.py: counts, names, sizes, first weights; U-Net against NumPy's."""
import io
import math

import numpy as np
import pytest
from helpers import command, with_statistics

pytestmark = pytest.mark.jittor

COUNTS = {("Unet", 1): (17_266_306, 8_832), ("Unet", 3): (17_267_458, 8_832),
          ("U2net", 1): (44_022_566, 28_800), ("U2net", 3): (44_023_718, 28_800),
          ("U2netS", 1): (1_133_510, 5_696), ("U2netS", 3): (1_134_662, 5_696)}


def test_batch_norm_keeps_the_unbiased_variance(jt):
    """The output has the batch's biased variance, the running one is unbiased, as in PyTorch."""
    from backend.operators import BatchNorm
    rng, norm = np.random.default_rng(0), BatchNorm(3)
    mean, variance = np.zeros(3), np.ones(3)
    for _ in range(3):
        x = rng.normal(1, 2, (2, 3, 2, 3)).astype(np.float32)
        y = norm(jt.array(x)).numpy()
        channels = x.transpose(1, 0, 2, 3).reshape(3, -1).astype(np.float64)
        mean = 0.9 * mean + 0.1 * channels.mean(axis=1)
        variance = 0.9 * variance + 0.1 * channels.var(axis=1, ddof=1)
        centred = channels - channels.mean(axis=1, keepdims=True)
        normalised = centred / np.sqrt(channels.var(axis=1)[:, None] + 1e-5)
        assert np.allclose(y.transpose(1, 0, 2, 3).reshape(3, -1), normalised, atol=1e-5)
        assert np.allclose(norm.running_mean.numpy(), mean, rtol=1e-5)
        assert np.allclose(norm.running_var.numpy(), variance, rtol=1e-5)
    norm.eval()
    before = norm.running_var.numpy().copy()
    expected = (x - mean[:, None, None]) / np.sqrt(variance[:, None, None] + 1e-5)
    assert np.allclose(norm(jt.array(x)).numpy(), expected, atol=1e-5)
    assert (norm.running_var.numpy() == before).all()
    single = BatchNorm(3)
    single(jt.array(x[:1, :, :1, :1])).sync()
    assert np.isfinite(single.running_var.numpy()).all(), "one value has no unbiased variance"


# -------------------------------------------------------------------------------- counts and names
@pytest.mark.parametrize("mode, channels", COUNTS)
def test_parameter_counts(build, mode, channels):
    from backend.summary import count_parameters
    trainable, statistics = COUNTS[mode, channels]
    assert count_parameters(build(mode, channels, 2)) == (trainable, trainable + statistics)


@pytest.mark.parametrize("bilinear", [True, False])
def test_unet_state_dict_names(build, bilinear):
    blocks = ["inc", *(f"down{k}.maxpool_conv.1" for k in (1, 2, 3, 4)),
              *(f"up{k}.conv" for k in (1, 2, 3, 4))]
    norm = ("weight", "bias", "running_mean", "running_var")
    names = {f"{block}.double_conv.{i}.{part}" for block in blocks
             for i, parts in ((0, norm[:2]), (1, norm), (3, norm[:2]), (4, norm)) for part in parts}
    names |= {"outc.conv.weight", "outc.conv.bias"}
    if not bilinear:
        names |= {f"up{k}.up.{part}" for k in (1, 2, 3, 4) for part in ("weight", "bias")}
    assert set(build("Unet", 1, 2, bilinear=bilinear, base_channels=2).state_dict()) == names


def test_u2net_state_dict_names(build):
    units = {"stage1": 7, "stage2": 6, "stage3": 5, "stage4": 4, "stage5": 4, "stage6": 4}
    units |= {f"{name}d": height for name, height in units.items() if name != "stage6"}
    layers = {f"{stage}.rebnconv{k}" for stage, height in units.items()
              for k in ["in", *range(1, height + 1), *(f"{i}d" for i in range(1, height))]}
    parts = ("conv_s1.weight", "conv_s1.bias",
             "bn_s1.weight", "bn_s1.bias", "bn_s1.running_mean", "bn_s1.running_var")
    names = {f"{layer}.{part}" for layer in layers for part in parts}
    heads = ["outconv", *(f"side{k}" for k in range(1, 7))]
    names |= {f"{head}.{part}" for head in heads for part in ("weight", "bias")}
    assert set(build("U2netS", 1, 2).state_dict()) == names


def test_conv_bias_can_be_left_out(build):
    model = build("Unet", 1, 2, base_channels=2, conv_bias=False, padding=1)
    names = set(model.state_dict())
    assert "inc.double_conv.0.weight" in names and "inc.double_conv.0.bias" not in names
    assert "outc.conv.bias" in names


def test_unknown_mode(build):
    with pytest.raises(ValueError, match="Unet, U2net, U2netS"):
        build("Vnet", 1, 2)


# --------------------------------------------------------------------------------- initial weights
def test_he_initialisation(build):
    state = build("Unet", 1, 2, bilinear=False, base_channels=32).state_dict()
    checked = 0
    for name, var in state.items():
        values = var.numpy()
        if values.ndim == 4 and values.size > 20_000:
            fan_in = values.shape[0] if ".up." in name else math.prod(values.shape[1:])
            assert values.std() == pytest.approx(math.sqrt(2 / fan_in), rel=0.03), name
            assert abs(values.mean()) < 4 * values.std() / math.sqrt(values.size), name
            checked += 1
        elif name.endswith("bias"):
            assert not values.any(), name
    assert checked > 12


# ------------------------------------------------------------------------------------------- sizes
@pytest.mark.parametrize("side, output", [(188, 4), (204, 20), (252, 68)])
@pytest.mark.parametrize("bilinear", [True, False])
def test_unet_loses_184_pixels(build, jt, bilinear, side, output):
    model = build("Unet", 3, 2, bilinear=bilinear, base_channels=2).eval()
    assert model(jt.zeros((2, 3, side, 204))).shape == [2, 2, output, 20]


def test_the_reference_size_gives_260(build, jt):
    model = build("Unet", 1, 2, base_channels=2).eval()
    assert model(jt.zeros((1, 1, 448, 448))).shape == [1, 2, 260, 260]


@pytest.mark.parametrize("options, side, following", [({}, 200, 204), ({}, 20, 188), ({}, 445, 460),
                                                      ({"padding": 1}, 16, 32)])
def test_a_wrong_size_names_the_next_valid_one(build, jt, options, side, following):
    model = build("Unet", 1, 2, base_channels=2, **options).eval()
    with pytest.raises(ValueError, match=f"the next valid size is {following} x {following} px"):
        model(jt.zeros((1, 1, side, side)))
    assert model.next_valid_side(following) == following
    output = following if options else following - 184
    assert model(jt.zeros((1, 1, following, following))).shape == [1, 2, output, output]


@pytest.mark.parametrize("height, width", [(32, 33), (47, 50), (65, 64)])
def test_padding_keeps_any_size(build, jt, height, width):
    """Odd rows and columns that a pool dropped come back."""
    model = build("Unet", 1, 2, base_channels=2, padding=1).eval()
    assert model(jt.zeros((1, 1, height, width))).shape == [1, 2, height, width]


def test_u2net_sizes_and_side_outputs(build, jt):
    model = build("U2netS", 1, 3, side_outputs=True).eval()
    outputs = model(jt.zeros((1, 1, 33, 50)))
    assert [output.shape for output in outputs] == [[1, 3, 33, 50]] * 7
    with pytest.raises(ValueError, match="33 x 50"):
        model(jt.zeros((1, 1, 32, 50)))
    model.side_outputs = False
    assert np.array_equal(model(jt.zeros((1, 1, 33, 50))).numpy(), outputs[0].numpy())


@pytest.mark.parametrize("mode, options", [
    ("Unet", {"bilinear": True}), ("Unet", {"bilinear": False}), ("Unet", {"padding": 1}),
    ("U2netS", {})])
def test_geometry_agrees_with_the_net(build, jt, mode, options):
    """What MirrorPadding believes of a net is what the net does."""
    from nets.catalogue import CATALOGUE
    small = {"base_channels": 2} if mode == "Unet" else {}
    model = build(mode, 1, 2, **options, **small).eval()
    geometry = CATALOGUE[mode].geometry(options)
    for length in (1, 5, 100):
        output = geometry.output_side(length)
        assert output >= length
        side = output + geometry.margin
        assert model(jt.zeros((1, 1, side, side))).shape[2:] == [output, output]


# ----------------------------------------------------------------------------------------- dropout
def test_dropout_is_element_wise_before_the_skip_leaves(build, jt):
    model = build("Unet", 1, 2, base_channels=4, dropout_probs=[0.9, 0, 0, 0])
    x = jt.abs(jt.randn((1, 4, 64, 64))) + 1
    model.train()
    dropped = model.down1(x).numpy()
    model.eval()
    kept = model.down1(x).numpy()
    zeros = (dropped == 0) & (kept > 0)
    assert zeros.sum() > 0.6 * (kept > 0).sum() and (dropped > 0).any()
    assert 0 < zeros[0, 0].mean() < 1, "whole channels are dropped"
    assert model.down2.dropout is None


# --------------------------------------------------------------------------- against NumPy's U-Net
def conv(x, weight, bias):
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(1, 2))
    return np.einsum("chwij,ocij->ohw", windows, weight, optimize=True) + bias[:, None, None]


def double_conv(x, state, name):
    for i in (0, 3):
        x = conv(x, state[f"{name}.{i}.weight"], state[f"{name}.{i}.bias"])
        scale, shift, mean, var = (state[f"{name}.{i + 1}.{part}"][:, None, None]
                                   for part in ("weight", "bias", "running_mean", "running_var"))
        x = np.maximum((x - mean) / np.sqrt(var + 1e-5) * scale + shift, 0)
    return x


def upsample(x, align_corners):
    """Bilinear, by a matrix per axis."""
    def matrix(n):
        out = np.arange(2 * n)
        at = np.clip((out + 0.5) / 2 - 0.5, 0, n - 1)
        if align_corners:
            at = out * (n - 1) / (2 * n - 1)
        return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(n)[None]))
    return np.einsum("ah,chw,bw->cab", matrix(x.shape[1]), x, matrix(x.shape[2]))


def transposed(x, weight, bias):
    out = np.einsum("chw,coij->ohiwj", x, weight)
    return out.reshape(out.shape[0], 2 * x.shape[1], 2 * x.shape[2]) + bias[:, None, None]


def numpy_unet(x, state, bilinear, align_corners):
    levels = [double_conv(x, state, "inc.double_conv")]
    for k in (1, 2, 3, 4):
        c, h, w = levels[-1].shape
        pooled = levels[-1].reshape(c, h // 2, 2, w // 2, 2).max(axis=(2, 4))
        levels.append(double_conv(pooled, state, f"down{k}.maxpool_conv.1.double_conv"))
    x = levels.pop()
    for k in (1, 2, 3, 4):
        if bilinear:
            x = upsample(x, align_corners)
        else:
            x = transposed(x, state[f"up{k}.up.weight"], state[f"up{k}.up.bias"])
        skip = levels.pop()
        cut = (skip.shape[1] - x.shape[1]) // 2
        x = np.concatenate([skip[:, cut:cut + x.shape[1], cut:cut + x.shape[2]], x])
        x = double_conv(x, state, f"up{k}.conv.double_conv")
    return conv(x, state["outc.conv.weight"], state["outc.conv.bias"])


@pytest.mark.parametrize("bilinear, align_corners", [(True, False), (True, True), (False, False)])
def test_unet_equals_numpy(build, jt, bilinear, align_corners):
    rng = np.random.default_rng(1)
    options = {"bilinear": bilinear, "align_corners": align_corners, "base_channels": 4}
    model = with_statistics(build("Unet", 1, 3, **options), rng)
    state = {name: var.numpy().astype(np.float64) for name, var in model.state_dict().items()}
    image = rng.normal(size=(1, 204, 204)).astype(np.float32)
    expected = numpy_unet(image.astype(np.float64), state, bilinear, align_corners)
    found = model(jt.array(image[None])).numpy()[0]
    assert np.abs(found - expected).max() < 1e-4 * np.ptp(expected)


# --------------------------------------------------------------------------------------- the tiles
@pytest.mark.parametrize("bilinear", [True, False])
@pytest.mark.parametrize("size, tile", [((300, 213), 100), ((70, 270), 52)])
def test_tiles_and_one_pass_agree(build, bilinear, size, tile):
    from nets.catalogue import CATALOGUE
    from MirrorPadding import Tiles, Whole
    from Process import predict_image
    rng = np.random.default_rng(2)
    model = with_statistics(build("Unet", 1, 2, bilinear=bilinear, base_channels=4), rng)
    image = rng.normal(size=(1, *size)).astype(np.float32)
    geometry = CATALOGUE["Unet"].geometry({"bilinear": bilinear})
    whole, tiled = (predict_image(model, image, geometry, way) for way in (Whole(), Tiles(tile)))
    assert whole.shape == (2, *size) and np.ptp(whole) > 0.1
    assert np.abs(whole - tiled).max() < 1e-4 * np.ptp(whole)


# --------------------------------------------------------------------------------------- the table
def test_summary_of_a_small_net(jt):
    from backend.summary import layer_rows, print_summary
    from Model import DoubleConv
    model = DoubleConv(1, 2)
    rows = layer_rows(model, (1, 1, 10, 10))
    assert [(kind, shape, own) for _, kind, shape, own in rows] == [
        ("Conv", [1, 2, 8, 8], 20), ("BatchNorm", [1, 2, 8, 8], 4),
        ("Conv", [1, 2, 6, 6], 38), ("BatchNorm", [1, 2, 6, 6], 4)]
    text = io.StringIO()
    print_summary(model, (1, 512, 512), file=text)
    megabytes = 2 * 4 * 2 * 2 * (510 ** 2 + 508 ** 2) / 2 ** 20
    assert f"{megabytes:,.2f} MB" in text.getvalue()
    assert "Trainable parameters:         66" in text.getvalue()
    assert model.is_training(), "the table leaves the model as it was"


def test_the_command_prints_every_net(tmp_path):
    done = command("Model.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for trainable in ("17,266,306", "44,022,566", "1,133,510"):
        assert f"Trainable parameters:         {trainable}" in done.stdout
    assert done.stdout.count("Forward/backward size:") == 3
    assert "stage5d.rebnconv1d.conv_s1" in done.stdout


def test_the_command_says_in_one_line_why_jittor_cannot_start(tmp_path, no_jittor):
    done = command("Model.py", cwd=tmp_path, cc_path="no-such-compiler", **no_jittor)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.count("\n") == 1
    assert done.stderr.startswith("Model.py: error: no-such-compiler: no such compiler")
