"""Predict.py with several checkpoints: which files, which go together, and their mean."""
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers import command, with_statistics
from PIL import Image
from safetensors.numpy import save_file

import Predict
from command.errors import DataError, say_first_time
from images import formats
from images import pages as image_pages
from masks.answers import assemble, average_of_nets, class_bands, probabilities
from MirrorPadding import Tiles, Whole
from nets import checkpoint
from nets.ensemble import find_checkpoints
from nets.geometry import UNET_ALIGNED, UNET_BILINEAR, UNET_PADDED, Part

BEST = "best_model.safetensors"
UNET = {"mode": "Unet", "n_channels": 1, "n_classes": 2,
        "options": {"bilinear": True, "base_channels": 2}, "mean": [0.4], "std": [0.25],
        "tile": "full"}


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def weights_of_unet(n_channels=1, n_classes=2):
    """The weights of a U-Net that Predict.py reads before Jittor starts."""
    return {"inc.double_conv.0.weight": np.zeros((2, n_channels, 3, 3), np.float32),
            "inc.double_conv.0.bias": np.zeros(2, np.float32),
            "outc.conv.weight": np.zeros((n_classes, 2, 1, 1), np.float32)}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    say_first_time.cache_clear()
    formats.write_png("cell.png", noise((60, 76)))
    return tmp_path


@pytest.fixture
def predict(here, in_process):
    """A function that runs the command: (exit code, lines on stdout, lines on stderr)."""
    def run(*flags):
        code, out, err = in_process(Predict, "--device", "cpu", "--overwrite", *flags)
        return code, out.splitlines(), err.splitlines()
    return run


# ------------------------------------------------------------------------------------- which files
def test_a_folder_of_folds(tmp_path):
    """Its sub-folders' best models, sorted; its own where these have none; a file as it is."""
    for name in ("seed_1/fold_1", "seed_0/fold_0", "seed_0/fold_1", "."):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / BEST).write_text("")
        (tmp_path / name / f"earlier_{BEST}").write_text("")
    assert find_checkpoints([tmp_path], BEST) == [
        tmp_path / name / BEST for name in ("seed_0/fold_0", "seed_0/fold_1", "seed_1/fold_1")]
    alone, file = tmp_path / "seed_0" / "fold_1", tmp_path / "x.pth"
    assert find_checkpoints([file, alone, file], BEST) == [file, alone / BEST, file]
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="none: no best_model.safetensors here or in its folders$"):
        find_checkpoints([file, tmp_path / "none"], BEST)


OBJECTS = {"label_kind": "objects", "border": 1}


@pytest.mark.parametrize("changes, flags, code, message", [
    ({"n_classes": 3}, "", 1, "one answers 2 classes, the other 3 classes; leave one out"),
    (OBJECTS, "", 1,
     "one answers 2 classes, the other objects with a border of 1 px; leave one out"),
    ({"n_channels": 4, "mean": [0.4] * 4, "std": [1.0] * 4}, "", 1,
     "one takes grey, the other 4 channels; no image suits both; leave one out"),
    ({}, "--padding 1", 2, "--padding: a.safetensors is a checkpoint of Main.py and says it"),
    ({}, "--preset u2net", 2, "--preset u2net: saliency maps are no probabilities to average"),
    ({}, "--mode U2net", 2, "--mode U2net: a.safetensors holds Unet"),
    ({}, "--tile 20", 2, "--tile 20: too small for this net"),
])
def test_nets_that_do_not_go_together(predict, changes, flags, code, message):
    header = {**UNET, **changes}
    checkpoint.save("a.safetensors", weights_of_unet(), UNET)
    checkpoint.save("b.safetensors", weights_of_unet(header["n_channels"], header["n_classes"]),
                    header)
    found, out, err = predict("--Input", "cell.png", "--Checkpoint", "a.safetensors",
                              "b.safetensors", *flags.split())
    assert (found, out, len(err)) == (code, [], 1) and message in err[0]
    if code == 1:
        assert err[0].startswith("Predict.py: error: a.safetensors and b.safetensors: ")


