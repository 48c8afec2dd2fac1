"""nets/checkpoint.py without Jittor.

What is saved comes back, what is not ours is refused, a failure costs nothing.
"""
import json
import os
import pickle
import resource

import numpy as np
import pytest
from fakes import fake_model
from safetensors import safe_open
from safetensors.numpy import save_file

from command.errors import DataError
from nets.checkpoint import FORMAT, assign_weights, load, load_weights, save, state_arrays
from nets.recognise import describe_net

HEADER = {"mode": "Unet", "options": {"bilinear": True, "dropout_probs": [0.2, 0.5]},
          "mean": [0.1234567890123456], "tile": "full", "epoch": 7,
          "说明": "电子显微镜下的细胞膜", "nothing": None}


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return {"inc.weight": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
            "inc.bias": rng.normal(size=4), "half": rng.normal(size=(2, 5)).astype(np.float16),
            "steps": np.array([2 ** 40, -1]), "flags": np.array([True, False]),
            "bytes": rng.integers(0, 256, 9).astype(np.uint8), "scalar": np.float32(3.5),
            "empty": np.zeros((0, 3), np.float32), "权重": np.ones(1, np.int32)}


# ------------------------------------------------------------------------------------- round trips
def test_round_trip(tmp_path):
    path = tmp_path / "最佳 model.safetensors"
    save(path, arrays(), HEADER)
    weights, header = load(str(path))
    assert header == HEADER and set(weights) == set(arrays())
    for name, array in arrays().items():
        assert weights[name].dtype == array.dtype and weights[name].shape == array.shape
        assert (weights[name] == array).all()
    assert os.listdir(tmp_path) == [path.name]


def test_arrays_in_any_memory_order(tmp_path):
    base = arrays()["inc.weight"]
    views = {"turned": base.T, "backwards": base[::-1, :, ::2], "fortran": np.asfortranarray(base)}
    save(tmp_path / "a.safetensors", views, {})
    weights = load(tmp_path / "a.safetensors")[0]
    assert all((weights[name] == view).all() for name, view in views.items())


def test_other_tools_can_read_it(tmp_path):
    save(tmp_path / "a.safetensors", arrays(), HEADER)
    with safe_open(tmp_path / "a.safetensors", framework="numpy") as file:
        metadata = file.metadata()
        assert metadata["format"] == FORMAT and json.loads(metadata["header"]) == HEADER
        assert (file.get_tensor("inc.bias") == arrays()["inc.bias"]).all()


def test_state_arrays_are_a_copy():
    model = fake_model(a=(2,), b=(3, 1))
    state = state_arrays(model)
    model.state_dict()["a"].value += 1
    assert {name: array.shape for name, array in state.items()} == {"a": (2,), "b": (3, 1)}
    assert not state["a"].any()
    assert not any(var.on_host for var in model.state_dict().values()), "they stay on the GPU"


# ------------------------------------------------------------------------ what is not a checkpoint
def foreign(metadata):
    def write(path):
        save_file({"a": np.ones(3, np.float32)}, path, metadata=metadata)
    return write


class Trap:
    def __reduce__(self):
        return print, ("a pickle was executed",)


@pytest.mark.parametrize("write, message", [
    (lambda path: None, "no such checkpoint$"),
    (lambda path: path.mkdir(), "no such checkpoint$"),
    (lambda path: path.write_text("These are words, not weights.\n"),
     "not a readable safetensors checkpoint"),
    (lambda path: path.write_bytes(b""), "not a readable safetensors checkpoint"),
    (lambda path: path.write_bytes(pickle.dumps(Trap())), "not a readable safetensors checkpoint"),
    (foreign(None), "not a checkpoint of this project"),
    (foreign({"format": "pt"}), "not a checkpoint of this project"),
    (foreign({"format": FORMAT}), "not a readable safetensors checkpoint"),
    (foreign({"format": FORMAT, "header": "{oops"}), "not a readable safetensors checkpoint"),
])
def test_refuses_what_is_not_ours(tmp_path, write, message, capsys):
    path = tmp_path / "a.safetensors"
    write(path)
    with pytest.raises(DataError, match=f"a.safetensors: {message}"):
        load(path)
    assert capsys.readouterr().out == ""


def test_refuses_a_truncated_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save(path, arrays(), HEADER)
    whole = path.read_bytes()
    for length in (*range(0, len(whole), 97), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="not a readable safetensors checkpoint"):
            load(path)


def test_others_may_read_it_as_any_new_file(tmp_path):
    path, plain = tmp_path / "a.safetensors", tmp_path / "plain"
    save(path, arrays(), HEADER)
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


