"""PyTorch's state dicts (`.pth`, `.pt`) as NumPy arrays.

It needs no PyTorch, and runs nothing that a file holds (nets/torch_pickle.py).

Such a file is a zip archive.  `<name>/data.pkl` is a pickle of the dict, in which each tensor is
(storage, offset, shape, strides).  `<name>/data/<key>` has the values of each storage.

Before PyTorch 1.6 it was a stream of pickles: a magic number, the format's version, facts about the
machine, the dict, and a list of the storages' keys.  Then follows each storage in the order of that
list: the number of its values, and the values.

Values are read once every description has been checked.
"""
import io
import math
import zipfile
from pathlib import Path

import numpy as np

from command.errors import DataError
from nets.others_names import NamedTensors, unwrap
from nets.torch_pickle import MAX_BYTES, MAX_PICKLE, Refused, Tensor, read_pickle

ZIP = b"PK\x03\x04"             # the first bytes of a zip archive
MAGIC = 0x1950a86a20f9469cfc6c  # the first pickle of the older format
PROTOCOL = 1001                 # its second


# ------------------------------------------------------------------------------------- the values
def _decode_values(raw, storage, order):
    """The values of a storage as a flat array of native byte order.

    raw: its bytes; order: their byte order, '<' or '>'.
    """
    if len(raw) < storage.nbytes():
        raise Refused(f"its storage {storage.key[:100]!a} has {len(raw):,} bytes "
                      f"instead of {storage.nbytes():,}")
    if storage.dtype == "bfloat16":
        halves = np.frombuffer(raw, f"{order}u2", storage.size)
        return (halves.astype(np.uint32) << 16).view(np.float32)
    values = np.frombuffer(raw, np.dtype(storage.dtype).newbyteorder(order), storage.size)
    return values.astype(storage.dtype, copy=False)


def _copy_view(values, tensor):
    """A contiguous copy of what a Tensor shows of the values of its storage."""
    strides = [stride * values.itemsize for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(values[tensor.offset:], tensor.shape, strides,
                                           writeable=False)
    return view.copy(order="C")


def _read_arrays(state, read, order):
    """The NamedTensors of an unpickled dict, of arrays.

    read: a function that gives the bytes of a storage; order: their byte order, '<' or '>'.
    """
    keys, tensors = find_state_dict(state)
    storages = {tensor.storage for tensor in tensors.values()}
    wanted = sum(storage.nbytes() for storage in storages)
    wanted += sum(math.prod(tensor.shape) * tensor.storage.itemsize()
                  for tensor in tensors.values())
    if wanted > MAX_BYTES:
        raise Refused(f"its tensors take more than {MAX_BYTES:,} bytes")
    values = {storage: _decode_values(read(storage), storage, order) for storage in storages}
    return NamedTensors(keys, {name: _copy_view(values[tensor.storage], tensor)
                            for name, tensor in tensors.items()})


# ------------------------------------------------------------------------------------ the archive
def _read_record(archive, name, size):
    """The bytes of one file of the archive, at most `size`."""
    info = archive.getinfo(name)
    # torch.save never compresses.  So no file can grow when it is read.
    if info.compress_type != zipfile.ZIP_STORED:
        raise Refused(f"{name[:100]!a} is compressed")
    if info.file_size > size:
        raise Refused(f"{name[:100]!a} has {info.file_size:,} bytes, more than {size:,}")
    return archive.read(info)


def _read_archive(file):
    """The NamedTensors of an open zip archive."""
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise Refused(f"its archive has {len(pickles)} data.pkl instead of one")
    root = pickles[0][:-len("data.pkl")]
    state, _ = read_pickle(io.BytesIO(_read_record(archive, pickles[0], MAX_PICKLE)))
    order = b"little"
    if f"{root}byteorder" in names:
        order = _read_record(archive, f"{root}byteorder", len(order))
    if order not in (b"little", b"big"):
        raise Refused("its byte order is unknown")

    def read(storage):
        return _read_record(archive, f"{root}data/{storage.key}", storage.nbytes())
    return _read_arrays(state, read, "<" if order == b"little" else ">")


# ------------------------------------------------------------------------------------- the stream
def _find_places(file, place, keys, storages):
    """{Storage: where in the file its values begin}.

    place: where the pickles end and the first listed storage begins.  keys: the list in the file.
    storages: those that its pickle describes.  Raises ValueError, as for any damage, where the file
    is shorter, longer or divided otherwise than the pickles say.
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
    """The NamedTensors of an open file of the older format.

    Its values are little-endian, whatever machine wrote them.
    """
    file.seek(0)
    stream = io.BytesIO(file.read(MAX_PICKLE))
    if read_pickle(stream)[0] != MAGIC:
        raise Refused("it is a pickle of something else")
    if read_pickle(stream)[0] != PROTOCOL:
        raise Refused("the version of its format is unknown")
    read_pickle(stream)  # the machine's byte order and sizes: they do not matter here
    state, storages = read_pickle(stream)
    keys, _ = read_pickle(stream)
    places = _find_places(file, stream.tell(), keys, storages)

    def read(storage):
        file.seek(places[storage])
        return file.read(storage.nbytes())
    return _read_arrays(state, read, "<")


def find_state_dict(state):
    """The NamedTensors of Tensors in what was unpickled."""
    if not isinstance(state, dict):
        raise Refused("it holds no dict")
    found = unwrap(state, Tensor)
    if not found.tensors:
        raise Refused("it holds no tensors by name")
    return found


# ----------------------------------------------------------------------------------------- a file
def is_torch(path):
    """Whether a file is a zip archive or a pickle, by its first bytes, whatever its name."""
    with open(path, "rb") as file:
        head = file.read(9)
    # A safetensors file begins with 8 bytes, the length of its header.  The first of them may be
    # that of a pickle.
    is_safetensors = head[8:] == b"{"
    is_pickle = head.startswith(b"\x80") and not is_safetensors
    return head.startswith(ZIP) or is_pickle


def read_state_dict(path):
    """The NamedTensors of a file of PyTorch, of arrays.

    bfloat16 becomes float32, other types stay.  Raises DataError for any other file, and for one
    that asks for anything but tensors.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            is_archive = file.read(len(ZIP)) == ZIP
            return _read_archive(file) if is_archive else _read_stream(file)
    except Refused as refused:
        raise DataError(f"{path}: not a plain PyTorch state dict: {refused}; "
                        "save net.state_dict() alone with torch.save") from None
    except Exception as error:  # noqa: BLE001 - zipfile and pickle raise almost any
        detail = " ".join(ascii(str(error))[1:-1].split())[:200]
        raise DataError(f"{path}: not a readable PyTorch file, truncated or damaged ({detail}); "
                        "download or save it again") from None
