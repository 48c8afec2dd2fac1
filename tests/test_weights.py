"""Weights from elsewhere: safetensors, and PyTorch's `.pth` written by hand.

Without PyTorch, and mostly without Jittor.
"""
import dataclasses
import io
import os
import pickle
import struct
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from fakes import fake_model
from safetensors.numpy import save_file
from torch_files import (MACHINE, MAGIC, PUBLIC, VALUES, Call, Entries, Name, Persistent, archive,
                         dump, opcodes, stream, tensor)

from command.errors import DataError, say_first_time
from nets import torch_format, torch_pickle
from nets.catalogue import CATALOGUE
from nets.checkpoint import load, load_weights, read_weights, save

TYPES = {"f4": "FloatStorage", "f2": "HalfStorage", "f8": "DoubleStorage", "i8": "LongStorage",
         "i4": "IntStorage", "i2": "ShortStorage", "i1": "CharStorage", "u1": "ByteStorage",
         "b1": "BoolStorage"}


@pytest.fixture(params=[archive, stream])
def write(request):
    """A function that writes a `.pth`, of either format."""
    return request.param


def state_dict(arrays):
    """{name: array} as ({name: tensor}, storages) for `archive` and `stream`.

    Each array gets a storage of its own.
    """
    state, storages = {}, {}
    for key, (name, array) in enumerate(arrays.items()):
        contiguous = np.zeros(array.shape, array.dtype).strides
        strides = tuple(stride // array.itemsize for stride in contiguous)
        kind = f"torch {TYPES[array.dtype.str[1:]]}"
        state[name] = tensor(str(key), array.size, 0, array.shape, strides, kind)
        storages[str(key)] = array.ravel()
    return state, storages


def write_pth(path, arrays, write=archive):
    state, storages = state_dict(arrays)
    return write(path, Entries(state), storages)


# ------------------------------------------------------------------------------------ what is read
def test_every_type(tmp_path, write):
    rng = np.random.default_rng(0)
    arrays = {kind: rng.integers(0, 100, (2, 3)).astype(kind) for kind in TYPES}
    weights, header = read_weights(write_pth(tmp_path / "a.pth", arrays, write))
    assert header is None and set(weights) == set(arrays)
    for kind, array in arrays.items():
        assert weights[kind].dtype == array.dtype and (weights[kind] == array).all()


def test_bfloat16_becomes_float32(tmp_path, write):
    values = np.array([1.5, -2, 0, 3e38, -1e-30, np.inf], np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2")
    data = {"a": tensor(storage="torch BFloat16Storage")}
    a = read_weights(write(tmp_path / "a.pth", data, {"0": upper}))[0]["a"]
    bits = upper.astype(np.uint32).reshape(2, 3) << 16
    assert a.dtype == np.float32 and (a.view(np.uint32) == bits).all()
    assert np.allclose(a.ravel(), values, rtol=2 ** -7)


@pytest.mark.parametrize("view, wanted", [
    (dict(shape=(3, 2), strides=(1, 3)), [[0, 3], [1, 4], [2, 5]]),
    (dict(shape=(2, 2), strides=(3, 2)), [[0, 2], [3, 5]]),
    (dict(offset=4, shape=(2,), strides=(1,)), [4, 5]),
    (dict(offset=5, shape=(), strides=()), 5),
    (dict(offset=2, shape=(2, 3), strides=(0, 1)), [[2, 3, 4], [2, 3, 4]]),
    (dict(offset=1, shape=(1, 3), strides=(100, 2)), [[1, 3, 5]]),
    (dict(offset=6, shape=(0, 3), strides=(3, 1)), np.zeros((0, 3))),
    (dict(storage="torch.storage UntypedStorage", shape=(1,), strides=(1,)), [0]),
    (dict(extra=({"note": 1},)), [[0, 1, 2], [3, 4, 5]]),
])
def test_views(tmp_path, write, view, wanted):
    storages = {"0": bytes(6)} if "Untyped" in view.get("storage", "") else VALUES
    a = read_weights(write(tmp_path / "a.pth", {"a": tensor(**view)}, storages))[0]["a"]
    assert a.shape == np.shape(wanted) and (a == np.array(wanted)).all()
    assert a.flags.c_contiguous and a.flags.writeable


def test_tensors_may_share_a_storage_and_a_storage_may_be_empty(tmp_path, write):
    data = {"a": tensor(), "b": tensor(offset=3, shape=(3,), strides=(1,)),
            "c": tensor("1", 0, 0, (0,), (1,))}
    weights = read_weights(write(tmp_path / "a.pth", data, {**VALUES, "1": b""}))[0]
    weights["a"][:] = 9
    assert (weights["b"] == [3, 4, 5]).all() and weights["c"].shape == (0,)


@pytest.mark.parametrize("order, record", [("<", b"little"), (">", b"big"), ("<", None)])
def test_byte_order(tmp_path, order, record):
    storages = {"0": np.arange(6, dtype=f"{order}f4").tobytes(),
                "1": struct.pack(f"{order}H", 0x3fc0)}
    data = {"a": tensor(), "b": tensor("1", 1, 0, (), (), "torch BFloat16Storage")}
    weights = read_weights(archive(tmp_path / "a.pth", data, storages, byteorder=record))[0]
    assert (weights["a"] == np.arange(6).reshape(2, 3)).all() and weights["b"] == 1.5
    assert weights["a"].dtype == np.float32 and weights["a"].dtype.isnative


PARAMETER = Call("torch._utils _rebuild_parameter",
                 (tensor(), True, Call("collections OrderedDict", ())))


@pytest.mark.parametrize("data", [
    {"a": tensor()}, Entries({"a": tensor()}), {"a": PARAMETER},
    {"state_dict": Entries({"a": tensor()}), "epoch": 3,
     "optimizer": {"state": {0: {"step": tensor()}}, "lr": 1e-3}},
    {"model_state_dict": {"a": tensor()}, "loss": float("nan"), "best": None},
    {"model": Entries({"a": tensor()}), "args": [True, "x", (1, 2 ** 80)]},
    Entries({"module.a": tensor(), "module.bn.num_batches_tracked": tensor(shape=(), strides=())}),
    {"model": Entries({"module.a": tensor()})},
    {"a": tensor(), 1: tensor(), None: tensor()},
    Entries({"a": tensor(), "mask_values": [0, 255],
             "num_batches_tracked": tensor(shape=(), strides=())}),
    # as Python 2 pickles it
    Call("collections OrderedDict", ([["a", tensor()]],), {"_metadata": {}}),
])
@pytest.mark.parametrize("name, options", [
    ("a.pth", {}), ("权重.safetensors", {"root": "net"}), ("weights", None)])
def test_wrappers_and_extras(tmp_path, data, name, options):
    """They are told apart by content, not by name.

    options: of the archive; None: the older format.
    """
    model, path = fake_model(a=(2, 3)), tmp_path / name
    path = stream(path, data) if options is None else archive(path, data, **options)
    assert load_weights(model, str(path)) is None
    assert (model.state_dict()["a"].value == np.arange(6).reshape(2, 3)).all()


@pytest.mark.parametrize("protocol", range(2, 6))
def test_the_older_format_of_any_machine(tmp_path, protocol):
    """Pickles of any protocol, framed or not, may follow each other.

    The values are little-endian, whatever the head says.
    """
    machine = {**MACHINE, "little_endian": False}
    head = [pickle.dumps(value, protocol) for value in (MAGIC, 1001, machine)]
    keys = pickle.dumps(["0"], protocol)
    weights, _ = read_weights(stream(tmp_path / "a.pth", {"a": tensor()}, head=head, keys=keys))
    assert (weights["a"].ravel() == VALUES["0"]).all()


def test_the_older_format_lists_its_storages_in_any_order_and_may_have_unused_ones(tmp_path):
    storages = {key: np.arange(int(key), dtype="<f4") + int(key) for key in "60573"}
    used = {key: tensor(key, len(storages[key]), 0, (int(key),), (1,)) for key in "063"}
    unused = [tensor("5", 5, 0, (5,), (1,)), {"buffer": tensor("7", 7, 0, (7,), (1,))}]
    data = {"state_dict": used, "optimizer": unused}
    weights = read_weights(stream(tmp_path / "a.pth", data, storages))[0]
    assert set(weights) == set("063")
    assert all((weights[key] == storages[key]).all() for key in weights)


@pytest.mark.parametrize("rebuild", ["_rebuild_tensor", "_rebuild_tensor_v2"])
@pytest.mark.parametrize("view, place, wanted", [
    (None, {}, [[0, 1, 2], [3, 4, 5]]), (("9", 0, 6), {}, [[0, 1, 2], [3, 4, 5]]),
    (("9", 2, 4), dict(shape=(4,), strides=(1,)), [2, 3, 4, 5]),
    (("9", 2, 3), dict(offset=1, shape=(2,), strides=(1,)), [3, 4]),
    (("9", 6, 0), dict(shape=(0,), strides=(1,)), []),
])
def test_views_of_the_first_versions(tmp_path, rebuild, view, place, wanted):
    _, arguments, _ = tensor(view=(view,), **place)
    count = 4 if rebuild == "_rebuild_tensor" else 6
    data = {"a": Call(f"torch._utils {rebuild}", arguments[:count])}
    a = read_weights(stream(tmp_path / "a.pth", data))[0]["a"]
    assert a.shape == np.shape(wanted) and (a == np.array(wanted)).all()


def test_names_that_only_partly_begin_with_module_stay(tmp_path):
    path = archive(tmp_path / "a.pth", {"module.a": tensor(), "b": tensor()})
    assert set(read_weights(path)[0]) == {"module.a", "b"}


UNET = {"inc.double_conv.0.weight": (4, 1, 3, 3), "inc.double_conv.1.weight": (4,),
        "outc.conv.weight": (2, 4, 1, 1), "outc.conv.bias": (2,)}
PREFIXES = ("_orig_mod.", "model.", "net.", "module.", "module._orig_mod.", "model._orig_mod.",
            "model.net.module.", "segmenter.")


def unet_arrays(prefix=""):
    rng = np.random.default_rng(0)
    return {prefix + name: rng.random(shape, np.float32) for name, shape in UNET.items()}


def write_safetensors(path, arrays):
    save_file(arrays, path)
    return path


def assert_unet(weights):
    wanted = unet_arrays()
    assert weights.keys() == wanted.keys()
    assert all((weights[name] == wanted[name]).all() for name in wanted)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("form", ["archive", "stream", "safetensors"])
def test_what_begins_all_names_is_taken_off(tmp_path, capsys, form, prefix):
    arrays, path = unet_arrays(prefix), tmp_path / "a.pth"
    counter = {f"{prefix}inc.double_conv.1.num_batches_tracked": np.array(7)}
    if form == "safetensors":
        write_safetensors(path, {**arrays, **counter})
    else:
        write_pth(path, {**arrays, **counter}, {"archive": archive, "stream": stream}[form])
    say_first_time.cache_clear()
    assert_unet(read_weights(path)[0])
    assert capsys.readouterr().err == f"{path}: '{prefix}' is taken off their names\n"


@pytest.mark.parametrize("keys", [
    ("net",), ("model_state",), ("state_dict",), ("model_state_dict",), ("network_weights",),
    ("model", "state_dict"), ("ema",)])
def test_state_dicts_inside_dicts(tmp_path, capsys, write, keys):
    state, storages = state_dict(unet_arrays("model._orig_mod."))
    for key in reversed(keys):  # beside a loss, and tensors and dicts of other things
        state = {"epoch": 3, "best": tensor("9", 1, 0, (), ()), key: Entries(state),
                 "optimizer": {"state": {0: {"step": tensor("9", 1, 0, (), ())}}}}
    path = write(tmp_path / "a.pth", state, {**storages, "9": np.zeros(1, "<f4")})
    say_first_time.cache_clear()
    assert_unet(read_weights(path)[0])
    place = " > ".join(f'"{key}"' for key in keys)
    assert capsys.readouterr().err == (f"{path}: the weights lie under {place} and "
                                       "'model._orig_mod.' is taken off their names\n")


def test_plain_weights_are_read_without_a_word(tmp_path, capsys, write):
    assert_unet(read_weights(write_pth(tmp_path / "a.pth", unet_arrays(), write))[0])
    assert_unet(read_weights(write_safetensors(tmp_path / "a.st", unet_arrays()))[0])
    assert capsys.readouterr().err == ""


def test_of_two_state_dicts_the_likelier_one_is_read(tmp_path, write):
    data = {"ema": {"a": tensor()}, "net": {"b": tensor()}, "extra": {"c": tensor()}}
    assert set(read_weights(write(tmp_path / "a.pth", data))[0]) == {"b"}
    data = {"model": {"depth": 3}, "a": tensor()}
    assert set(read_weights(write(tmp_path / "a.pth", data))[0]) == {"a"}


def test_a_word_that_only_most_names_begin_with_stays(tmp_path, write):
    arrays = {**unet_arrays("model."), "criterion.weight": np.ones(3, np.float32)}
    assert set(read_weights(write_pth(tmp_path / "a.pth", arrays, write))[0]) == set(arrays)


def test_a_net_whose_own_names_begin_so_keeps_them(tmp_path, monkeypatch, write):
    own = unet_arrays("model.")
    net = dataclasses.replace(CATALOGUE["Unet"], name="Odd",
                              recognise=lambda shape: shape("model.outc.conv.weight"))
    monkeypatch.setitem(CATALOGUE, "Odd", net)
    assert set(read_weights(write_pth(tmp_path / "a.pth", own, write))[0]) == set(own)
    wrapped = {f"module.{name}": array for name, array in own.items()}
    assert set(read_weights(write_pth(tmp_path / "b.pth", wrapped, write))[0]) == set(own)


def test_a_dict_may_lie_in_itself(tmp_path):
    raw = b"\x80\x02}q\x00(" + opcodes("model") + b"h\x00" + opcodes("net") + b"h\x00u."
    with pytest.raises(DataError, match="no tensors by name"):
        read_weights(archive(tmp_path / "a.pth", raw))


def test_foreign_safetensors(tmp_path):
    arrays = {"module.a": np.ones((2, 3), np.float16), "module.n.num_batches_tracked": np.array(7)}
    save_file(arrays, tmp_path / "a.pth", metadata={"format": "pt"})
    model = fake_model(a=(2, 3))
    assert load_weights(model, tmp_path / "a.pth") is None and model.state_dict()["a"].value.all()


def test_a_safetensors_header_may_begin_like_a_pickle(tmp_path):
    # 8 bytes of length, the header, the values; 0x80 is a pickle's first byte
    for length in range(54, 900):
        header = b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}'.ljust(length)
        if length % 256 == 0x80:
            raw = struct.pack("<Q", length) + header + struct.pack("<f", 2.5)
            (tmp_path / "a").write_bytes(raw)
            assert read_weights(tmp_path / "a")[0]["a"] == 2.5


def test_our_own_keep_names_and_header(tmp_path):
    save(tmp_path / "a.pth", {"module.a": np.ones(3)}, {"epoch": 1})
    weights, header = read_weights(tmp_path / "a.pth")
    assert set(weights) == {"module.a"} and header == {"epoch": 1}
    assert load(tmp_path / "a.pth")[1] == header


def test_the_header_is_insisted_on_where_it_is_needed(tmp_path):
    with pytest.raises(DataError, match="not a readable safetensors checkpoint"):
        load(archive(tmp_path / "a.pth", {"a": tensor()}))


# --------------------------------------------------------------------------------- what is refused
def refused(path, model=None):
    """The one line with which `path` is refused; nothing is assigned, nothing on disk changes."""
    model = model or fake_model(a=(2, 3))
    before = {p: p.read_bytes() for p in path.parent.iterdir() if p.is_file()}
    with pytest.raises(DataError) as error:
        load_weights(model, path)
    assert not any(var.assigned for var in model.state_dict().values())
    assert {p: p.read_bytes() for p in path.parent.iterdir() if p.is_file()} == before
    line = str(error.value)
    assert line.startswith(f"{path}: ") and "\n" not in line and len(line) < 600 and line.isascii()
    return line[len(f"{path}: "):]


def proto4(*parts):
    return b"\x80\x04" + b"".join(parts) + b"."


def short(text):
    return b"\x8c" + bytes([len(text)]) + text.encode()


COMMAND = "touch canary"
NAMED = [  # what the file tries to use, and the pickle that tries
    ("os.system", Call("os system", (COMMAND,))),
    ("posix.system", Call("posix system", (COMMAND,))),
    ("builtins.eval", Call("builtins eval", ("open('canary', 'w')",))),
    ("__builtin__.eval", Call("__builtin__ eval", ("open('canary', 'w')",))),
    ("builtins.getattr", Call("builtins getattr", (Name("os path"), "os"))),
    ("os.path", {"a": tensor(), "b": Name("os path")}),
    ("collections._sys", Name("collections _sys")),
    ("collections.OrderedDict.__init__", Name("collections OrderedDict.__init__")),
    ("collections.abc", Name("collections abc")),
    ("torch.load", Call("torch load", ("other.pth",))),
    ("torch.FloatStorage.from_file", Name("torch FloatStorage.from_file")),
    ("torch._utils._rebuild_sparse_tensor", Name("torch._utils _rebuild_sparse_tensor")),
    ("torch.serialization.os.system", Name("torch.serialization os.system")),
    ("nets.torch_format.np", Name("nets.torch_format np")),
    ("os.FloatStorage", Name("os FloatStorage")),
    ("unet.unet_model.UNet", Call("unet.unet_model UNet", (), {"training": True})),
    ("numpy.core.multiarray.scalar",
     {"a": tensor(), "best": Call("numpy.core.multiarray scalar", ("f8", "12345678"))}),
    ("os.system", b"\x80\x02(X\x0c\x00\x00\x00touch canaryios\nsystem\n."),  # INST
    ("os.system", b"\x80\x02(cos\nsystem\nX\x0c\x00\x00\x00touch canaryo."),  # OBJ
    ("os.system", b"\x80\x02cos\nsystem\nX\x0c\x00\x00\x00touch canary\x85\x81."),  # NEWOBJ
    # STACK_GLOBAL
    ("os.system", proto4(short("os"), short("system"), b"\x93", short(COMMAND), b"\x85R")),
    ("os.system", proto4(short("torch"), b"0", short("os"), short("system"), b"\x93")),
    ("'x\\x1b]0;.y'", Name("x\x1b]0; y")),
    ("'\\u8bd5.y'", proto4(b"\x8c\x03" + "试".encode(), short("y"), b"\x93")),
]


@pytest.mark.parametrize("used, data", NAMED)
def test_names_what_a_pickle_tries_to_use(tmp_path, monkeypatch, write, used, data):
    monkeypatch.chdir(tmp_path)
    line = refused(write(tmp_path / "a.pth", data))
    assert line.startswith("not a plain PyTorch state dict: it tries to use ") and used in line
    assert line.endswith("save net.state_dict() alone with torch.save")


REBUILD, NEW = "torch._utils _rebuild_tensor_v2", Call("collections OrderedDict", ())
TYPE = Name("torch FloatStorage")
STORAGE = Persistent(("storage", TYPE, "0", "cpu", 6))
IMPOSSIBLE = [
    *(tensor(**view) for view in (
        dict(offset=-1), dict(offset=1), dict(offset=2 ** 62), dict(offset=1.0), dict(offset=None),
        dict(offset=True), dict(shape=(2, 4)), dict(shape=(-2, 3)), dict(shape=(2,)),
        dict(shape=[2, 3]), dict(shape=6), dict(shape="ab"), dict(shape=(True, 3)),
        dict(shape=(2.0, 3)), dict(shape=((2,), 3)), dict(shape=(2 ** 40, 2 ** 40)),
        dict(strides=(-3, 1)), dict(strides=(4, 1)), dict(strides=(2 ** 63, 1)),
        dict(strides=("3", 1)), dict(shape=(2 ** 31, 2 ** 31), strides=(0, 0)),
        dict(shape=(2 ** 29,), strides=(0,)), dict(shape=(1,) * 33, strides=(1,) * 33),
        dict(shape=(0, -1)), dict(shape=(2 ** 31,) * 32, strides=(0,) * 32), dict(size=5),
        dict(size=-6), dict(size=6.0), dict(size="6"), dict(size=2 ** 61), dict(size=None),
        dict(size=2 ** 70), dict(key=0), dict(storage=REBUILD))),
    *(Call(REBUILD, (storage, 0, (2, 3), (3, 1), False, NEW)) for storage in (
        "0", None, Name(REBUILD), ("storage", TYPE, "0", "cpu", 6), Persistent(None),
        Persistent("storage"), Persistent(("module", TYPE, "0", "cpu", 6)),
        Persistent(["storage", TYPE, "0", "cpu", 6]), Persistent(("storage", TYPE, "0", "cpu")),
        *(Persistent(("storage", kind, "0", "cpu", 6)) for kind in (
            "no type", "O", "U4", "f4,f4", "", None, 4, Name(REBUILD), ("f4",))))),
    # the view of the last but one is too small for the tensor
    *(tensor(shape=(2,), strides=(1,), view=view) for view in (
        (("1", -1, 2),), (("1", 5, 2),), (("1", 2 ** 62, 2),), (("1", 0, -1),), (("1", 0, 7),),
        (("1", 0.0, 2),), (("1", 0, None),), (("1", True, 2),), ((None, None, None),), ("abc",),
        (("1", 0, 1),), (None, None))),
]
WILD = [
    *({"a": tensor(key=key)} for key in ("1", "../../data.pkl", "/etc/passwd", "", "x" * 5000)),
    {"a": Call(REBUILD, ())}, {"a": Call(REBUILD, (STORAGE, 0))}, {"a": Call(REBUILD, (None,) * 6)},
    {"a": Call(REBUILD, (STORAGE,) * 6)},
    {"a": Call("torch._utils _rebuild_parameter", (1, True, NEW))},
    {"a": Call("torch._utils _rebuild_parameter", ())},
    {"a": Call("collections OrderedDict", ([["a", 1]],))},
    {"a": Call("torch FloatStorage", (10 ** 12,))},
    {"a": Call(REBUILD, (STORAGE, 0, (2, 3), (3, 1), False, NEW), {"shape": (9, 9)})},
    {"a": tensor(size=7)}, {"a": tensor(storage="torch DoubleStorage")},
    *({"a": tensor(view=view)} for view in ((3,), ((),), (("1", 0),), (("1", 0, 6, 0),))),
    {"a": STORAGE}, {}, [], [tensor()], tensor(), None, 3, "words", {1: tensor()},
    {("a",): tensor()},
    {"state_dict": {}}, {"state_dict": {"a": [1, 2]}}, {"rubbish": {"a": tensor()}},
    Name(REBUILD), TYPE,
    b"", b".", b"\x80\x02.", b"\x80\x02N", b"\x80\x63N.", b"These are words.", b"\x80\x02}Xab.",
    b"\x80\x02(((((((t.",
    b"\x80\x02Nr\x00\x00\x00\x7f.", b"\x80\x02Np99999999999\n.", b"\x80\x02h\x09.",
    b"\x80\x02\x82\x01.",
    proto4(b"\x95" + b"\xff" * 8), proto4(b"\x96" + struct.pack("<Q", 2 ** 40)),
    proto4(b"\x8d" + b"\xff" * 7 + b"\x7f"),
    b"\x80\x02" + opcodes(Name(REBUILD)) + b"N}X\x08\x00\x00\x00__code__Ns\x86b.",
    b"\x80\x02" + opcodes(Name("collections OrderedDict")) + b"N}X\x04\x00\x00\x00copyNs\x86b.",
    b"\x80\x02" + opcodes(Name("collections OrderedDict")) + b")\x81.",
]


@pytest.mark.parametrize("value", IMPOSSIBLE)
def test_impossible_tensors(tmp_path, write, value):
    line = refused(write(tmp_path / "a.pth", {"a": value}))
    assert line.startswith("not a plain PyTorch state dict: ")


@pytest.mark.parametrize("data", WILD)
def test_wild_pickles(tmp_path, monkeypatch, write, data):
    monkeypatch.chdir(tmp_path)
    refused(write(tmp_path / "a.pth", data))


def test_a_pickle_changes_nothing_of_the_reader(tmp_path, write):
    for name in ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter",
                 "collections OrderedDict"):
        attributes = b"}" + opcodes("mark") + b"Ns"
        for state in (attributes, b"N" + attributes + b"\x86", attributes + b"N\x86"):
            refused(write(tmp_path / "a.pth", b"\x80\x02" + opcodes(Name(name)) + state + b"b."))
    for function in (*torch_pickle.FUNCTIONS.values(), torch_pickle.StateDict):
        assert not hasattr(function, "mark")


