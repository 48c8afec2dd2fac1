"""PyTorch's state dicts (`.pth`, `.pt`) as NumPy arrays: without PyTorch, and running nothing that a file holds.

Such a file is a zip archive of `<name>/data.pkl`, a pickle of the dict in which each tensor is (storage, offset, shape,
strides), and of `<name>/data/<key>`, the values of each storage.  Before PyTorch 1.6 it was a stream: pickles of a magic
number, of the format's version, of facts about the machine, of that dict and of a list of the storages' keys; then, in
the order of that list, of each storage the number of its values and they themselves.

A pickle may name any function for Python to call.  This reader knows only the few names that `torch.save` writes for a
state dict, gives each an object of its own that merely describes a tensor, and stops at any other name.  Values are read
once every description has been checked.
"""
import io
import math
import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from Common import DataError

ZIP = b"PK\x03\x04"  # how a zip archive begins
MAGIC, VERSION = 0x1950a86a20f9469cfc6c, 1001  # with which the older format begins
MAX_PICKLE = 2 ** 22  # bytes of data.pkl, or of a stream's pickles together: thirty times that of U-2-Net
MAX_BYTES = 2 ** 31  # of all values together: ten times U-2-Net in double precision
MAX_DIMENSIONS = 32  # NumPy's own limit
MAX_SHARED = 40  # uses of what may be a tuple, beyond its first: tuples of one tuple twice, and so on, hash in 2^n steps
PUSHES_NO_TUPLE = {"BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "GLOBAL", "STACK_GLOBAL", "EMPTY_DICT", "EMPTY_LIST",
                   "BINPERSID", "REDUCE"}

# bfloat16, which NumPy lacks, is the upper half of a float32
DTYPES = {"FloatStorage": "f4", "HalfStorage": "f2", "DoubleStorage": "f8", "BFloat16Storage": "bfloat16",
          "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1",
          "BoolStorage": "?", "UntypedStorage": "u1"}

WRAPPERS = ("state_dict", "model_state_dict", "model")  # where training scripts put the state dict inside a dict


class Refused(Exception):
    """A file that is no plain state dict: the message says in what."""


class Storage(NamedTuple):
    """A flat array of the file: `size` values of `dtype` (a value of DTYPES), found by `key`."""
    key: str
    dtype: str
    size: int

    def itemsize(self):
        return 2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize

    def nbytes(self):
        return self.size * self.itemsize()


class Part(NamedTuple):
    """`size` values of a storage from `start` on: all of it, but for files of the first PyTorch versions."""
    storage: Storage
    start: int
    size: int


class Tensor(NamedTuple):
    """A view of a storage; offset and strides count values, as PyTorch does."""
    storage: Storage
    offset: int
    shape: tuple
    strides: tuple


# ---------------------------------------------------------------------------------------------------------- the pickle
def _is_count(value):
    return type(value) is int and 0 <= value <= MAX_BYTES


def _rebuild_tensor(part, offset, shape, strides, *_):
    """Stands for torch._utils._rebuild_tensor and _rebuild_tensor_v2, whose further arguments (requires_grad, hooks,
    metadata) are no matter here: checks that the view lies within its part of a storage, and describes it."""
    counts = isinstance(shape, tuple) and isinstance(strides, tuple) and all(map(_is_count, (offset, *shape, *strides)))
    if not isinstance(part, Part) or not counts or not len(shape) == len(strides) <= MAX_DIMENSIONS:
        raise Refused("a tensor of it has an impossible shape, stride or offset")
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides))
    if math.prod(shape) and last >= part.size:
        raise Refused(f"a tensor of shape {list(shape)} reaches beyond its {part.size:,} values")
    return Tensor(part.storage, part.start + offset, shape, strides)


def _rebuild_parameter(data, requires_grad, hooks):
    """Stands for torch._utils._rebuild_parameter."""
    return data


class StateDict(dict):
    """Stands for collections.OrderedDict."""
    __slots__ = ()

    def __setstate__(self, state):
        """Forget the attributes of a state dict (`_metadata`): only its entries are needed."""


FUNCTIONS = {("collections", "OrderedDict"): StateDict,
             ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
             ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
             ("torch._utils", "_rebuild_parameter"): _rebuild_parameter}


