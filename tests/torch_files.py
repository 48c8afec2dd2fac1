"""PyTorch's files written by hand, opcode by opcode, and the names of public weights."""
import pickle
import struct
import zipfile
from typing import Any, NamedTuple

import numpy as np


# ---------------------------------------------------------------------- a `.pth`, opcode by opcode
class Name(NamedTuple):
    """A global of the pickle: 'module name'."""
    text: str


class Call(NamedTuple):
    """A global, called; attributes: what BUILD then gives its result."""
    name: str
    arguments: tuple
    attributes: Any = None


class Persistent(NamedTuple):
    """An object that lies outside the pickle."""
    id: Any


class Entries(NamedTuple):
    """An OrderedDict of a dict, with a state dict's _metadata."""
    items: dict


def opcodes(value):
    """The opcodes, of pickle protocol 2, that build a value."""
    if isinstance(value, Name):
        return b"c" + value.text.replace(" ", "\n").encode() + b"\n"
    if isinstance(value, Call):
        built = opcodes(value.attributes) + b"b" if value.attributes is not None else b""
        return opcodes(Name(value.name)) + opcodes(value.arguments) + b"R" + built
    if isinstance(value, Persistent):
        return opcodes(value.id) + b"Q"
    if isinstance(value, Entries):
        return (opcodes(Call("collections OrderedDict", ())) + b"(" + entries(value.items) + b"u"
                + opcodes({"_metadata": {"": {"version": 1}}}) + b"b")
    if isinstance(value, dict):
        return b"}(" + entries(value) + b"u"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(opcodes, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(opcodes, value)) + b"e"
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    return pickle.dumps(value, 2)[2:-1]  # numbers, True, False, None


def entries(items):
    return b"".join(opcodes(key) + opcodes(value) for key, value in items.items())


def tensor(key="0", size=6, offset=0, shape=(2, 3), strides=(3, 1), storage="torch FloatStorage",
           extra=(), view=()):
    """view: what the older format adds to the storage's id."""
    pid = Persistent(("storage", Name(storage), key, "cpu", size, *view))
    return Call("torch._utils _rebuild_tensor_v2",
                (pid, offset, shape, strides, False, Call("collections OrderedDict", ()), *extra))


VALUES = {"0": np.arange(6, dtype="<f4")}


def dump(data):
    """The bytes of a pickle, or of a pickle of what it shall hold."""
    return data if isinstance(data, bytes) else b"\x80\x02" + opcodes(data) + b"."


def archive(path, data, storages=VALUES, root="archive", byteorder=b"little",
            compress=zipfile.ZIP_STORED):
    """Write a zip archive as torch.save lays it out.

    data: the bytes of data.pkl, or what they shall hold.  storages: {key: array, or bytes}.
    """
    with zipfile.ZipFile(path, "w", compress) as file:
        file.writestr(f"{root}/data.pkl", dump(data))
        if byteorder is not None:
            file.writestr(f"{root}/byteorder", byteorder)
        for key, values in storages.items():
            file.writestr(f"{root}/data/{key}", bytes(memoryview(values)))
        file.writestr(f"{root}/version", b"3\n")
    return path


MAGIC = 0x1950a86a20f9469cfc6c
MACHINE = {"protocol_version": 1001, "little_endian": True,
           "type_sizes": {"short": 2, "int": 4, "long": 4}}


def stream(path, data, storages=VALUES, head=(MAGIC, 1001, MACHINE), keys=None, sizes=None):
    """Write the format before PyTorch 1.6: pickles, then storages.

    keys, sizes: what the file says instead of the truth.
    """
    keys, sizes = list(storages) if keys is None else keys, sizes or {}
    with open(path, "wb") as file:
        for value in (*head, data if isinstance(data, bytes) else older(data), keys):
            file.write(dump(value))
        for key, values in storages.items():
            file.write(struct.pack("<q", sizes.get(key, len(values))) + bytes(memoryview(values)))
    return path


def older(value):
    """A value as the older format has it: each id of a storage ends with None, or with its view."""
    if isinstance(value, Persistent) and isinstance(value.id, tuple) and len(value.id) == 5:
        return Persistent((*value.id, None))
    if isinstance(value, Call):
        return Call(value.name, older(value.arguments), value.attributes)
    if isinstance(value, Entries):
        return Entries(older(value.items))
    if isinstance(value, dict):
        return {key: older(entry) for key, entry in value.items()}
    return type(value)(map(older, value)) if type(value) in (tuple, list) else value


