"""Predict.py: a mistake is told in one line before Jittor starts; it predicts as Main.py tests."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from safetensors.numpy import save_file
from scipy.special import expit
from skimage.transform import resize

import Predict
from backend import start
from command.errors import DataError, say_first_time
from images import formats, reading
from images import pages as image_pages
from images.channels import VALUE_DTYPES, to_channels
from images.composite import Shades
from images.values import Statistics
from masks import outputs
from masks.answers import probabilities
from masks.colours import overlay
from masks.objects import instances
from MirrorPadding import tiling
from nets import checkpoint
from nets.ensemble import Ensemble
from nets.flags import refuse_preset
from nets.geometry import UNET_ALIGNED, UNET_BILINEAR, UNET_PADDED
from nets.recognise import describe_net
from nets.trained import TrainedNet, net_of_header

ROOT = Path(__file__).resolve().parent.parent
HEADER = {"mode": "Unet", "n_channels": 1, "n_classes": 2,
          "options": {"bilinear": True, "base_channels": 2}, "mean": [0.4], "std": [0.25],
          "tile": "full"}


def noise(shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def weights(n_channels=1, n_classes=2, **more):
    """The weights of a U-Net that Predict.py reads before Jittor starts."""
    return {"inc.double_conv.0.weight": np.zeros((2, n_channels, 3, 3), np.float32),
            "inc.double_conv.0.bias": np.zeros(2, np.float32),
            "outc.conv.weight": np.zeros((n_classes, 2, 1, 1), np.float32), **more}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with an image, a checkpoint of Main.py and weights from elsewhere."""
    monkeypatch.chdir(tmp_path)
    say_first_time.cache_clear()
    formats.write_png("cell.png", noise((30, 40)))
    checkpoint.save("ours.safetensors", weights(), HEADER)
    save_file(weights(), "others.safetensors")
    return tmp_path


@pytest.fixture
def predict(here, in_process):
    """A function that runs the command: (exit code, lines on stdout, lines on stderr)."""
    def run(*flags):
        code, out, err = in_process(Predict, *flags)
        return code, out.splitlines(), err.splitlines()
    return run


@pytest.fixture
def refused(predict, monkeypatch):
    """A function that runs a command that must fail before Jittor starts: (exit code, message)."""
    def must_not_start(*_):
        raise AssertionError("Jittor was started")
    monkeypatch.setattr(start, "import_jittor", must_not_start)
    try:
        start.check_machine("cpu")
    except DataError as error:
        pytest.skip(str(error))

    def run(*flags):
        code, out, err = predict("--device", "cpu", *flags)
        assert out == [] and len(err) == 1 and err[0].startswith("Predict.py: error: ")
        return code, err[0].removeprefix("Predict.py: error: ")
    return run


# ----------------------------------------------------------------------------------- without Jittor
@pytest.mark.parametrize("flags, message", [
    ("", "the following arguments are required: --Input"),
    ("--Input cell.png --tta 4", "argument --tta: invalid choice: 4"),
    ("--Input cell.png --batch 0", "argument --batch: expected a whole number at least 1, got '0'"),
    ("--Input cell.png --tile 5", "argument --tile: expected a whole number at least 16, got '5'"),
    ("--Input cell.png --std 0", "argument --std: expected a number above 0, got '0'"),
    ("--Input cell.png --mean inf", "argument --mean: expected a number"),
    ("--Input cell.png --preset u2net --mean 0", "--mean: --preset u2net says it already"),
    ("--Input cell.png --preset u2netp --tile 64",
     "--tile: --preset u2netp sees each image whole, at 320 x 320 px"),
    ("--Input cell.png --Checkpoint ours.safetensors --padding 1",
     "--padding: ours.safetensors is a checkpoint of"),
    ("--Input cell.png --Checkpoint ours.safetensors --preset u2net",
     "--preset: ours.safetensors is a checkpoint of"),
    ("--Input cell.png --Checkpoint ours.safetensors --tile 20",
     "--tile 20: too small for this net, 52 is the"),
    ("--Input cell.png --Checkpoint others.safetensors --mode U2net",
     "--mode U2net: others.safetensors holds Unet, n_ch"),
    ("--Input cell.png --Checkpoint others.safetensors --n_channels 3",
     "--n_channels 3: others.safetensors holds Unet"),
    ("--Input cell.png --Checkpoint ours.safetensors --n_classes 5",
     "--n_classes 5: ours.safetensors holds Unet"),
])
def test_a_mistake_in_a_flag(refused, flags, message):
    code, line = refused(*flags.split())
    assert code == 2 and message in line