def test_many_views_of_little_are_refused_before_they_are_read(tmp_path, monkeypatch, write):
    data = {str(k): tensor(shape=(2 ** 20, 100), strides=(0, 0)) for k in range(6)}
    monkeypatch.setattr(torch_format, "_decode_values",
                        lambda *arguments: pytest.fail("read before it was checked"))
    assert "more than 2,147,483,648 bytes" in refused(write(tmp_path / "a.pth", data))


# A tuple of one tuple twice, of that twice, ...: to hash it, Python visits 2^60 numbers.
DOUBLED = {
    "DUP": b")" + b"2\x86" * 60,
    "GET": b")" + b"".join(b"q%c0h%ch%c\x86" % (k, k, k) for k in range(60)),
    "GET of a GET": b")q\x010" + b"".join(b"h%cq\x000h\x00h\x00\x86q%c0" % (k, k + 1)
                                         for k in range(1, 60)) + b"h\x3c",
    "MEMOIZE after POP": b")" + b"".join(b"N0\x940h%ch%c\x86" % (k, k) for k in range(60))}


@pytest.mark.parametrize("key", DOUBLED.values(), ids=DOUBLED)
def test_no_key_takes_for_ever_to_hash(tmp_path, write, key):
    line = refused(write(tmp_path / "a.pth", b"\x80\x04}" + key + b"Ns."))
    assert "the same tuples again and again" in line


