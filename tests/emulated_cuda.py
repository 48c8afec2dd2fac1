"""CUDA kernels on the CPU, through tests/cuda_emulator.h: compiled by g++, called by ctypes."""
import ctypes
import hashlib
import os
import subprocess
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

import numpy as np
from helpers import ROOT

CUDA_KERNELS = ROOT / "backend" / "kernels" / "cuda"
MARGIN = 64  # numbers before and after a guarded array


def compile_emulated(source, folder):
    """A ctypes library of C++: its `extern "C"` functions may launch kernels.

    source: C++ that includes files of backend/kernels/cuda by their names.  Each compiles after
    cuda_emulator.h.  folder: where the library is written, once for each source.
    """
    text = ('#include "cuda_emulator.h"\n' + source
            + '\nextern "C" void run_backwards(int yes) { cuda_emulator::reversed = yes; }\n')
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    path, library = folder / f"{name}.cc", folder / f"{name}.so"
    if not library.exists():
        path.write_text(text)
        done = subprocess.run(
            [os.environ.get("cc_path") or "g++", "-std=c++14", "-O2", "-Wall", "-Werror",
             "-Wno-unused-function", "-Wno-unknown-pragmas", "-shared", "-fPIC",
             f"-I{ROOT / 'tests'}", f"-I{CUDA_KERNELS}", str(path), "-o", str(library)],
            capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


class Guarded:
    """A float32 array with NaN on both sides: a kernel that reads there shows it.

    values: its content; a shape alone means NaN everywhere.  shift: numbers by which it begins
    later than a multiple of 64 bytes.
    """
    MARK = np.uint32(0x7fc0dead)  # a NaN that no calculation makes

    def __init__(self, values, shift=0):
        if isinstance(values, tuple):
            values = np.full(values, np.nan, np.float32)
        size = values.size
        buffer = np.empty(2 * MARGIN + shift + size + 16, np.uint32)
        first = -buffer.ctypes.data // 4 % 16
        self.whole = buffer[first:]
        self.whole[:] = self.MARK
        self.start = MARGIN + shift
        self.array = self.whole[self.start:self.start + size].view(np.float32).reshape(values.shape)
        self.array[...] = values
        self.size = size

    @property
    def pointer(self):
        return ctypes.c_void_p(self.array.ctypes.data)

    def unharmed(self):
        """Whether nothing was written beside the array."""
        around = self.whole[:self.start], self.whole[self.start + self.size:]
        return all((part == self.MARK).all() for part in around)


class FakeCudnn:
    """cuDNN's three operators of a convolution, put together from Jittor's."""

    @staticmethod
    def cudnn_conv(x, weight, *numbers):
        from backend.start import nn
        stride, padding, dilation = numbers[:2], numbers[2:4], numbers[4:6]
        return nn.conv2d(x, weight, None, stride, padding, dilation, numbers[6])

    @classmethod
    def cudnn_conv_backward_x(cls, weight, gradient, height, width, *numbers):
        from backend.start import jt
        channels = weight.shape[1] * numbers[6]
        x = jt.zeros((gradient.shape[0], channels, height, width))
        return jt.grad((cls.cudnn_conv(x, weight.detach(), *numbers) * gradient).sum(), x)

    @classmethod
    def cudnn_conv_backward_w(cls, x, gradient, rows, columns, *numbers):
        from backend.start import jt
        weight = jt.zeros((gradient.shape[1], x.shape[1] // numbers[6], rows, columns))
        return jt.grad((cls.cudnn_conv(x.detach(), weight, *numbers) * gradient).sum(), weight)


def run_emulated(name, source, shapes, inputs, gradients=(), **data):
    """backend.cuda_operators.cuda_code on the CPU."""
    from backend.cuda_operators import includes
    from backend.start import jt
    headers = f'#include "{ROOT / "tests" / "cuda_emulator.h"}"\n' + includes(name)
    return jt.code(shapes, ["float32"] * len(shapes), inputs, cpu_header=headers,
                   cpu_src=source, cpu_grad_src=list(gradients),
                   data={key: float(value) for key, value in data.items()})


@contextmanager
def cuda_kernels_on_cpu(names):
    """`with ...:` the operators take the CUDA kernels `names`, and the emulator runs them."""
    from backend import cuda_operators, kernel_choice
    from backend.start import jt
    with (mock.patch.object(kernel_choice, "on_gpu", lambda: True),
          mock.patch.object(jt, "cudnn", SimpleNamespace(ops=FakeCudnn)),
          mock.patch.object(cuda_operators, "cuda_code", run_emulated),
          kernel_choice.trying_cuda_kernels(names)):
        yield