@pytest.mark.parametrize("flags, message", [
    ("--Input cell.png", "checkpoints/best_model.safetensors: no such checkpoint"),
    ("--Input cell.png --Checkpoint cell.png", "cell.png: not a readable safetensors checkpoint"),
    ("--Input nowhere --Checkpoint ours.safetensors", "nowhere: no such file or folder"),
    ("--Input empty --Checkpoint ours.safetensors", "empty: no images here"),
    ("--Input cell.png more/cell.tif --Checkpoint ours.safetensors",
     "more/cell.tif: its predictions would be named as those of cell.png; rename one"),
    ("--Input more --Checkpoint ours.safetensors --Result_directory more/",
     "more: both --Input and --Result_"),
    ("--Input more/cell.tif taken/cell_pred.tif --Checkpoint ours.safetensors "
     "--Result_directory taken",
     "taken/cell_pred.tif: would overwrite an image of --Input"),
    ("--Input broken.png --Checkpoint ours.safetensors", "broken.png: not a readable image"),
    ("--Input cell.png --Checkpoint ours.safetensors --Result_directory cell.png/a",
     "cell.png/a: cannot make this"),
    ("--Input cell.png --Checkpoint others.safetensors --mean 0.5 0.5",
     "--mean: 2 values, but the net has n_channels"),
    ("--Input cell.png --Checkpoint others.safetensors --preset milesial",
     "--preset milesial: others.safetensors holds Unet, n_channels 1, n_classes 2"),
    ("--Input cell.png --Checkpoint nothing.safetensors",
     "nothing.safetensors: the weights of neither"),
    ("--Input cell.png --Checkpoint many.safetensors",
     "many.safetensors: its net has n_channels 17; images here have up to 16"),
    ("--Input cell.png --Checkpoint four.safetensors",
     "cell.png: grey, but the net takes 4 channels"),
])
def test_a_mistake_in_the_data(refused, here, flags, message):
    for folder in ("empty", "more", "taken"):
        (here / folder).mkdir()
    tifffile.imwrite("more/cell.tif", noise((2, 20, 20)))
    tifffile.imwrite("taken/cell_pred.tif", noise((20, 20)))
    Path("broken.png").write_bytes(b"no image")
    save_file({"weight": np.zeros(1)}, "nothing.safetensors")
    save_file(weights(4), "four.safetensors")
    save_file(weights(17), "many.safetensors")
    code, line = refused(*flags.split())
    assert code == 1 and line.startswith(message)


@pytest.mark.parametrize("change, message", [
    ({"mode": "U2net"},
     "its header says U2net, n_channels 1, n_classes 2, its weights are those of Unet, n_"),
    ({"n_classes": 3}, "its header says Unet, n_channels 1, n_classes 3, its weights"),
    ({"mean": [0.5, 0.5]}, "its header's mean and std do not suit n_channels 1"),
    ({"std": [0.0]}, "its header's mean and std do not suit n_channels 1"),
    ({"bits": 12}, "its header is not as Main.py writes it"),
    ({"bits": "8"}, "its header is not as Main.py writes it"),
    ({"dtype": "int64"}, "its header is not as Main.py writes it"),
    ({"dtype": None}, "its header is not as Main.py writes it"),
    ({"dtype": []}, "its header is not as Main.py writes it"),
    ({"mean": None}, "its header is not as Main.py writes it"),
    ({"options": None}, "its header is not as Main.py"),
    ({"tile": "half"}, "its header is not as Main.py"),
    ({"tile": None}, "its header is not as Main.py writes it"),
    ({"tile": 20}, "--tile 20: too small for this net"),
    ({"threshold": 1.5}, "its header is not as Main.py writes it"),
    ({"smallest_object": 0.5}, "its header is not as Main.py writes it"),
])
def test_a_header_that_is_not_ours(refused, change, message):
    checkpoint.save("ours.safetensors", weights(), {**HEADER, **change})
    code, line = refused("--Input", "cell.png", "--Checkpoint", "ours.safetensors")
    assert code == 1 and message in line


@pytest.mark.parametrize("said, dtype", [
    ({}, ""), ({"bits": 0}, ""), ({"bits": 8}, "uint8"), ({"bits": 16}, "uint16"),
    *(({"dtype": dtype}, dtype) for dtype in ("", *VALUE_DTYPES)),
    ({"dtype": "int8", "bits": 8}, "int8")])