def test_tuples_and_names_may_be_shared(tmp_path, write):
    """As 20 groups of an optimiser share their betas, and all tensors their storage's type."""
    groups = b"".join(b"X\x01\x00\x00\x00%ch\x01" % (97 + k) for k in range(20))
    betas = b"X\x05\x00\x00\x00betasK\x01K\x02\x86q\x01"
    data = b"\x80\x02}q\x00(X\x01\x00\x00\x00w" + opcodes(tensor()) + betas + groups + b"u."
    weights, _ = read_weights(write(tmp_path / "a.pth", data))
    assert list(weights) == ["w"]


def test_archives(tmp_path):
    path, good = tmp_path / "a.pth", {"a": tensor()}
    assert "has 25 bytes, more than 24" in refused(archive(path, good, {"0": bytes(25)}))
    assert "has 23 bytes instead of 24" in refused(archive(path, good, {"0": bytes(23)}))
    assert "archive/data/0" in refused(archive(path, good, {}))
    assert "is compressed" in refused(archive(path, good, compress=zipfile.ZIP_DEFLATED))
    assert "byte order" in refused(archive(path, good, byteorder=b"middle"))
    assert "'archive/byteorder'" in refused(archive(path, good, byteorder=b"little" * 1000))
    assert "has 0 data.pkl" in refused(archive(path, good, root="a/b"))
    with zipfile.ZipFile(archive(path, good), "a") as file:
        file.writestr("other/data.pkl", b"")
    assert "has 2 data.pkl" in refused(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "no weights")
    assert "has 0 data.pkl" in refused(path)
    assert "has 4,200,000 bytes" in refused(archive(path, bytes(4_200_000)))


