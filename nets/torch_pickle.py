"""The pickles in PyTorch's files, read without running anything that they hold.

A pickle may name any function for Python to call.  This reader knows only the few names that
`torch.save` writes for a state dict.  Each stands for an object of its own here, which merely
describes a tensor.  Any other name is refused.
"""
import io
import math
import pickle
import pickletools
from typing import NamedTuple

import numpy as np

MAX_PICKLE = 2 ** 22  # bytes of data.pkl, or of all pickles of a stream: thirty times U-2-Net's
MAX_BYTES = 2 ** 31   # of all values together: ten times U-2-Net in double precision
MAX_DIMENSIONS = 32   # NumPy's own limit
# Tuples of one tuple twice, of that tuple twice, and so on, take 2^n steps to hash.  So what may be
# a tuple may be used again this often, in the whole pickle:
MAX_SHARED = 40
PUSHES_NO_TUPLE = {"BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "GLOBAL", "STACK_GLOBAL",
                   "EMPTY_DICT", "EMPTY_LIST", "BINPERSID", "REDUCE"}

# bfloat16, which NumPy lacks, is the upper half of a float32.
DTYPES = {"FloatStorage": "f4", "HalfStorage": "f2", "DoubleStorage": "f8",
          "BFloat16Storage": "bfloat16", "LongStorage": "i8", "IntStorage": "i4",
          "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
          "UntypedStorage": "u1"}


class Refused(Exception):
    """A file that is no plain state dict.  The message says what is wrong with it."""


class Storage(NamedTuple):
    """A flat array of the file."""
    key: str    # by which it is found
    dtype: str  # a value of DTYPES
    size: int   # how many values it has

    def itemsize(self):
        """Bytes of a value."""
        return 2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize

    def nbytes(self):
        """Bytes of all values."""
        return self.size * self.itemsize()


class StorageSlice(NamedTuple):
    """Consecutive values of a storage: all of them, but for files of the first PyTorch versions."""
    storage: Storage
    start: int  # its first value
    size: int   # how many values


class Tensor(NamedTuple):
    """A view of a storage.  Offset and strides count values, as PyTorch's do."""
    storage: Storage
    offset: int     # of its first value
    shape: tuple
    strides: tuple  # as many as the shape has sides


# ------------------------------------------------------------------------------ what it may name
def _is_count(value):
    return type(value) is int and 0 <= value <= MAX_BYTES


def _rebuild_tensor(part, offset, shape, strides, *_):
    """Stand for torch._utils._rebuild_tensor and _rebuild_tensor_v2: describe a Tensor.

    part: a StorageSlice, within which the view has to lie.  Further arguments (requires_grad,
    hooks, metadata) do not matter here.
    """
    are_tuples = isinstance(shape, tuple) and isinstance(strides, tuple)
    if (not isinstance(part, StorageSlice) or not are_tuples
            or not all(map(_is_count, (offset, *shape, *strides)))
            or not len(shape) == len(strides) <= MAX_DIMENSIONS):
        raise Refused("a tensor of it has an impossible shape, stride or offset")
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides))
    if math.prod(shape) and last >= part.size:
        raise Refused(f"a tensor of shape {list(shape)} reaches beyond its {part.size:,} values")
    return Tensor(part.storage, part.start + offset, shape, strides)


def _rebuild_parameter(data, requires_grad, hooks):
    """Stand for torch._utils._rebuild_parameter: its tensor."""
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


# -------------------------------------------------------------------------------------- the pickle
class StateUnpickler(pickle.Unpickler):
    """Unpickles dicts, lists, tuples, numbers, strings and descriptions of tensors.

    Raises Refused at anything else.
    """

    def __init__(self, data):
        super().__init__(io.BytesIO(data))
        self.storages = set()  # all that the pickle describes, used or not

    def find_class(self, module, name):
        """What stands here for a name of the pickle."""
        if module in ("torch", "torch.storage") and name in DTYPES:
            return DTYPES[name]
        if (module, name) not in FUNCTIONS:
            raise Refused(f"it tries to use {f'{module}.{name}'[:100]!a}")
        function = FUNCTIONS[module, name]
        # A new function: a pickle can set attributes of what it is given.
        return lambda *arguments: function(*arguments)

    def persistent_load(self, pid):
        """The StorageSlice that ("storage", type, key, device, size) names: a whole storage.

        The older format adds a view, None or (a key of its own, start, size).  That shows a part.
        """
        if not (isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage"):
            raise Refused("it refers to something that is no storage")
        _, dtype, key, _, size = pid[:5]
        if not (type(dtype) is str and dtype in DTYPES.values() and type(key) is str
                and _is_count(size)):
            raise Refused("a storage of it has an impossible type, key or size")
        _, start, length = (key, 0, size) if pid[5:] in ((), (None,)) else pid[5]
        if not (_is_count(start) and _is_count(length) and start + length <= size):
            raise Refused("a part of a storage of it has an impossible start or size")
        storage = Storage(key, dtype, size)
        self.storages.add(storage)
        return StorageSlice(storage, start, length)


def _check_cost(opcodes):
    """Refuse a pickle whose few bytes would take Python much memory or time.

    opcodes: as of pickletools.genops.
    """
    memo, shared, previous = {}, 0, ""
    for opcode, argument, position in opcodes:
        # Python reserves memory up to the highest number of an object.
        if "PUT" in opcode.name and int(argument) > position:
            raise Refused(f"its pickle numbers an object {argument}")
        if "PUT" in opcode.name or opcode.name == "MEMOIZE":
            number = len(memo) if argument is None else int(argument)
            memo[number] = previous in PUSHES_NO_TUPLE
        elif "GET" in opcode.name and not memo.get(int(argument)):
            shared += 1
        elif opcode.name == "DUP":
            shared += 1
        if shared > MAX_SHARED:
            raise Refused("its pickle uses the same tuples again and again")
        previous = opcode.name


def read_pickle(stream):
    """Read the next pickle of a BytesIO: (what it holds, the set of Storages that it describes).

    Leaves the stream behind the pickle.
    """
    start = stream.tell()
    _check_cost(pickletools.genops(stream))
    unpickler = StateUnpickler(stream.getbuffer()[start:stream.tell()])
    return unpickler.load(), unpickler.storages
