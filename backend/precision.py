"""--precision: how many digits the factors of a convolution's products keep.

float32: all 24 bits of them.  tf32: a GPU's tensor cores round them to 11 bits.  Sums stay in
float32.  Importing this module does not import Jittor.
"""
import os
from pathlib import Path

from backend.machine import ask_driver

FIRST_WITH_TF32 = 80  # compute capability 8.0
PRECISIONS = ("float32", "tf32")
PROCESSORS = Path("/proc/cpuinfo")
NO_TF32 = "there is no GPU with TF32 here"


def add_precision_flag(add, more=""):
    """Add --precision to a command; add: `add_argument` of its parser.  more: ends its help."""
    add("--precision", choices=("auto", *PRECISIONS), default="auto",
        help="float32: full float32; tf32: a GPU's tensor cores round the factors of products to "
             f"11 bits; auto: tf32 on a GPU that has it, else float32{more}")


def refuse_tf32_on_cpu(precision, device, parser):
    """End with exit code 2 where a CPU is to compute in TF32."""
    if precision == "tf32" and device == "cpu":
        parser.error("--precision tf32: only a GPU has it; with --device cpu leave it out")


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
