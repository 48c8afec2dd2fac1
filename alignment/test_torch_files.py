"""Files that PyTorch itself writes and reads (needs PyTorch, no Jittor).

    pytest alignment/test_torch_files.py
"""
import functools
import os
from collections import OrderedDict

import numpy as np
import pytest
import torch
from helpers import command
from torch_files import MACHINE, MAGIC, PUBLIC, Call, stream, tensor

from command.errors import DataError
from nets.checkpoint import read_weights, save

SHAPES = [shapes for _, _, shapes, _ in PUBLIC]


def plain_net(shapes):
    """A PyTorch net of Conv2d and BatchNorm2d whose state dict has these {name: shape}."""
    net = torch.nn.Module()
    for name in (name for name in shapes if name.endswith("weight")):
        *path, last = name.split(".")[:-1]
        parent, shape, prefix = net, shapes[name], name[:-len("weight")]
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, torch.nn.Module())
            parent = parent._modules[part]
        if len(shape) == 1:
            layer = torch.nn.BatchNorm2d(*shape)
        else:
            layer = torch.nn.Conv2d(shape[1], shape[0], shape[2:], bias=f"{prefix}bias" in shapes)
        parent.add_module(last, layer)
    for name, shape in shapes.items():
        if name.endswith(".up.bias"):
            # of a transposed convolution, whose weight has the output channels second
            net.get_submodule(name[:-len(".bias")]).bias = torch.nn.Parameter(torch.zeros(shape))
    return net


def random_state(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()
            if not name.endswith("num_batches_tracked")}


def same(weights, state):
    """Whether arrays equal tensors, name by name, counters aside; bfloat16 as float32."""
    arrays = {name: (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()
              for name, value in state.items() if not name.endswith("num_batches_tracked")}
    return set(weights) == set(arrays) and all(
        weights[name].dtype == array.dtype and np.array_equal(weights[name], array)
        for name, array in arrays.items())


# -------------------------------------------------------------------------------- PyTorch to ours
@pytest.fixture(params=[True, False], ids=["zip", "older"])
def write(request):
    """torch.save in either format."""
    return functools.partial(torch.save, _use_new_zipfile_serialization=request.param)


@pytest.mark.parametrize("wrap", [
    lambda net: net.state_dict(),
    lambda net: {"state_dict": net.state_dict(), "epoch": 3, "best": 0.5,
                 "names": ["a", ("b", None)]},
    lambda net: {"model_state_dict": net.state_dict(),
                 "optimizer": torch.optim.Adam(net.parameters()).state_dict()},
    lambda net: {"model": dict(net.state_dict()), "rng": torch.get_rng_state()},
    lambda net: torch.nn.DataParallel(net).state_dict(),
    lambda net: {"model": torch.nn.DataParallel(net).state_dict()},
    lambda net: {**net.state_dict(), "mask_values": [0, 255]},
    lambda net: OrderedDict([*net.named_parameters(), *net.named_buffers()]),
    lambda net: {name: value.requires_grad_(value.is_floating_point())
                 for name, value in net.state_dict().items()},
])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_training_scripts_save(tmp_path, write, wrap, protocol):
    net = plain_net(SHAPES[3])
    write(wrap(net), tmp_path / "net.pth", pickle_protocol=protocol)
    weights, header = read_weights(tmp_path / "net.pth")
    assert header is None and same(weights, net.state_dict())


def test_after_a_training_step(tmp_path, write):
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4))
    adam = torch.optim.Adam(net.parameters())
    net(torch.randn(2, 1, 8, 8)).square().sum().backward()
    adam.step()
    write({"optimizer": adam.state_dict(), "state_dict": net.state_dict()}, tmp_path / "net.pt")
    assert same(read_weights(tmp_path / "net.pt")[0], net.state_dict())


@pytest.mark.parametrize("dtype", [
    torch.float32, torch.float16, torch.float64, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool])
def test_types_and_views(tmp_path, write, dtype):
    base = (torch.arange(120) % 7 - 3).reshape(2, 3, 4, 5).to(dtype)
    state = {"whole": base, "turned": base.permute(3, 1, 0, 2), "part": base[1:, ::2, 1:3, -1],
             "scalar": base[1, 2, 3, 4], "expanded": base[:1].expand(6, 3, 4, 5),
             "empty": base[:0], "nothing": torch.empty(0, dtype=dtype),
             "channels_last": base.contiguous(memory_format=torch.channels_last)}
    write(state, tmp_path / "a.pth")
    assert same(read_weights(tmp_path / "a.pth")[0], state)


def test_shared_and_big(tmp_path, write):
    """Tensors that share a storage of many megabytes, with one outside the state dict too."""
    base = torch.randn(2000, 3000)
    state = {"whole": base, "again": base, "turned": base.t()[::7], "half": base.half(),
             "pair": base[:2]}
    write({"model": state, "losses": [base[0], torch.randn(5)]}, tmp_path / "a.pth")
    assert same(read_weights(tmp_path / "a.pth")[0], state)