def test_a_size_that_only_the_directory_claims(tmp_path):
    path = archive(tmp_path / "a.pth", {"a": tensor(size=2 ** 28, shape=(2 ** 28,), strides=(1,))})
    raw, name = bytearray(path.read_bytes()), b"archive/data/0"
    # of the central directory: compressed and true size stand at 20 and 24
    entry = raw.rindex(name) - 46
    raw[entry + 24:entry + 28] = struct.pack("<I", 2 ** 30)
    path.write_bytes(raw)
    refused(path)


def test_the_head_of_the_older_format(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, good = tmp_path / "a.pth", {"a": tensor()}
    for magic in (MAGIC + 1, 3, None, "words", tensor(), {"a": tensor()}):
        line = refused(stream(path, good, head=(magic, 1001, MACHINE)))
        assert "it is a pickle of something else" in line
    for version in (1000, 1002, None, "1001", 10 ** 100):
        line = refused(stream(path, good, head=(MAGIC, version, MACHINE)))
        assert "the version of its format is unknown" in line
    refused(stream(path, good, head=(MAGIC, 1001)))
    refused(stream(path, good, head=(MAGIC, 1001, MACHINE, MACHINE)))
    bombs = (b"\x80\x02Nr\x00\x00\x00\x7f.", b"\x80\x02Np99999999999\n.")
    system = dump(Call("os system", (COMMAND,)))
    for place in range(3):
        for begin in ([*(MAGIC, 1001, MACHINE)[:place], bomb] for bomb in (*bombs, system)):
            head = [begin[k] if k < len(begin) else MACHINE for k in range(3)]
            line = refused(stream(path, good, head=head))
            assert "numbers an object" in line or "tries to use 'os.system'" in line
    for bomb in (*bombs, system):
        line = refused(stream(path, good, keys=bomb))
        assert "numbers an object" in line or "tries to use 'os.system'" in line
    refused(stream(path, {**good, "notes": "x" * 4_200_000}))  # more than MAX_PICKLE


def test_the_storages_of_the_older_format(tmp_path):
    path, good = tmp_path / "a.pth", {"a": tensor(), "b": tensor("1", 2, 0, (2,), (1,))}
    storages = {**VALUES, "1": np.ones(2, "<f4")}
    for keys in ([], ["0"], ["0", "2"], ["0", "1", "2"], ["0", "0"], ["0", "1", "1"], [0, 1],
                 ["0", None], {"0": 1, "1": 1}, "01", ("0", "1"), dump(None)):
        line = refused(stream(path, good, storages, keys=keys))
        assert "lists other storages than it describes" in line
    refused(stream(path, good, storages, keys=["0", []]))
    for twin in (tensor(size=7), tensor(storage="torch IntStorage")):
        for keys in (["0"], ["0", "0"]):
            assert "other storages" in refused(stream(path, {"a": tensor(), "b": twin}, keys=keys))
    damaged = "not a readable PyTorch file, truncated or damaged ("
    for key, size in (("0", 5), ("0", 7), ("0", -6), ("0", 2 ** 62), ("0", 6 << 32),
                      ("1", 0), ("1", 6)):
        line = refused(stream(path, good, storages, sizes={key: size}))
        assert line.startswith(f"{damaged}no storage '{key}' where")
    line = refused(stream(path, good, storages, keys=["1", "0"]))
    assert line.startswith(f"{damaged}no storage '1' where")
    assert " bytes instead of " in refused(stream(path, {"a": tensor(size=2 ** 31)}))
    whole = stream(path, good, storages).read_bytes()
    for garbage in (b"\0", b"x" * 100, whole):
        path.write_bytes(whole + garbage)
        sizes = f"{len(whole + garbage):,} bytes instead of {len(whole):,})"
        assert refused(path).startswith(damaged + sizes)


def test_a_damaged_older_file(tmp_path):
    part = tensor("1", 3, 1, (2,), (1,), view=(("9", 0, 3),))
    data = Entries({"a": tensor(), "b": part, "m": [0, 255]})
    path = stream(tmp_path / "a.pth", data, {**VALUES, "1": np.ones(3, "<f4")})
    whole, model = path.read_bytes(), fake_model(a=(2, 3), b=(2,))
    for length in range(9, len(whole)):
        path.write_bytes(whole[:length])
        assert refused(path).startswith("not a readable PyTorch file, truncated or damaged (")
    for place in range(len(whole)):  # one byte turned: read or refused, never another error
        for mask in (1, 0x20, 0x80, 0xff):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1:])
            try:
                load_weights(model, path)
            except DataError as error:
                assert "\n" not in str(error)


