"""Which of our own operators may run: switched on, on this device, and proved there.

Importing this module does not import Jittor.
"""
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

from backend import start

CUDA_KERNEL_NAMES = ("convolution", "batch_norm", "max_pool", "resize", "join", "update")

_wanted = ContextVar("kernels_wanted", default=True)
_tried = ContextVar("cuda_kernels_tried", default=None)


@contextmanager
def without_kernels():
    """`with without_kernels():` run Jittor's own operators alone, layer by layer."""
    token = _wanted.set(False)
    try:
        yield
    finally:
        _wanted.reset(token)


@contextmanager
def trying_cuda_kernels(names=CUDA_KERNEL_NAMES):
    """`with trying_cuda_kernels():` use these on a GPU, whether they have passed there or not."""
    token = _tried.set(frozenset(names))
    try:
        yield
    finally:
        _tried.reset(token)


def on_gpu():
    """Whether Jittor runs on a GPU."""
    return bool(start.jt.flags.use_cuda)


def kernels_suit(x):
    """Whether the CPU's kernels can work on this Var: float32, on the CPU, and not switched off."""
    return _wanted.get() and x.dtype == "float32" and not on_gpu()


def cuda_kernel_suits(name, x):
    """Whether a kernel of CUDA_KERNEL_NAMES can work on this Var and has passed on this GPU."""
    if not (on_gpu() and _wanted.get() and x.dtype == "float32"):
        return False
    tried = _tried.get()
    return name in (_passed() if tried is None else tried)


@cache
def _passed():
    """`start.trusted_kernels()`, asked once: every layer of every step wants to know."""
    return start.trusted_kernels()
