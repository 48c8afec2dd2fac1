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
import zipfile
from pathlib import Path

import numpy as np

from command.errors import DataError
from nets.torch_pickle import MAX_BYTES, MAX_PICKLE, Refused, Tensor, _unpickle

ZIP = b"PK\x03\x04"  # how a zip archive begins
MAGIC, VERSION = 0x1950a86a20f9469cfc6c, 1001  # with which the older format begins

WRAPPERS = ("state_dict", "model_state_dict", "model")  # where training scripts put the state dict inside a dict


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