class StateUnpickler(pickle.Unpickler):
    """Unpickles dicts, lists, tuples, numbers, strings and descriptions of tensors; raises Refused at anything else."""

    def __init__(self, data):
        super().__init__(io.BytesIO(data))
        self.storages = set()  # all that the pickle describes, used or not

    def find_class(self, module, name):
        if module in ("torch", "torch.storage") and name in DTYPES:
            return DTYPES[name]
        if (module, name) not in FUNCTIONS:
            raise Refused(f"it tries to use {f'{module}.{name}'[:100]!a}")
        function = FUNCTIONS[module, name]
        return lambda *arguments: function(*arguments)  # a new one: a pickle can set attributes of what it is given

    def persistent_load(self, pid):
        """The part of a storage that ("storage", type, key, device, size) names, all of it.

        The older format adds a view: None, or (key of its own, start, size), which shows only a part.
        """
        if not (isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage"):
            raise Refused("it refers to something that is no storage")
        _, dtype, key, _, size = pid[:5]
        if not (type(dtype) is str and dtype in DTYPES.values() and type(key) is str and _is_count(size)):
            raise Refused("a storage of it has an impossible type, key or size")
        _, start, length = (key, 0, size) if pid[5:] in ((), (None,)) else pid[5]
        if not (_is_count(start) and _is_count(length) and start + length <= size):
            raise Refused("a part of a storage of it has an impossible start or size")
        storage = Storage(key, dtype, size)
        self.storages.add(storage)
        return Part(storage, start, length)


def _check_cost(opcodes):
    """Refuse a pickle whose few bytes would take Python much memory or time, by its opcodes as of pickletools."""
    memo, shared, previous = {}, 0, ""
    for opcode, argument, position in opcodes:
        if "PUT" in opcode.name and int(argument) > position:  # Python reserves memory up to the highest number
            raise Refused(f"its pickle numbers an object {argument}")
        if "PUT" in opcode.name or opcode.name == "MEMOIZE":
            memo[len(memo) if argument is None else int(argument)] = previous in PUSHES_NO_TUPLE
        elif "GET" in opcode.name:
            shared += not memo.get(int(argument))
        shared += opcode.name == "DUP"
        if shared > MAX_SHARED:
            raise Refused("its pickle uses the same tuples again and again")
        previous = opcode.name


def _unpickle(stream):
    """(what the next pickle of a BytesIO holds, the storages that it describes); leaves the stream behind the pickle."""
    start = stream.tell()
    _check_cost(pickletools.genops(stream))
    unpickler = StateUnpickler(stream.getbuffer()[start:stream.tell()])
    return unpickler.load(), unpickler.storages


# ---------------------------------------------------------------------------------------------------------- the values
def _values(raw, storage, order):
    """The values of a storage, of its bytes, as a flat array of native byte order; order: '<' or '>'."""
    if len(raw) < storage.nbytes():
        raise Refused(f"its storage {storage.key[:100]!a} has {len(raw):,} bytes instead of {storage.nbytes():,}")
    if storage.dtype == "bfloat16":
        halves = np.frombuffer(raw, f"{order}u2", storage.size)
        return (halves.astype(np.uint32) << 16).view(np.float32)
    values = np.frombuffer(raw, np.dtype(storage.dtype).newbyteorder(order), storage.size)
    return values.astype(storage.dtype, copy=False)


def _view(values, tensor):
    """A contiguous copy of the part of its storage's values that a tensor shows."""
    strides = [stride * values.itemsize for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(values[tensor.offset:], tensor.shape, strides, writeable=False)
    return view.copy(order="C")


def _arrays(state, read, order):
    """{name: array} of an unpickled state dict; read(storage): the bytes of one."""
    tensors = plain_names(tensors_of(state))
    storages = {tensor.storage for tensor in tensors.values()}
    wanted = sum(storage.nbytes() for storage in storages)
    wanted += sum(math.prod(tensor.shape) * tensor.storage.itemsize() for tensor in tensors.values())
    if wanted > MAX_BYTES:
        raise Refused(f"its tensors take more than {MAX_BYTES:,} bytes")
    values = {storage: _values(read(storage), storage, order) for storage in storages}
    return {name: _view(values[tensor.storage], tensor) for name, tensor in tensors.items()}


# --------------------------------------------------------------------------------------------------------- the archive
def _record(archive, name, size):
    """The bytes of one file of the archive, at most `size`."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:  # torch.save never compresses: no file can grow when it is read
        raise Refused(f"{name[:100]!a} is compressed")
    if info.file_size > size:
        raise Refused(f"{name[:100]!a} has {info.file_size:,} bytes, more than {size:,}")
    return archive.read(info)


def _read_archive(file):
    """{name: array} of an open zip archive."""
    archive = zipfile.ZipFile(file)
    pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise Refused(f"its archive has {len(pickles)} data.pkl instead of one")
    root = pickles[0][:-len("data.pkl")]
    state, _ = _unpickle(io.BytesIO(_record(archive, pickles[0], MAX_PICKLE)))
    order = _record(archive, f"{root}byteorder", 6) if f"{root}byteorder" in archive.namelist() else b"little"
    if order not in (b"little", b"big"):
        raise Refused("its byte order is unknown")
    return _arrays(state, lambda storage: _record(archive, f"{root}data/{storage.key}", storage.nbytes()),
                   "<" if order == b"little" else ">")


# ---------------------------------------------------------------------------------------------------------- the stream
def _places(file, place, keys, storages):
    """{storage: where in the file its values begin}; place: the end of the pickles, where the first listed one begins.

    Raises ValueError, as for any damage, where the file is shorter, longer or divided otherwise than the pickles say.
    """
    by_key = {storage.key: storage for storage in storages}
    if not (isinstance(keys, list) and len(keys) == len(storages) == len(by_key.keys() & keys)):
        raise Refused("it lists other storages than it describes")
    end, places = place + sum(8 + storage.nbytes() for storage in storages), {}
    if file.seek(0, io.SEEK_END) != end:
        raise ValueError(f"{file.tell():,} bytes instead of {end:,}")
    for key in keys:
        file.seek(place)
        if int.from_bytes(file.read(8), "little") != by_key[key].size:
            raise ValueError(f"no storage {key[:100]!a} where its values should be")
        places[by_key[key]] = file.tell()
        place = file.tell() + by_key[key].nbytes()
    return places


def _read_stream(file):
    """{name: array} of an open file of the older format; its values are little-endian whatever machine wrote them."""
    file.seek(0)
    stream = io.BytesIO(file.read(MAX_PICKLE))
    if _unpickle(stream)[0] != MAGIC:
        raise Refused("it is a pickle of something else")
    if _unpickle(stream)[0] != VERSION:
        raise Refused("the version of its format is unknown")
    _unpickle(stream)  # the machine's byte order and sizes, which concern none of what follows
    state, storages = _unpickle(stream)
    keys, _ = _unpickle(stream)
    places = _places(file, stream.tell(), keys, storages)

    def read(storage):
        file.seek(places[storage])
        return file.read(storage.nbytes())
    return _arrays(state, read, "<")


# ----------------------------------------------------------------------------------------------------------- its names
def tensors_of(state):
    """The tensors of a state dict, or of the one in a wrapper, without what is no tensor (milesial's mask_values)."""
    if not isinstance(state, dict):
        raise Refused("it holds no dict")
    state = next((state[key] for key in WRAPPERS if isinstance(state.get(key), dict)), state)
    tensors = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise Refused("it holds no tensors by name")
    return tensors


def plain_names(state):
    """A {name: anything} without DataParallel's prefix and without BatchNorm's counters, which are no weights."""
    prefix = "module." if all(name.startswith("module.") for name in state) else ""
    names = {name: name[len(prefix):] for name in state}
    return {plain: state[name] for name, plain in names.items() if plain.split(".")[-1] != "num_batches_tracked"}


# ------------------------------------------------------------------------------------------------------------- a file
def is_torch(path):
    """Whether a file is a zip archive or a pickle by its first bytes; its name does not matter."""
    with open(path, "rb") as file:
        head = file.read(9)
    safetensors = head[8:] == b"{"  # after the length of its header, which may begin with the same byte as a pickle
    return head.startswith(ZIP) or head.startswith(b"\x80") and not safetensors


def read_state_dict(path):
    """{name: array} of a PyTorch state dict; bfloat16 becomes float32, other types stay.

    Raises DataError for whatever is not one, and for a file that asks for anything beyond tensors.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            return _read_archive(file) if file.read(len(ZIP)) == ZIP else _read_stream(file)
    except Refused as refused:
        raise DataError(f"{path}: not a plain PyTorch state dict: {refused}; "
                        "save net.state_dict() alone with torch.save") from None
    except Exception as error:  # noqa: BLE001 - of a damaged file zipfile and pickle raise almost any
        detail = " ".join(ascii(str(error))[1:-1].split())[:200]
        raise DataError(f"{path}: not a readable PyTorch file, truncated or damaged ({detail}); "
                        "download or save it again") from None