def test_truncated_and_damaged_files(tmp_path):
    path = write_pth(tmp_path / "a.pth", {"a": np.ones((2, 3), "<f4"), "b": np.ones(200, "<f4")})
    whole = path.read_bytes()
    for length in range(5, len(whole), 31):
        path.write_bytes(whole[:length])
        assert refused(path).startswith("not a readable PyTorch file, truncated or damaged (")
    rng, model = np.random.default_rng(0), fake_model(a=(2, 3), b=(200,))
    for _ in range(400):  # one byte turned: read or refused, never another error
        raw = bytearray(whole)
        raw[rng.integers(len(raw))] = rng.integers(256)
        path.write_bytes(raw)
        try:
            load_weights(model, path)
        except DataError as error:
            assert "\n" not in str(error)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_damaged_pickles(tmp_path):
    good = b"\x80\x02" + opcodes(Entries({"a": tensor(), "m": [0, 255]})) + b"."
    for length in range(len(good)):
        refused(archive(tmp_path / "a.pth", good[:length]))
    rng, model = np.random.default_rng(0), fake_model(a=(2, 3))
    for _ in range(400):
        raw = bytearray(good)
        raw[rng.integers(len(raw))] = rng.integers(256)
        try:
            load_weights(model, archive(tmp_path / "a.pth", bytes(raw)))
        except DataError as error:
            assert "\n" not in str(error)


