"""Which of the libraries that Jittor computes with this process has loaded, and in what version."""
import contextlib
import ctypes
import re
from pathlib import Path
from typing import Callable, NamedTuple

from backend.cuda_toolkit import cuda_name


class Library(NamedTuple):
    """A library that the doctor names."""
    name: str          # for people
    files: str         # a pattern for the names of its files
    version: Callable  # the loaded library -> its version


def number_of(function):
    """The number that a function writes where its argument, a pointer, says."""
    number = ctypes.c_int()
    function(ctypes.byref(number))
    return number.value


def dotted(number, *units):
    """A version that is kept in one number: dotted(22705, 10_000, 100, 1) is '2.27.5'."""
    parts = []
    for unit in units:
        parts.append(str(number // unit))
        number %= unit
    return ".".join(parts)


def onednn_version(library):
    library.dnnl_version.restype = ctypes.POINTER(3 * ctypes.c_int)
    return ".".join(map(str, library.dnnl_version().contents))


def cudnn_version(library):
    number = library.cudnnGetVersion()
    return dotted(number, 10_000, 100, 1) if number >= 90_000 else dotted(number, 1000, 100, 1)


LIBRARIES = (
    Library("oneDNN", r"lib(dnnl|mkldnn)\.so.*", onednn_version),
    Library("CUDA runtime", r"libcudart\.so.*",
            lambda library: cuda_name(number_of(library.cudaRuntimeGetVersion))),
    Library("cuDNN", r"libcudnn\.so.*", cudnn_version),
    Library("NCCL", r"libnccl\.so.*",
            lambda library: dotted(number_of(library.ncclGetVersion), 10_000, 100, 1)),
)


def loaded_libraries():
    """{name: "version, path"} of the LIBRARIES that this process has loaded."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = sorted({Path(line.split(maxsplit=5)[5]) for line in lines if "/" in line})
    found = {}
    for row in LIBRARIES:
        for path in (path for path in paths if re.fullmatch(row.files, path.name)):
            with contextlib.suppress(OSError, AttributeError, ValueError):
                found[row.name] = f"{row.version(ctypes.CDLL(str(path)))}, {path}"
    return found
