"""In how many pixels a net's masks in bf16 are those in float32.

    python benchmarks/Agreement.py --Checkpoint runs/*/best_model.safetensors \
        --Input data/ISBC2012/test/imgs

Predict.py predicts all images twice for each checkpoint.  Prints the share of equal pixels for each
image.  Ends with exit code 1 where it is below --share for one of them.  Needs a CPU with
avx512_bf16.
"""
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import Root  # noqa: F401 - puts the repository's root on the path

from backend.precision import NEEDS, has_bf16
from command.errors import DataError, run
from command.flags import Parser, number
from images.reading import read_image

WORDS = ("float32", "bf16")  # of --precision
PREDICT = Path(__file__).resolve().parent.parent / "Predict.py"


def build_parser():
    parser = Parser("Print in how many pixels masks predicted in bf16 equal those in float32.")
    add = parser.add_argument
    add("--Checkpoint", type=Path, nargs="+", required=True, metavar="path",
        help="trained nets: weights of Main.py, or of others")
    add("--Input", type=Path, nargs="+", required=True, metavar="path",
        help="images of one page each, or folders of them")
    add("--share", type=number(float, 0, 1.0001), default=0.999,
        help="share of equal pixels that each image must reach for exit code 0")
    return parser


def predict_in(word, checkpoint, inputs, folder):
    """Predict images in a precision into a folder: {file name: mask}."""
    command = [sys.executable, PREDICT, "--Checkpoint", checkpoint, "--Input", *inputs,
               "--Result_directory", folder, "--precision", word, "--device", "cpu"]
    done = subprocess.run(list(map(str, command)), text=True, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise DataError(f"{checkpoint}: {lines[-1]}")
    return {path.name: read_image(path) for path in sorted(folder.glob("*_pred.*"))}


def equal_shares(checkpoint, inputs):
    """The share of equal pixels of each image's two masks: {file name: share}."""
    with tempfile.TemporaryDirectory() as scratch:
        exact, rounded = (predict_in(word, checkpoint, inputs, Path(scratch, word))
                          for word in WORDS)
    return {name: float(np.mean(mask == rounded[name])) for name, mask in exact.items()}


def main():
    args = build_parser().parse_args()
    if not has_bf16():
        raise DataError(f"bf16: {NEEDS['bf16'].missing}")
    lowest = []
    for checkpoint in args.Checkpoint:
        shares = equal_shares(checkpoint, args.Input)
        print(f"{checkpoint}: equal pixels of {len(shares)} images: least "
              f"{min(shares.values()):.5f}, mean {np.mean([*shares.values()]):.5f}")
        for name, share in shares.items():
            print(f"  {share:.5f}  {name}", flush=True)
        lowest.append(min(shares.values()))
    enough = min(lowest) >= args.share
    print(f"{'All' if enough else 'Not all'} images have {args.share:.2%} equal pixels or more")
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(run(main))