def test_the_dtype_in_a_header_and_the_bits_of_older_ones(said, dtype):
    net = net_of_header({**HEADER, **said}, describe_net(weights(), "x"), "x")
    assert net.statistics == Statistics((0.4,), (0.25,), dtype)


@pytest.mark.parametrize("flags, code", [(["--tta", "3"], 2), (["--Checkpoint", "none"], 1)])
def test_a_mistake_as_a_process(here, flags, code):
    (here / "jittor").mkdir()
    (here / "jittor" / "__init__.py").write_text("raise SystemExit('Jittor was imported')")
    done = subprocess.run([sys.executable, str(ROOT / "Predict.py"), "--Input", "cell.png", *flags],
                          text=True, capture_output=True, timeout=100,
                          env={**os.environ, "PYTHONPATH": str(here)})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)


def test_what_others_weights_do_not_show(here, monkeypatch):
    """The convolutions' biases tell whose weights they are, where no flag does.

    Without biases: milesial's, padded and with align_corners. With biases: ours.
    """
    def net(*flags, **state):
        save_file(state, "others.safetensors")
        monkeypatch.setattr(sys, "argv", ["Predict.py", "--Input", "x",
                                          "--Checkpoint", "others.safetensors", *flags])
        parser = Predict.build_parser()
        args = parser.parse_args()
        refuse_preset(args, parser)
        return Predict.read_nets(args, parser)[0].net
    biased = weights(3)
    plain = {name: array for name, array in biased.items() if not name.endswith("bias")}
    found = net(**biased)
    assert (found.options["padding"], found.options["align_corners"], found.geometry) == (
        0, False, UNET_BILINEAR)
    assert found.statistics == Statistics((0.0,) * 3, (1.0,) * 3) and not found.is_saliency
    assert found.tile == "full"
    found = net(**plain)
    assert (found.options["padding"], found.options["align_corners"], found.geometry) == (
        1, True, UNET_PADDED)
    assert net("--preset", "milesial", **plain) == found
    assert net("--mode", "Unet", "--n_channels", "3", "--n_classes", "2", **plain) == found
    found = net("--padding", "0", "--mean", "0.5", "--std", "0.1", "0.2", "0.3", **plain)
    assert found.geometry is UNET_ALIGNED
    assert found.statistics == Statistics((0.5,) * 3, (0.1, 0.2, 0.3))
    u2net = {"stage1.rebnconvin.conv_s1.weight": np.zeros((64, 3, 3, 3)),
             "outconv.weight": np.zeros((1, 6, 1, 1)),
             "stage1.rebnconv1.conv_s1.weight": np.zeros((16, 64, 3, 3))}
    found = net(**u2net)
    assert (found.mode, found.options, found.is_saliency) == (
        "U2netS", {"align_corners": False}, False)
    assert net("--preset", "u2netp", **u2net).is_saliency


# -------------------------------------------------------------------------------------- predictions
@pytest.fixture(scope="module")
def tiny(build, jt):
    """A function that makes a net of random weights and statistics, in eval mode.

    A U-Net predicts each of its classes about equally often.
    """
    from helpers import with_statistics

    def make(mode, n_channels, n_classes, **options):
        model = with_statistics(build(mode, n_channels, n_classes, **options),
                                np.random.default_rng(3))
        if mode == "Unet":
            bias, logits = model.outc.conv.bias, model(jt.randn((1, n_channels, 252, 252)))
            bias.assign(bias.numpy() - logits.numpy().mean(axis=(0, 2, 3)))
        return model
    return make


@pytest.fixture
def ours(here, tiny):
    """The tiny U-Net whose checkpoint, for two classes and grey images, is ours.safetensors."""
    model = tiny("Unet", 1, 2, base_channels=2)
    checkpoint.save("ours.safetensors", checkpoint.state_arrays(model), HEADER)
    return model


def normalised(pixels, white=255):
    return ((pixels.astype(np.float32) / white - 0.4) / 0.25)[None].astype(np.float32)