def tar():
    """A tar archive, PyTorch's first format."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("sys_info"))
    return file.getvalue()


class Trap:
    def __reduce__(self):
        return os.system, (COMMAND,)


@pytest.mark.parametrize("raw, words", [
    (b"These are words, not weights.\n", "not a readable safetensors checkpoint"),
    (b"", "not a readable safetensors checkpoint"),
    (b"PK", "not a readable safetensors checkpoint"),
    (b"PK\x03\x04", "not a readable PyTorch file, truncated or damaged ("),
    (tar(), "not a readable safetensors checkpoint"),
    (pickle.dumps(Trap()), "it tries to use 'posix.system'"),
    (pickle.dumps({"a": [1.5]}), "it is a pickle of something else"),
    (pickle.dumps(MAGIC, 2), "not a readable PyTorch file, truncated or damaged ("),
])
def test_other_files(tmp_path, monkeypatch, raw, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.pth").write_bytes(raw)
    assert words in refused(tmp_path / "net.pth")
    assert "no such checkpoint" in refused(tmp_path / "other.pth")
    assert "no such checkpoint" in refused(tmp_path)


def test_safetensors_of_a_type_that_numpy_lacks(tmp_path):
    header = b'{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    (tmp_path / "a").write_bytes(struct.pack("<Q", len(header)) + header + b"\x80\x3f")
    assert "bfloat16" in refused(tmp_path / "a")


def test_other_weights_are_listed_and_none_assigned(tmp_path):
    arrays = {"a": np.ones((2, 4), "<f4"), "c": np.ones(1, "<f4"), "d": np.ones(1, "<f4")}
    line = refused(write_pth(tmp_path / "a.pth", arrays), fake_model(a=(2, 3), b=(1,), c=(1,)))
    assert line == ("not the weights of this net: missing b; unexpected d; "
                    "a has shape [2, 4], the net wants [2, 3]")


def test_reads_without_torch(tmp_path, monkeypatch, write):
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it fails
    assert read_weights(write(tmp_path / "a.pth", {"a": tensor()}))[0]["a"].shape == (2, 3)


@pytest.mark.parametrize("net, options, shapes, parameters", PUBLIC)
def test_the_rules_above_give_the_known_counts(net, options, shapes, parameters):
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    counts = [np.prod(shape) for name, shape in shapes.items() if not name.endswith(statistics)]
    assert sum(counts) == parameters


@pytest.mark.jittor
@pytest.mark.parametrize("net, options, shapes, _", PUBLIC)
def test_public_weights(tmp_path, build, net, options, shapes, _):
    """Every tensor is one number, repeated by strides of 0, so that the file stays small.

    None is left out.

    U-2-Net's are in the older format.
    """
    write = stream if net[0].startswith("U2net") else archive
    state = {name: tensor("0", len(shapes), k, shape, (0,) * len(shape))
             for k, (name, shape) in enumerate(shapes.items())}
    values = np.arange(len(shapes), dtype="<f4") / len(shapes)
    path = write(tmp_path / "net.pth", Entries({**state, "mask_values": [0, 1]}), {"0": values})
    model = build(*net, **options)
    assert load_weights(model, path) is None
    loaded = {name: var.numpy() for name, var in model.state_dict().items()}
    for value, (name, shape) in zip(values, shapes.items()):
        if not name.endswith("num_batches_tracked"):
            assert loaded[name].shape == shape and (loaded.pop(name) == value).all()
    assert not loaded