def test_flags_for_others_weights_among_ours(here, monkeypatch):
    """They hold for each file of others; ours says all by itself."""
    checkpoint.save("ours.safetensors", weights_of_unet(), UNET)
    save_file(weights_of_unet(), "others.safetensors")
    monkeypatch.setattr(sys, "argv", [
        "Predict.py", "--Input", "x", "--Checkpoint", "ours.safetensors", "others.safetensors",
        "others.safetensors", "--padding", "1", "--mean", "0.3"])
    parser = Predict.build_parser()
    members = Predict.read_nets(parser.parse_args(), parser)
    assert [member.net.options.get("padding") for member in members] == [None, 1, 1]
    assert [member.net.statistics.mean for member in members] == [(0.4,), (0.3,), (0.3,)]


# ------------------------------------------------------------------------------- the mean, in bands
def forward_of(seed, n_classes, margin):
    """A net that answers a mixture of each pixel and its neighbours, for every input size."""
    rng = np.random.default_rng(seed)
    factors, half = rng.normal(0, 2, (n_classes, 3)), margin // 2

    def forward(inputs):
        grey = inputs[:, 0]
        shifted = np.stack([grey, np.roll(grey, 1, 1), np.roll(grey, 1, 2)], 1)
        logits = np.einsum("kc,nchw->nkhw", factors, shifted).astype(np.float32)
        return logits[..., half:-half, half:-half] if margin else logits
    return forward


@pytest.mark.parametrize("n_classes", [(2, 2, 2), (1, 1, 1), (1, 2, 1), (3, 3, 3)])
def test_bands_of_different_heights_are_the_mean(n_classes):
    """Nets whose tiles have other heights, cut exactly or blended, against whole arrays."""
    image = np.random.default_rng(1).normal(0, 1, (1, 230, 150)).astype(np.float32)
    ways = [(UNET_BILINEAR, Tiles(64)), (UNET_PADDED, Tiles(48)), (UNET_ALIGNED, Whole())]
    count, largest = max(n_classes), 0

    def answers():
        return [tile.parts(image, forward_of(seed, k, geometry.margin), geometry)
                for seed, (k, (geometry, tile)) in enumerate(zip(n_classes, ways))]
    expected = 0
    for k, parts in zip(n_classes, answers()):
        mean = np.zeros((k, 230, 150))
        for top, left, logits in parts:
            mean[:, top:top + logits.shape[1], left:left + logits.shape[2]] = probabilities(logits)
        if k < count:
            mean = np.concatenate([1 - mean, mean])
        expected = expected + mean / 3
    found, done = [], 0
    for part in average_of_nets(answers()[:2], count, 150):
        largest = max(largest, part.logits.shape[1])
    assert largest <= 64 + 4, "rows are handed on as soon as all nets have answered them"
    for part in average_of_nets(answers(), count, 150):
        assert (part.top, part.left, part.logits.shape[2]) == (done, 0, 150)
        found.append(probabilities(part.logits))
        done += part.logits.shape[1]
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, atol=1e-6)
    whole = assemble(average_of_nets(answers(), count, 150), 230, 150, True)
    np.testing.assert_allclose(whole.probability, expected.squeeze(), atol=1e-6)
    bands = np.concatenate(list(class_bands(average_of_nets(answers(), count, 150), 150)))
    np.testing.assert_array_equal(bands, whole.class_map)
    likeliest = expected.argmax(axis=0) if count > 1 else expected[0] > 0.5
    assert (bands != likeliest).mean() < 1e-3