def logits_of(model, pixels, geometry=UNET_BILINEAR, tile="full"):
    """By the path on which Main.py tests."""
    from Process import predict_image
    return predict_image(model, pixels, geometry, tiling(tile))


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.jittor
def test_predictions_are_main_pys_own(predict, here, ours):
    """Grey and colour, 8 and 16 bits, any size, from files and folders.

    A conversion is told once, not once an image.
    """
    (here / "folder").mkdir()
    pictures = {"grey": noise((64, 64)), "odd": noise((47, 61), seed=1),
                "colour": noise((40, 52, 3), seed=2), "deep": noise((52, 40), np.uint16, seed=3)}
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(f"folder/{name}.{'tif' if name == 'deep' else 'png'}")
    code, out, err = predict("--Checkpoint", "ours.safetensors",
                             "--Input", "folder", "cell.png", "folder/odd.png", "--device", "cpu",
                             "--Result_directory", "out", "--probabilities")
    assert (code, err) == (0, ["RGB images are turned grey: the net takes one channel"])
    assert out[0].startswith(
        "ours.safetensors: Unet, n_channels 1, n_classes 2, base_channels 2, bilinear True")
    assert out[1].startswith("Images predicted: 5, in ") and out[1].endswith(", into out/")
    assert len(out) == 2
    pictures["cell"] = noise((30, 40))
    assert {path.name for path in Path("out").iterdir()} == {
        f"{name}_{kind}" for name in pictures for kind in ("pred.png", "prob.npy")}
    for name, pixels in pictures.items():
        white = np.iinfo(pixels.dtype).max
        logits = logits_of(ours, normalised(to_channels(pixels, 1), white))
        assert np.array_equal(read(f"out/{name}_pred.png"),
                              (logits.argmax(axis=0) * 255).astype(np.uint8))
        found = np.load(f"out/{name}_prob.npy")
        assert found.dtype == np.float32 and found.shape == (2, *pixels.shape[:2])
        np.testing.assert_allclose(found, probabilities(logits), atol=1e-6)
        np.testing.assert_allclose(found.sum(axis=0), 1, rtol=1e-5)
    assert 0 < np.mean([read(f"out/{name}_pred.png").mean() / 255 for name in pictures]) < 1


@pytest.mark.jittor
def test_the_command_as_a_process(here, ours):
    flags = "--Checkpoint ours.safetensors --Input cell.png --overlay --instances --device cpu"
    done = subprocess.run([sys.executable, str(ROOT / "Predict.py"), *flags.split()], text=True,
                          capture_output=True, timeout=600)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    class_map = logits_of(ours, normalised(noise((30, 40)))).argmax(axis=0).astype(np.uint8)
    assert np.array_equal(read("predictions/cell_pred.png"), class_map * 255)
    regions = instances(class_map)
    assert np.array_equal(tifffile.imread("predictions/cell_instances.tif"),
                          regions.astype(np.uint16))
    assert np.array_equal(read("predictions/cell_overlay.png"),
                          overlay(noise((30, 40)), class_map, regions, Shades(0, 255)))


@pytest.mark.jittor
def test_more_classes_than_two(predict, tiny):
    model = tiny("Unet", 3, 5, base_channels=2)
    checkpoint.save("ours.safetensors", checkpoint.state_arrays(model),
                    {**HEADER, "n_channels": 3, "n_classes": 5,
                     "mean": [0.4] * 3, "std": [0.25] * 3})
    code, _, err = predict("--Checkpoint", "ours.safetensors", "--Input", "cell.png",
                           "--device", "cpu")
    assert (code, err) == (0, ["Grey images are taken as RGB: the net takes three channels"])
    expected = logits_of(model, np.repeat(normalised(noise((30, 40))), 3, axis=0)).argmax(axis=0)
    assert np.array_equal(read("predictions/cell_pred.png"), expected)
    assert len(np.unique(expected)) > 2


@pytest.mark.jittor
@pytest.mark.parametrize("tile, batch", [("full", 1), (52, 1), (52, 3)])
def test_the_average_of_eight(predict, ours, tile, batch):
    """The mean over eight turned and flipped images.

    Of a size that the net takes as it is: turning the image is turning the net's input.
    """
    pixels = noise((68, 84), seed=5)
    formats.write_png("cell.png", pixels)
    code, _, _ = predict("--Checkpoint", "ours.safetensors", "--Input", "cell.png",
                         "--device", "cpu", "--tta", 8, "--probabilities",
                         "--tile", tile, "--batch", batch)
    expected = 0
    for flipped in (False, True):
        for quarters in range(4):
            image = normalised(np.rot90(pixels[:, ::-1] if flipped else pixels, quarters))
            answer = np.rot90(probabilities(logits_of(ours, np.ascontiguousarray(image))),
                              -quarters, axes=(1, 2))
            expected = expected + (answer[..., ::-1] if flipped else answer) / 8
    np.testing.assert_allclose(np.load("predictions/cell_prob.npy"), expected, atol=2e-5)
    assert code == 0
    assert np.abs(expected - probabilities(logits_of(ours, normalised(pixels)))).max() > 0.01


