"""--precision: how many digits the factors of a convolution's products keep.

float32: all 24 bits of them.  tf32: a GPU's tensor cores round them to 11 bits.  Sums stay in
float32.  Importing this module does not import Jittor.
"""
from backend.graphics_card import find_graphics_card

PRECISIONS = ("float32", "tf32")
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
    """Whether the GPU computes in TF32 unless that is forbidden.  False where there is none."""
    card = find_graphics_card()
    return card is not None and card.has_tf32
