"""The CPU's kernels (backend/kernels/*.h), compiled by g++, called by ctypes with arrays."""
import ctypes
import hashlib
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT

KERNELS = ROOT / "backend" / "kernels"
CHANNELS = 16  # of a group, in channels_last.h
TYPES = {"float": np.float32, "vectors::Bf16": np.uint16}  # C++'s and NumPy's element types
# The most that a sum may be off, as a share of the sum of magnitudes.  A bf16 number has 8 bits.
LIMITS = {"float": 1e-6, "vectors::Bf16": 2 ** -8}
THREADS = 1, 2, 3


def has_bf16():
    """Whether this processor multiplies bf16 numbers."""
    return "avx512_bf16" in Path("/proc/cpuinfo").read_text()


# For a test of both element types.
ELEMENTS = ["float", pytest.param("vectors::Bf16", marks=pytest.mark.skipif(
    not has_bf16(), reason="this processor does not multiply bf16 numbers"))]


def compile_kernels(source, folder, flags=()):
    """A ctypes library of C++, compiled as Jittor does: its `extern "C"` functions call kernels.

    source: C++ that includes files of backend/kernels by their names.  It also gets the function
    use_threads(n).  folder: where the library is written, once for each source.  flags: more for
    g++.
    """
    text = source + '\n#include <omp.h>\nextern "C" void use_threads(int n) ' \
                    '{ omp_set_num_threads(n); }\n'
    name = hashlib.sha256((text + "".join(flags)).encode()).hexdigest()[:16]
    path, library = folder / f"{name}.cc", folder / f"{name}.so"
    if not library.exists():
        path.write_text(text)
        done = subprocess.run(
            [os.environ.get("cc_path") or "g++", "-std=c++14", "-march=native", *flags, "-Ofast",
             "-fopenmp", "-Wall", "-Werror", "-shared", "-fPIC", f"-I{KERNELS}", str(path), "-o",
             str(library)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


def address(array):
    """An array's address for C++, None for no array."""
    if array is None:
        return None
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def encoded(values, element):
    """float32 numbers as elements: themselves, or the bits of the nearest bf16 numbers."""
    values = np.ascontiguousarray(values, np.float32)
    if element == "float":
        return values
    bits = values.view(np.uint32)
    nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(values), 0x7fc0, nearest).astype(np.uint16)


def decoded(elements):
    """The float32 numbers of elements."""
    if elements.dtype == np.float32:
        return elements
    return (elements.astype(np.uint32) << 16).view(np.float32)


def channels_last(values, element):
    """An array (n, h, w, channels) of elements, with padding channels of zeros."""
    padding = -values.shape[-1] % CHANNELS
    return encoded(np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, padding)]), element)


def same_for_any_threads(library, run):
    """The arrays that run() returns, after it gave the same bits for 1, 2 and 3 threads."""
    results = []
    for threads in THREADS:
        library.use_threads(threads)
        results.append([np.array(array) for array in run()])
    for result in results[1:]:
        assert all(first.tobytes() == other.tobytes() for first, other in zip(results[0], result))
    return results[0]