@pytest.mark.jittor
def test_the_checkpoints_tile_and_a_flags(predict, ours):
    """A net trained by quadrants predicts by quadrants, unless --tile says otherwise."""
    checkpoint.save("ours.safetensors", checkpoint.state_arrays(ours),
                    {**HEADER, "tile": "reference"})
    pixels = noise((512, 512), seed=6)
    formats.write_png("square.png", pixels)
    code, out, err = predict("--Checkpoint", "ours.safetensors",
                             "--Input", "cell.png", "square.png", "--device", "cpu")
    assert code == 1 and out[1].startswith("Images predicted: 1, ")
    assert err == ["Predict.py: error: cell.png: --tile reference: made for 512 x 512 px images, "
                   "not for 30 x 40; use --tile full"]
    expected = logits_of(ours, normalised(pixels), tile="reference").argmax(axis=0) * 255
    assert np.array_equal(read("predictions/square_pred.png"), expected)
    code, _, err = predict("--Checkpoint", "ours.safetensors", "--Input", "cell.png",
                           "--tile", "full", "--device=cpu")
    assert (code, err) == (0, [])


# -------------------------------------------------------------------------- stacks and large images
@pytest.mark.jittor
@pytest.mark.parametrize("colour", [False, True])
def test_a_stack(predict, ours, colour):
    stack = noise((3, 52, 40, 3) if colour else (3, 52, 40))
    tifffile.imwrite("stack.tif", stack, photometric="rgb" if colour else "minisblack")
    code, _, _ = predict("--Checkpoint", "ours.safetensors", "--Input", "stack.tif",
                         "--device", "cpu", "--probabilities", "--overlay", "--instances")
    assert code == 0
    found = {kind: tifffile.imread(f"predictions/stack_{kind}.tif")
             for kind in ("pred", "overlay", "instances")}
    probability = np.load("predictions/stack_prob.npy")
    names = {"stack_prob.npy", *(f"stack_{kind}.tif" for kind in found)}
    assert {path.name for path in Path("predictions").iterdir()} == names
    for k, page in enumerate(stack):
        logits = logits_of(ours, normalised(to_channels(page, 1)))
        class_map = logits.argmax(axis=0).astype(np.uint8)
        regions = instances(class_map)
        assert np.array_equal(found["pred"][k], class_map * 255)
        assert np.array_equal(found["instances"][k], regions)
        assert np.array_equal(found["overlay"][k], overlay(page, class_map, regions,
                                                            Shades(0, 255)))
        np.testing.assert_allclose(probability[k], probabilities(logits), atol=1e-6)


@pytest.mark.jittor
def test_16_bits_of_a_camera(predict, ours):
    """12 bits in a stack whose first page is dark: all pages have one white, and a line says so."""
    stack = noise((2, 52, 40), np.uint16) >> 4
    stack[0] >>= 6
    tifffile.imwrite("stack.tif", stack)
    code, _, err = predict("--Checkpoint", "ours.safetensors", "--Input", "stack.tif",
                           "--device", "cpu", "--overlay")
    shown = tifffile.imread("predictions/stack_overlay.tif")
    assert np.percentile(shown[1], 90) > 200 and shown[0].mean() < 20, (
        "each page keeps its own brightness")
    assert code == 0 and err[0].startswith("stack.tif: 16-bit values up to 4,0")
    assert ": 4,095 counts as white" in err[0]
    for page, found in zip(stack, tifffile.imread("predictions/stack_pred.tif")):
        assert np.array_equal(found, logits_of(ours, normalised(page, 4095)).argmax(axis=0) * 255)


@pytest.mark.jittor
def test_the_overlay_of_a_dark_image(predict, here, ours):
    """A net trained on 12 bits in 16 has low statistics: its overlay is bright all the same."""
    checkpoint.save("ours.safetensors", checkpoint.state_arrays(ours),
                    {**HEADER, "mean": [0.02], "std": [0.01]})
    pixels = noise((52, 40), np.uint16) >> 4
    Image.fromarray(pixels).save("dark.tif")
    code, _, err = predict("--Checkpoint", "ours.safetensors", "--Input", "dark.tif",
                           "--device", "cpu", "--overlay")
    assert (code, err) == (0, [])
    class_map = read("predictions/dark_pred.png") // 255
    assert np.array_equal(read("predictions/dark_overlay.png"),
                          overlay(pixels, class_map, class_map, Shades(0, pixels.max())))