# ---------------------------------------------------------------------------------- a failing save
@pytest.mark.parametrize("weights, header, error", [
    (arrays(1), {"scores": {"iou": float("nan")}}, ValueError),
    (arrays(1), {"loss": float("inf")}, ValueError),
    (arrays(1), {"iou": np.float32(0.5)}, TypeError),
    ({"a": np.array(["text"])}, {}, Exception),
])
def test_a_failing_save_leaves_the_old_file(tmp_path, weights, header, error):
    path = tmp_path / "best_model.safetensors"
    save(path, arrays(), HEADER)
    before = path.read_bytes()
    with pytest.raises(error):
        save(path, weights, header)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """A file may grow to 100 bytes: what a full disk does."""
    path = tmp_path / "best_model.safetensors"
    save(path, arrays(), HEADER)
    before, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        message = "best_model.safetensors: cannot be written .*File too large.*; free some space"
        with pytest.raises(DataError, match=message):
            save(path, arrays(1), HEADER)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


# ---------------------------------------------------------------------------------- into the model
def test_load_weights(tmp_path):
    weights = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([1.5], np.float16)}
    save(tmp_path / "a.safetensors", weights, HEADER)
    model = fake_model(a=(2, 3), b=(1,))
    assert load_weights(model, tmp_path / "a.safetensors") == HEADER
    for name, var in model.state_dict().items():
        assert (var.value == weights[name]).all() and var.assigned == 1


@pytest.mark.parametrize("change, words", [
    (lambda w: w.pop("a"), ["missing a"]),
    (lambda w: w.update(z=np.ones(1)), ["unexpected z"]),
    (lambda w: w.update(b=np.ones((4, 1))), ["b has shape [4, 1], the net wants [4]"]),
    (lambda w: (w.pop("c"), w.pop("a"), w.update(z=np.ones(1), y=np.ones(2), b=np.ones(5))),
     ["missing a", "missing c", "unexpected z", "unexpected y",
      "b has shape [5], the net wants [4]"]),
])
def test_other_weights_are_listed_and_none_assigned(change, words):
    weights = {"a": np.ones((2, 3)), "b": np.ones(4), "c": np.ones((1, 1))}
    model = fake_model(a=(2, 3), b=(4,), c=(1, 1))
    change(weights)
    with pytest.raises(DataError) as refused:
        assign_weights(model, weights, "net.safetensors")
    start, listed = str(refused.value).split("net: ")
    assert start == "net.safetensors: not the weights of this " and listed.split("; ") == words
    assert not any(var.assigned for var in model.state_dict().values())


def test_load_weights_refuses_another_net(tmp_path):
    save(tmp_path / "a.safetensors", {"a": np.ones(3)}, HEADER)
    model = fake_model(b=(3,))
    message = "a.safetensors: not the weights of this net: missing b; unexpected a$"
    with pytest.raises(DataError, match=message):
        load_weights(model, tmp_path / "a.safetensors")
    assert not model.state_dict()["b"].assigned


# ---------------------------------------------------------------------- what weights tell of a net
def described(**shapes):
    weights = {name.replace("__", "."): np.zeros(shape) for name, shape in shapes.items()}
    return describe_net(weights, "net.pth")


def test_describe_net():
    unet = {"inc__double_conv__0__weight": (6, 3, 3, 3), "outc__conv__weight": (4, 6, 1, 1)}
    options = {"base_channels": 6, "bilinear": True, "conv_bias": False}
    assert described(**unet) == ("Unet", 3, 4, options)
    found = described(**unet, inc__double_conv__0__bias=(6,), up1__up__weight=(96, 48, 2, 2))
    assert found == ("Unet", 3, 4, {"base_channels": 6, "bilinear": False, "conv_bias": True})
    for mode, middle in (("U2net", 32), ("U2netS", 16)):
        found = described(stage1__rebnconvin__conv_s1__weight=(64, 1, 3, 3),
                          stage1__rebnconv1__conv_s1__weight=(middle, 64, 3, 3),
                          outconv__weight=(2, 12, 1, 1))
        assert found == (mode, 1, 2, {})


@pytest.mark.parametrize("shapes", [
    {}, {"inc__double_conv__0__weight": (6, 3, 3, 3)}, {"layer1__weight": (1, 1, 1, 1)},
    {"inc__double_conv__0__weight": (6,), "outc__conv__weight": (4, 6, 1, 1)}])
def test_the_weights_of_something_else(shapes):
    message = "^net.pth: the weights of neither a U-Net .* nor a U-2-Net"
    with pytest.raises(DataError, match=message):
        described(**shapes)


@pytest.mark.jittor
@pytest.mark.parametrize("net, options", [
    (("Unet", 1, 2), {"bilinear": True, "base_channels": 4, "conv_bias": True}),
    (("Unet", 3, 5), {"bilinear": False, "base_channels": 2, "conv_bias": False}),
    (("U2netS", 3, 1), {}), (("U2net", 1, 2), {})])
def test_describe_net_of_ours(build, net, options):
    model = build(*net, **options)
    state = {name: np.broadcast_to(0, var.shape) for name, var in model.state_dict().items()}
    assert describe_net(state, "") == (*net, options)