def test_memory_is_that_of_a_few_rows():
    """Of 2,000 rows no more are asked for ahead than the highest tile has."""
    ahead = []

    def parts(height, rows):
        for top in range(0, 2000, height):
            rows[0] = top + height
            ahead.append(abs(one[0] - other[0]))
            yield Part(top, 0, np.zeros((2, height, 8), np.float32))
    one, other = [0], [0]
    found = list(average_of_nets([parts(100, one), parts(16, other)], 2, 8))
    assert sum(part.logits.shape[1] for part in found) == 2000 and max(ahead) <= 100 + 16


# ------------------------------------------------------------------------------------- real nets
@pytest.fixture(scope="module")
def nets(build, jt, tmp_path_factory):
    """Folder of checkpoints: two U-Nets, a U-2-Net for RGB, and a U-Net of others with one output.

    The U-Nets predict each of their classes about equally often.
    """
    folder = tmp_path_factory.mktemp("nets")

    def unet(seed, **options):
        n_classes = options.pop("n_classes", 2)
        model = with_statistics(build("Unet", 1, n_classes, base_channels=2, **options),
                                np.random.default_rng(seed))
        bias, logits = model.outc.conv.bias, model(jt.randn((1, 1, 252, 252)))
        bias.assign(bias.numpy() - logits.numpy().mean(axis=(0, 2, 3)))
        return checkpoint.state_arrays(model)
    small = with_statistics(build("U2netS", 3, 2), np.random.default_rng(8))
    checkpoint.save(folder / "a.safetensors", unet(3), UNET)
    checkpoint.save(folder / "b.safetensors", unet(4, padding=1), {
        **UNET, "options": {**UNET["options"], "padding": 1}, "mean": [0.5], "std": [0.3],
        "dtype": "uint8"})
    checkpoint.save(folder / "c.safetensors", checkpoint.state_arrays(small), {
        **UNET, "mode": "U2netS", "n_channels": 3, "options": {"align_corners": False},
        "mean": [0.3, 0.4, 0.5], "std": [0.2, 0.2, 0.3]})
    save_file(unet(5, n_classes=1), folder / "d.safetensors")
    return folder


def outputs_of(name):
    """(probabilities, mask) of an image."""
    mask = np.asarray(Image.open(f"predictions/{name}_pred.png"))
    return np.load(f"predictions/{name}_prob.npy"), mask


@pytest.mark.jittor
@pytest.mark.parametrize("letters, flags", [
    ("ab", ()), ("abc", ()), ("ad", ()), ("ab", ("--tta", 8)),
    ("ab", ("--tile", 52, "--batch", 2))])
def test_the_mean_of_single_runs(predict, nets, letters, flags):
    """Two U-Nets; a U-2-Net of RGB too; a net with one output; turned images; in tiles."""
    files = [nets / f"{letter}.safetensors" for letter in letters]
    more = ("--Input", "cell.png", "--probabilities", *flags)
    single = []
    for file in files:
        assert predict("--Checkpoint", file, *more)[0] == 0
        found, _ = outputs_of("cell")
        single.append(np.stack([1 - found, found]) if found.ndim == 2 else found)
    code, out, _ = predict("--Checkpoint", *files, *more, "--overlay", "--instances")
    assert code == 0 and len(out) == len(files) + 2
    for line, file in zip(out, files):
        assert line.startswith(f"{file}: U")
    assert out[len(files)].startswith(f"Mean of the probabilities of {len(files)} nets, ")
    assert " MB of weights; " in out[len(files)]
    probability, mask = outputs_of("cell")
    expected = np.mean(single, axis=0)
    np.testing.assert_allclose(probability, expected, atol=1e-6)
    unsure = np.abs(expected[1] - 0.5) < 1e-5
    np.testing.assert_array_equal((mask > 0)[~unsure], (expected[1] > 0.5)[~unsure])
    assert 0 < mask.mean() < 255 and np.abs(single[0] - single[1]).max() > 0.01
    assert {path.name for path in Path("predictions").iterdir()} == {
        f"cell_{kind}" for kind in ("pred.png", "prob.npy", "overlay.png", "instances.tif")}