@pytest.mark.parametrize("little_endian", [True, False])
@pytest.mark.parametrize("rebuild", ["_rebuild_tensor", "_rebuild_tensor_v2"])
def test_older_files_mean_the_same_to_pytorch(tmp_path, rebuild, little_endian):
    """Files made by hand, as only old versions and other machines wrote them.

    PyTorch reads in them what we read.
    """
    arguments = tensor("0", 6, 1, (2, 2), (1, 2), view=(("2", 1, 5),)).arguments
    arguments = arguments[:4 if rebuild == "_rebuild_tensor" else 6]
    data = {"a": Call(f"torch._utils {rebuild}", arguments),
            "b": tensor("1", 3, 0, (3,), (1,), view=(None,))}
    storages = {"1": np.arange(3, dtype="<f4"), "0": np.arange(6, dtype="<f4") + 10}
    machine = {**MACHINE, "little_endian": little_endian}
    path = stream(tmp_path / "a.pth", data, storages, (MAGIC, 1001, machine))
    state = torch.load(path, weights_only=False)
    assert state["a"].tolist() == [[12, 14], [13, 15]] and same(read_weights(path)[0], state)


@pytest.mark.parametrize("save_to, words", [
    (lambda write, path: write(plain_net(SHAPES[3]), path), "torch.nn.modules.module.Module"),
    (lambda write, path: write(torch.nn.Conv2d(1, 1, 1), path), "torch.nn.modules.conv.Conv2d"),
    (lambda write, path: write({"a": torch.zeros(2), "n": np.float64(1)}, path), "scalar"),
    (lambda write, path: write({"a": torch.zeros(2, dtype=torch.complex64)}, path),
     "torch.ComplexFloatStorage"),
    (lambda write, path: write({"a": torch.zeros(2).to_sparse()}, path), "_rebuild_sparse_tensor"),
    (lambda write, path: write([torch.zeros(2)], path), "it holds no dict"),
    (lambda _, path: torch.jit.script(torch.nn.Conv2d(1, 1, 1)).save(str(path)),
     "tries to use '__torch__"),
])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_no_state_dict(tmp_path, write, save_to, words):
    save_to(write, tmp_path / "net.pth")
    with pytest.raises(DataError) as error:
        read_weights(tmp_path / "net.pth")
    assert words in str(error.value) and str(error.value).startswith(f"{tmp_path / 'net.pth'}: ")


# -------------------------------------------------------------------------------- ours to PyTorch
@pytest.mark.parametrize("shapes", SHAPES, ids=["Unet", "Unet transposed", "U2net", "U2netS"])
def test_round_trip(tmp_path, shapes):
    state = random_state(shapes)
    save(tmp_path / "best_model.safetensors", state, {"mode": "any"})
    done = command("alignment/ToPytorch.py", "best_model.safetensors", "out.pth", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout == f"out.pth: {len(shapes)} tensors\n"
    loaded, net = torch.load(tmp_path / "out.pth", weights_only=True), plain_net(shapes)
    net.load_state_dict(loaded, strict=True)
    assert same(state, net.state_dict())
    assert same(read_weights(tmp_path / "out.pth")[0], net.state_dict())
    counters = [value for name, value in loaded.items() if name.endswith("num_batches_tracked")]
    assert counters and all(value.dtype == torch.int64 and value.shape == () and value == 0
                            for value in counters)
    assert sorted(os.listdir(tmp_path)) == ["best_model.safetensors", "out.pth"]


def test_mistakes_are_one_line_and_change_nothing(tmp_path):
    save(tmp_path / "a.safetensors", {"a": np.ones(3, np.float32)}, {})
    (tmp_path / "text.safetensors").write_text("words")
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('not here')\n")
    for arguments, code, words, environment in (
            (("a.safetensors", "a.safetensors"), 2, "ends in .pth or .pt", {}),
            (("a.safetensors",), 2, "output", {}),
            (("none.safetensors", "out.pth"), 1, "none.safetensors: no such checkpoint", {}),
            (("text.safetensors", "out.pth"), 1, "text.safetensors: not a readable", {}),
            (("a.safetensors", "none/out.pth"), 1, "none/out.pth: its folder does not exist", {}),
            (("a.safetensors", "out.pth"), 1, "pip install torch", {"PYTHONPATH": str(tmp_path)})):
        done = command("alignment/ToPytorch.py", *arguments, cwd=tmp_path, **environment)
        assert done.returncode == code and words in done.stderr
        assert done.stderr.count("\n") == 1 and not done.stdout
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a.safetensors", "text.safetensors", "torch"]
