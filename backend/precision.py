"""--precision: how many digits the factors of a convolution's products keep.

float32: all 24 bits of them.  tf32: a GPU's tensor cores round them to 11 bits.  bf16: a CPU keeps
what passes from layer to layer in bfloat16, with 8 bits.  Weights, sums and BatchNorm's statistics
stay in float32.  Importing this module does not import Jittor.
"""
import os
from pathlib import Path
from typing import NamedTuple

from command.hardware import ask_driver

FIRST_WITH_TF32 = 80  # compute capability 8.0
PRECISIONS = ("float32", "tf32", "bf16")
ON_GPU = ("float32", "tf32")
PROCESSORS = Path("/proc/cpuinfo")


class Need(NamedTuple):
    """What a precision needs."""
    device: str   # the one of --device that may have it
    where: str    # the same, for people
    missing: str  # what to say where it is not there


NEEDS = {"tf32": Need("cuda", "a GPU", "there is no GPU with TF32 here"),
         "bf16": Need("cpu", "a CPU", "it needs a CPU with avx512_bf16, and no GPU")}


def add_precision_flag(add, more=""):
    """Add --precision to a command; add: `add_argument` of its parser.  more: ends its help."""
    add("--precision", choices=("auto", *PRECISIONS), default="auto",
        help="float32: full float32; tf32: a GPU's tensor cores round the factors of products to "
             "11 bits; bf16: a CPU with avx512_bf16 keeps 8 bits of them, weights and sums in "
             f"float32; auto: tf32 on a GPU that has it, else float32{more}")


def refuse_on_device(precision, device, parser):
    """End with exit code 2 where a --device cannot have the precision."""
    need = NEEDS.get(precision)
    if need and device not in ("auto", need.device):
        parser.error(f"--precision {precision}: only {need.where} has it; with --device {device} "
                     "leave it out")


def find_precisions(is_gpu):
    """The words of PRECISIONS that this machine's CPU has, or its first GPU: a tuple."""
    has = {"float32": True, "tf32": is_gpu and has_tf32(), "bf16": not is_gpu and has_bf16()}
    return tuple(word for word in PRECISIONS if has[word])


def has_tf32():
    """Whether the first GPU multiplies in TF32 where it may.  False where there is none."""
    driver, _ = ask_driver()
    is_forbidden = os.environ.get("NVIDIA_TF32_OVERRIDE") == "0"
    return bool(driver) and driver.cards[0].capability >= FIRST_WITH_TF32 and not is_forbidden


def has_bf16():
    """Whether the processor multiplies numbers of bfloat16 (avx512_bf16)."""
    try:
        return "avx512_bf16" in PROCESSORS.read_text().split()
    except OSError:  # another system than Linux
        return False


def element_type(precision):
    """What a net keeps its activations in: the value of its attribute of this name."""
    return "bfloat16" if precision == "bf16" else "float32"