@pytest.mark.jittor
def test_a_file_twice_and_a_folder_of_one(predict, nets):
    file = nets / "a.safetensors"
    more = ("--Input", "cell.png", "--probabilities")
    predict("--Checkpoint", file, *more)
    alone, mask = outputs_of("cell")
    assert predict("--Checkpoint", file, file, *more)[0] == 0
    twice, same = outputs_of("cell")
    np.testing.assert_allclose(twice, alone, atol=1e-6)
    assert (same != mask)[np.abs(alone[1] - 0.5) > 1e-5].sum() == 0
    fold = Path("checkpoints/fold_0")
    fold.mkdir(parents=True)
    (fold / BEST).write_bytes(file.read_bytes())
    code, out, _ = predict("--Checkpoint", "checkpoints", *more)
    assert code == 0 and len(out) == 2 and out[0].startswith(f"{fold / BEST}: Unet, ")
    for array, other in zip(outputs_of("cell"), (alone, mask)):
        assert array.tobytes() == other.tobytes(), "one net answers as it does without a folder"


@pytest.mark.jittor
@pytest.mark.parametrize("cuts", [[], [(0.4, 0), (0.55, 40)]])
def test_a_large_stack_in_bands_is_the_image_in_memory(predict, nets, monkeypatch, cuts):
    """Exact tiles of one net, blended ones of the other, pages of a TIFF that are read in rows.

    cuts: threshold and smallest object of each net.
    """
    files = [nets / "a.safetensors", nets / "b.safetensors"]
    for k, (threshold, smallest) in enumerate(cuts):
        weights, header = checkpoint.load(files[k])
        files[k] = Path(f"cut{k}.safetensors")
        checkpoint.save(files[k], weights, {**header, "threshold": threshold,
                                            "smallest_object": smallest})
    stack = noise((2, 300, 200), seed=4)
    tifffile.imwrite("large.tif", stack, metadata=None, rowsperstrip=9)
    flags = ("--Checkpoint", *files, "--Input", "large.tif", "--tile", 96)
    code, out, _ = predict(*flags, "--probabilities")
    assert code == 0 and ("; threshold 0.475, smallest object 20 px; " in out[2]) == bool(cuts)
    whole = tifffile.imread("predictions/large_pred.tif")
    probability = np.load("predictions/large_prob.npy")
    monkeypatch.setattr(image_pages, "LARGE", 2 ** 15)
    assert predict(*flags)[0] == 0
    bands = tifffile.imread("predictions/large_pred.tif")
    np.testing.assert_array_equal(bands, whole)
    above = probability[:, 1] > (0.475 if cuts else 0.5)
    assert 0 < bands.mean() < 255 and ((bands > 0) != above).any() == bool(cuts)


@pytest.mark.jittor
def test_a_weight_that_does_not_fit(predict, nets):
    """The second file's weights are others than its first tensors say: told before any output."""
    weights, header = checkpoint.load(nets / "b.safetensors")
    weights["down1.maxpool_conv.1.double_conv.0.weight"] = np.zeros((9, 2, 3, 3), np.float32)
    checkpoint.save("broken.safetensors", weights, header)
    code, out, err = predict("--Input", "cell.png", "--Checkpoint", nets / "a.safetensors",
                             "broken.safetensors")
    assert (code, out) == (1, []) and "broken.safetensors: not the weights of this net" in err[-1]
    assert not list(Path("predictions").iterdir())


@pytest.mark.jittor
def test_the_command_as_a_process(here, nets):
    done = command("Predict.py", "--Checkpoint", nets / "a.safetensors", nets / "b.safetensors",
                   "--Input", "cell.png", "--device", "cpu", cwd=here)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert len(done.stdout.splitlines()) == 4
    assert np.asarray(Image.open("predictions/cell_pred.png")).shape == (60, 76)