@pytest.mark.jittor
def test_the_bits_that_the_net_was_trained_on(predict, here, ours):
    """16 bits as in training: dark values stay dark. 8 bits instead: a line says so."""
    checkpoint.save("ours.safetensors", checkpoint.state_arrays(ours),
                    {**HEADER, "mean": [0.1], "std": [0.05], "bits": 16})
    pixels = noise((52, 40), np.uint16) >> 4
    Image.fromarray(pixels).save("dark.tif")
    code, _, err = predict("--Checkpoint", "ours.safetensors", "--Input", "dark.tif",
                           "--device", "cpu", "--probabilities")
    assert code == 0 and not any("counts as white" in line for line in err)
    logits = logits_of(
        ours, ((pixels / np.float32(65535) - np.float32(0.1)) / np.float32(0.05))[None])
    np.testing.assert_allclose(np.load("predictions/dark_prob.npy"), probabilities(logits),
                               atol=1e-5)
    Image.fromarray((pixels >> 4).astype(np.uint8)).save("export.png")
    code, _, err = predict("--Checkpoint", "ours.safetensors", "--Input", "export.png",
                           "--device", "cpu")
    assert code == 0
    assert any(line.startswith("Images of 8 bits, but the net was trained on 16 bits")
               for line in err)


@pytest.mark.jittor
@pytest.mark.parametrize("layout", [{"tile": (64, 48), "compression": "zlib"}, {"rowsperstrip": 7},
                                    {"photometric": "rgb"}])
@pytest.mark.parametrize("pages", [1, 2])
def test_a_large_tiff_by_windows_is_the_whole_image(predict, ours, monkeypatch, layout, pages):
    """Images of more than 2^16 pixels are large here.

    Rows are read when they are needed; the mask's rows are written as they come.
    """
    stack = noise((pages, 300, 500, 3) if "photometric" in layout else (pages, 300, 500))
    tifffile.imwrite("large.tif", stack, metadata=None, **layout)
    monkeypatch.setattr(image_pages, "LARGE", 2 ** 16)
    read_rows, asked = reading.LargePage.__getitem__, []
    monkeypatch.setattr(reading.LargePage, "__getitem__",
                        lambda self, rows: (asked.append(rows.stop - rows.start),
                                            read_rows(self, rows))[1])
    code, _, err = predict("--Checkpoint", "ours.safetensors", "--Input", "large.tif",
                           "--device", "cpu", "--tile", 64, "--batch", 3, "--overlay")
    assert code == 0 and max(asked) <= 68 + 184
    assert err[0].startswith("large.tif: over ") and "only its mask is made" in err[0]
    assert [path.name for path in Path("predictions").iterdir()] == ["large_pred.tif"]
    with tifffile.TiffFile("predictions/large_pred.tif") as file:
        assert file.pages[0].is_tiled and len(file.pages) == pages
    for page, found in zip(
            stack, tifffile.imread("predictions/large_pred.tif").reshape(pages, 300, 500)):
        logits = logits_of(ours, normalised(to_channels(page, 1)))
        close = np.abs(logits[1] - logits[0]) < 1e-4 * np.ptp(logits)
        assert np.array_equal(found[~close], (logits.argmax(axis=0) * 255)[~close])
        assert close.mean() < 0.01


# ------------------------------------------------------------------------------ again, and failures
@pytest.mark.jittor
def test_what_is_there_stays(predict, ours):
    formats.write_png("other.png", noise((20, 20)))
    flags = ("--Checkpoint", "ours.safetensors", "--device", "cpu", "--Input", "cell.png")
    assert predict(*flags)[0] == 0
    Path("predictions/cell_pred.png").write_bytes(b"mine")
    code, out, _ = predict(*flags, "other.png")
    assert code == 0 and out[0].startswith("Images done already: 1; ")
    assert out[2].startswith("Images predicted: 1, ")
    assert predict(*flags, "other.png")[1] == [
        "Images done already: 2; they stay as they are (--overwrite makes them anew)"]
    assert predict(*flags, "--overlay")[0] == 0
    assert Path("predictions/cell_pred.png").read_bytes() == b"mine", (
        "what is missing is made, what is there stays")
    assert read("predictions/cell_overlay.png").shape == (30, 40, 3)
    assert predict(*flags, "--overwrite")[0] == 0
    assert read("predictions/cell_pred.png").shape == (30, 40)