# ---------------------------------------------------------------------------------- public weights
def conv(name, out, into, side, bias=True):
    return {f"{name}.weight": (out, into, side, side), **({f"{name}.bias": (out,)} if bias else {})}


def norm(name, channels):
    parts = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{part}": (channels,) for part in parts}, f"{name}.num_batches_tracked": ()}


def milesial(n_channels, n_classes, bilinear):
    """{name: shape} of milesial/Pytorch-UNet's state dict.

    Its convolutions have no bias before a BatchNorm.
    """
    def double_conv(name, into, out, mid=None):
        name, mid = f"{name}.double_conv", mid or out
        return {**conv(f"{name}.0", mid, into, 3, False), **norm(f"{name}.1", mid),
                **conv(f"{name}.3", out, mid, 3, False), **norm(f"{name}.4", out)}
    shapes, factor = double_conv("inc", n_channels, 64), 2 if bilinear else 1
    for k, out in enumerate((128, 256, 512, 1024 // factor), 1):
        shapes.update(double_conv(f"down{k}.maxpool_conv.1", 2 ** (k + 5), out))
    for k, (into, out) in enumerate(((1024, 512), (512, 256), (256, 128), (128, 64)), 1):
        if not bilinear:  # a transposed convolution has its input channels first
            shapes.update({f"up{k}.up.weight": (into, into // 2, 2, 2),
                           f"up{k}.up.bias": (into // 2,)})
        last = out if k == 4 else out // factor
        shapes.update(double_conv(f"up{k}.conv", into, last, into // 2 if bilinear else None))
    return {**shapes, **conv("outc.conv", n_classes, 64, 1)}


U2NET = "1 7 3 32 64;2 6 64 32 128;3 5 128 64 256;4 4 256 128 512;5 4 512 256 512;" \
        "6 4 512 256 512;" \
        "5d 4 1024 256 512;4d 4 1024 128 256;3d 5 512 64 128;2d 6 256 32 64;1d 7 128 16 64"
U2NETP = "1 7 3 16 64;2 6 64 16 64;3 5 64 16 64;4 4 64 16 64;5 4 64 16 64;6 4 64 16 64;" \
         "5d 4 128 16 64;4d 4 128 16 64;3d 5 128 16 64;2d 6 128 16 64;1d 7 128 16 64"
SIDES = {"u2net": (64, 64, 128, 256, 512, 512), "u2netp": (64,) * 6}


def u2net(name):
    """{name: shape} of the authors' u2net.pth and u2netp.pth: 3 channels, 1 class.

    Their tables: stage, height, input, middle and output channels.
    """
    shapes = {}
    for row in (U2NET if name == "u2net" else U2NETP).split(";"):
        stage, height, into, mid, out = (int(word) if word.isdigit() and k else word
                                         for k, word in enumerate(row.split()))
        channels = {"in": (into, out), "1": (out, mid),
                    **{str(k): (mid, mid) for k in range(2, height + 1)},
                    **{f"{k}d": (2 * mid, mid) for k in range(2, height)}, "1d": (2 * mid, out)}
        for part, (first, last) in channels.items():
            prefix = f"stage{stage}.rebnconv{part}"
            shapes.update({**conv(f"{prefix}.conv_s1", last, first, 3),
                           **norm(f"{prefix}.bn_s1", last)})
    for k, channels in enumerate(SIDES[name], 1):
        shapes.update(conv(f"side{k}", 1, channels, 3))
    return {**shapes, **conv("outconv", 1, 6, 1)}


# A net of ours, its options, the public state dict, the parameters that the public net has.
PUBLIC = [
    (("Unet", 3, 2), dict(padding=1, conv_bias=False, align_corners=True),
     milesial(3, 2, True), 17_263_042),
    (("Unet", 3, 2), dict(padding=1, conv_bias=False, bilinear=False),
     milesial(3, 2, False), 31_037_698),
    (("U2net", 3, 1), {}, u2net("u2net"), 44_009_869),
    (("U2netS", 3, 1), {}, u2net("u2netp"), 1_131_181),
]
