"""The pickles in PyTorch's files, read without running anything of them."""
import io
import math
import pickle
import pickletools
from typing import NamedTuple

import numpy as np

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