@pytest.mark.jittor
def test_files_that_fail_are_told_at_the_end(predict, here, ours):
    """A file that is no image, a cut one, a stack with a damaged page: all others are done."""
    (here / "set").mkdir()
    for name in ("a", "b", "z"):
        formats.write_png(f"set/{name}.png", noise((60, 60)))
    content = Path("set/b.png").read_bytes()
    Path("set/b.png").write_bytes(content[:len(content) // 2])
    Path("set/c.png").write_bytes(b"text")
    tifffile.imwrite("set/d.tif", noise((3, 60, 60)), compression="zlib", metadata=None,
                     photometric="minisblack")
    with tifffile.TiffFile("set/d.tif") as file:
        offset = file.pages[1].dataoffsets[0]
    damaged = bytearray(Path("set/d.tif").read_bytes())
    damaged[offset:offset + 500] = bytes(500)
    Path("set/d.tif").write_bytes(damaged)
    code, out, err = predict("--Checkpoint", "ours.safetensors", "--device", "cpu",
                             "--Input", "set", "--overlay", "--probabilities", "--instances")
    assert code == 1 and out[1].startswith("Images predicted: 2, ")
    assert [line.split(": not a readable")[0] for line in err] == [
        f"Predict.py: error: set/{name}" for name in ("c.png", "b.png", "d.tif")]
    assert {path.name[:2] for path in Path("predictions").iterdir()} == {"a_", "z_"}
    assert len(list(Path("predictions").iterdir())) == 8


@pytest.mark.jittor
@pytest.mark.parametrize("error", [IndexError("list\nindex"), RuntimeError("a kernel"),
                                   UnicodeDecodeError("utf-8", b"x", 0, 1, "odd"), AssertionError(),
                                   ZeroDivisionError("division by zero")], ids=repr)
def test_no_later_file_is_lost_whatever_the_exception(predict, here, ours, monkeypatch, error):
    for name in "abc":
        formats.write_png(f"{name}.png", noise((30, 40)))
    write = Predict.Predictor.predict

    def fail(self, job):
        if job.file.path.name == "a.png":
            raise error
        write(self, job)
    monkeypatch.setattr(Predict.Predictor, "predict", fail)
    code, _, err = predict("--Checkpoint", "ours.safetensors", "--device", "cpu",
                           "--Input", "a.png", "b.png", "c.png")
    assert code == 1 and len(err) == 1, "one line"
    words = " ".join(f"{type(error).__name__}: {error}".split())
    assert err[0].startswith(f"Predict.py: error: a.png: not expected: {words} (test_predict.py, ")
    assert {path.name for path in Path("predictions").iterdir()} == {"b_pred.png", "c_pred.png"}


@pytest.mark.jittor
def test_ctrl_c_ends_all_files(predict, here, ours, monkeypatch):
    def interrupt(self, job):
        raise KeyboardInterrupt
    monkeypatch.setattr(Predict.Predictor, "predict", interrupt)
    code, _, err = predict("--Checkpoint", "ours.safetensors", "--device", "cpu",
                           "--Input", "cell.png")
    assert (code, err) == (130, ["", "Predict.py: stopped"])


def test_a_file_that_cannot_be_examined_is_told(here, monkeypatch):
    def fail(path, n_channels):
        raise IndexError("tag")
    monkeypatch.setattr(outputs, "examine_file", fail)
    net = TrainedNet("Unet", 1, 2, {}, Statistics((0.0,), (1.0,)))
    plan = outputs.plan_outputs([Path("cell.png")], here / "out", (), False, Ensemble((net,)))
    assert plan.jobs == [] and len(plan.errors) == 1
    assert plan.errors[0].startswith("cell.png: not expected: IndexError: tag (test_predict.py, ")


@pytest.mark.jittor
def test_a_lack_of_memory_is_told(predict, ours, monkeypatch):
    def exhausted(*_):
        raise MemoryError
    monkeypatch.setattr(Predict, "assemble", exhausted)
    code, _, err = predict("--Checkpoint", "ours.safetensors", "--device", "cpu",
                           "--Input", "cell.png")
    assert (code, err) == (
        1, ["Predict.py: error: cell.png: out of memory: try --tile 256 or --batch 1"])
    assert not list(Path("predictions").iterdir())


@pytest.mark.jittor
def test_one_class_everywhere_is_told(predict, here, ours):
    state = checkpoint.state_arrays(ours)
    state["outc.conv.bias"] = np.array([0, 1e4], np.float32)
    checkpoint.save("ours.safetensors", state, HEADER)
    tifffile.imwrite("stack.tif", noise((2, 20, 20)))
    code, _, err = predict("--Checkpoint", "ours.safetensors", "--device", "cpu",
                           "--Input", "cell.png", "stack.tif")
    assert (code, err) == (0, ["cell.png: predicted as one class everywhere",
                               "stack.tif: predicted as one class everywhere in 2 of 2 pages"])
    assert (read("predictions/cell_pred.png") == 255).all()


# -------------------------------------------------------------------------------- weights of others
@pytest.mark.jittor
@pytest.mark.parametrize("bilinear", [True, False])
def test_milesials(predict, tiny, bilinear):
    model = tiny("Unet", 3, 2, base_channels=2, bilinear=bilinear,
                 conv_bias=False, padding=1, align_corners=True)
    save_file(checkpoint.state_arrays(model), "others.safetensors")
    pixels = noise((50, 70, 3))
    formats.write_png("cell.png", pixels)
    expected = logits_of(model, (pixels / 255).transpose(2, 0, 1).astype(np.float32), UNET_PADDED)
    for flags in (["--preset", "milesial"], []):
        code, _, _ = predict("--Checkpoint", "others.safetensors", "--Input", "cell.png",
                             "--device", "cpu", "--overwrite", "--probabilities", *flags)
        assert code == 0
        np.testing.assert_allclose(np.load("predictions/cell_prob.npy"), probabilities(expected),
                                   atol=1e-5)


@pytest.fixture
def u2netp(tiny, here):
    model = tiny("U2netS", 3, 1)
    save_file(checkpoint.state_arrays(model), "u2netp.safetensors")
    return model


@pytest.mark.jittor
def test_u2netps_own_protocol(predict, jt, u2netp):
    """Step by step as its authors describe it, by other libraries where there are any."""
    pixels = noise((200, 410, 3), seed=4) // 2
    formats.write_png("cell.png", pixels)
    code, _, _ = predict("--Checkpoint", "u2netp.safetensors", "--preset", "u2netp",
                         "--Input", "cell.png", "--device", "cpu", "--probabilities", "--overlay")
    assert code == 0
    small = resize(pixels / 255.0, (320, 320), order=1, mode="constant", anti_aliasing=True)
    small = (small / small.max() - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with jt.no_grad():
        inputs = jt.array(small.transpose(2, 0, 1)[None].astype(np.float32))
        saliency = expit(u2netp(inputs).numpy()[0, 0].astype(float))
    saliency = (saliency - saliency.min()) / (saliency.max() - saliency.min())
    found = np.load("predictions/cell_prob.npy")
    expected = np.asarray(Image.fromarray(saliency.astype(np.float32)).resize(
        (410, 200), Image.Resampling.BILINEAR))
    assert found.shape == (200, 410) and np.ptp(found) > 0.3
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert np.array_equal(read("predictions/cell_pred.png"), (found > 0.5) * np.uint8(255))
    assert read("predictions/cell_overlay.png").shape == (200, 410, 3)


@pytest.mark.jittor
def test_a_constant_saliency(predict, u2netp):
    state = {name: np.zeros_like(array) if "running_var" not in name else array
             for name, array in checkpoint.state_arrays(u2netp).items()}
    save_file(state, "u2netp.safetensors")
    code, _, err = predict("--Checkpoint", "u2netp.safetensors", "--preset", "u2netp",
                           "--Input", "cell.png", "--device", "cpu", "--probabilities")
    assert code == 0 and err[-1] == "cell.png: predicted as one class everywhere"
    assert (np.load("predictions/cell_prob.npy") == 0.5).all()
    assert (read("predictions/cell_pred.png") == 0).all()


@pytest.mark.jittor
def test_the_weights_of_another_size(predict, ours):
    """The weights that are looked at early fit, another does not: told before any prediction."""
    state = checkpoint.state_arrays(ours)
    state["down1.maxpool_conv.1.double_conv.0.weight"] = np.zeros((9, 2, 3, 3), np.float32)
    checkpoint.save("ours.safetensors", state, HEADER)
    code, out, err = predict("--Checkpoint", "ours.safetensors", "--Input", "cell.png",
                             "--device", "cpu")
    assert code == 1 and "ours.safetensors: not the weights of this net: down1" in err[-1]
    assert out == []
    assert not list(Path("predictions").iterdir())
