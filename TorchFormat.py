"""PyTorch's state dicts (`.pth`, `.pt`) as NumPy arrays: without PyTorch, and running nothing that a file holds.

Such a file is a zip archive of `<name>/data.pkl`, a pickle of the dict in which each tensor is (storage, offset, shape,
strides), and of `<name>/data/<key>`, the values of each storage.  A pickle may name any function for Python to call.
This reader knows only the few names that `torch.save` writes for a state dict, gives each an object of its own that
merely describes a tensor, and stops at any other name.  Values are read once every description has been checked.
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
MAX_PICKLE = 2 ** 22  # bytes of data.pkl: thirty times that of U-2-Net
MAX_BYTES = 2 ** 31  # of all values together: ten times U-2-Net in double precision
MAX_DIMENSIONS = 32  # NumPy's own limit

# bfloat16, which NumPy lacks, is the upper half of a float32
DTYPES = {"FloatStorage": "f4", "HalfStorage": "f2", "DoubleStorage": "f8", "BFloat16Storage": "bfloat16",
          "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1",
          "BoolStorage": "?", "UntypedStorage": "u1"}

WRAPPERS = ("state_dict", "model_state_dict", "model")  # where training scripts put the state dict inside a dict


class Refused(Exception):
    """A file that is no plain state dict: the message says in what."""


class Storage(NamedTuple):
    """A flat array of the archive: `size` values of `dtype` (a value of DTYPES) in `data/<key>`."""
    key: str
    dtype: str
    size: int

    def itemsize(self):
        return 2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize


class Tensor(NamedTuple):
    """A view of a storage; offset and strides count values, as PyTorch does."""
    storage: Storage
    offset: int
    shape: tuple
    strides: tuple


# ---------------------------------------------------------------------------------------------------------- the pickle
def _is_count(value):
    return type(value) is int and 0 <= value <= MAX_BYTES


def _rebuild_tensor(storage, offset, shape, strides, requires_grad, hooks, metadata=None):
    """Stands for torch._utils._rebuild_tensor_v2: checks that the view lies within its storage, and describes it."""
    counts = isinstance(shape, tuple) and isinstance(strides, tuple) and all(map(_is_count, (offset, *shape, *strides)))
    if not isinstance(storage, Storage) or not counts or not len(shape) == len(strides) <= MAX_DIMENSIONS:
        raise Refused("a tensor of it has an impossible shape, stride or offset")
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides))
    if math.prod(shape) and last >= storage.size:
        raise Refused(f"a tensor of shape {list(shape)} reaches beyond its {storage.size:,} values")
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(data, requires_grad, hooks):
    """Stands for torch._utils._rebuild_parameter."""
    return data


class StateDict(dict):
    """Stands for collections.OrderedDict."""
    __slots__ = ()

    def __setstate__(self, state):
        """Forget the attributes of a state dict (`_metadata`): only its entries are needed."""


FUNCTIONS = {("collections", "OrderedDict"): StateDict,
             ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
             ("torch._utils", "_rebuild_parameter"): _rebuild_parameter}


class StateUnpickler(pickle.Unpickler):
    """Unpickles dicts, lists, tuples, numbers, strings and descriptions of tensors; raises Refused at anything else."""

    def find_class(self, module, name):
        if module in ("torch", "torch.storage") and name in DTYPES:
            return DTYPES[name]
        if (module, name) not in FUNCTIONS:
            raise Refused(f"it tries to use {f'{module}.{name}'[:100]!a}")
        function = FUNCTIONS[module, name]
        return lambda *arguments: function(*arguments)  # a new one: a pickle can set attributes of what it is given

    def persistent_load(self, pid):
        """The storage that ("storage", type, key, device, size) names."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"):
            raise Refused("it refers to something that is no storage")
        _, dtype, key, _, size = pid
        if not (type(dtype) is str and dtype in DTYPES.values() and type(key) is str and _is_count(size)):
            raise Refused("a storage of it has an impossible type, key or size")
        return Storage(key, dtype, size)


def _unpickle(data):
    for opcode, argument, _ in pickletools.genops(data):
        if "PUT" in opcode.name and int(argument) > len(data):  # Python reserves memory up to the highest number
            raise Refused(f"its pickle numbers an object {argument}")
    return StateUnpickler(io.BytesIO(data)).load()


# --------------------------------------------------------------------------------------------------------- the archive
def _record(archive, name, size):
    """The bytes of one file of the archive, at most `size`."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:  # torch.save never compresses: no file can grow when it is read
        raise Refused(f"{name[:100]!a} is compressed")
    if info.file_size > size:
        raise Refused(f"{name[:100]!a} has {info.file_size:,} bytes, more than {size:,}")
    return archive.read(info)


def _values(archive, root, storage, order):
    """The values of a storage as a flat array, of native byte order; order: '<' or '>'."""
    size = storage.size * storage.itemsize()
    raw = _record(archive, f"{root}data/{storage.key}", size)
    if len(raw) < size:
        raise Refused(f"its storage {storage.key[:100]!a} has {len(raw):,} bytes instead of {size:,}")
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


def _read(archive):
    """{name: array} of an open archive."""
    pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise Refused(f"its archive has {len(pickles)} data.pkl instead of one")
    root = pickles[0][:-len("data.pkl")]
    state = _unpickle(_record(archive, pickles[0], MAX_PICKLE))
    order = _record(archive, f"{root}byteorder", 6) if f"{root}byteorder" in archive.namelist() else b"little"
    if order not in (b"little", b"big"):
        raise Refused("its byte order is unknown")
    tensors = plain_names(tensors_of(state))
    storages = {tensor.storage for tensor in tensors.values()}
    wanted = sum(storage.size * storage.itemsize() for storage in storages)
    wanted += sum(math.prod(tensor.shape) * tensor.storage.itemsize() for tensor in tensors.values())
    if wanted > MAX_BYTES:
        raise Refused(f"its tensors take more than {MAX_BYTES:,} bytes")
    values = {storage: _values(archive, root, storage, "<" if order == b"little" else ">") for storage in storages}
    return {name: _view(values[tensor.storage], tensor) for name, tensor in tensors.items()}


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

    Raises DataError for whatever is not one in zip format, and for a file that asks for anything beyond tensors.
    """
    path = Path(path)
    with open(path, "rb") as file:
        if file.read(4) != ZIP:
            raise DataError(f"{path}: a pickle as PyTorch wrote before 1.6; convert it with PyTorch: "
                            f"torch.save(torch.load({path.name!a}, weights_only=True), {f'new-{path.name}'!a})")
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive)
    except Refused as refused:
        raise DataError(f"{path}: not a plain PyTorch state dict: {refused}; "
                        "save net.state_dict() alone with torch.save") from None
    except Exception as error:  # noqa: BLE001 - of a damaged file zipfile and pickle raise almost any
        detail = " ".join(ascii(str(error))[1:-1].split())[:200]
        raise DataError(f"{path}: not a readable PyTorch file, truncated or damaged ({detail}); "
                        "download or save it again") from None
