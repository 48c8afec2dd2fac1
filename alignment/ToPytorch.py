"""Write a checkpoint's weights as a PyTorch state dict.

    python alignment/ToPytorch.py checkpoints/best_model.safetensors best_model.pth

`torch.load("best_model.pth", weights_only=True)` reads the file.  `load_state_dict` of a net with
the same names takes it as it is.  The way back needs no command: every command that reads a
checkpoint reads a `.pth` too.
"""
import sys
from pathlib import Path

import numpy as np
import Root  # noqa: F401 - puts the repository's root on the path

from command.errors import DataError, run
from command.files import atomic_write
from command.flags import Parser, file_named
from nets.checkpoint import read_weights


def with_counters(weights):
    """`weights` ({name: array}), and BatchNorm's `num_batches_tracked`, int64, as PyTorch has it.

    It is 0: Jittor does not count, and PyTorch reads it only where a BatchNorm's momentum is None.
    """
    counted = {}
    for name, array in weights.items():
        counted[name] = array
        if name.endswith("running_var"):
            counter = name.removesuffix("running_var") + "num_batches_tracked"
            counted[counter] = np.zeros((), np.int64)
    return counted


def build_parser():
    parser = Parser("Write a checkpoint's weights as a PyTorch state dict.")
    parser.add_argument("checkpoint", type=Path, help="checkpoint to read, .safetensors")
    parser.add_argument("output", type=file_named(".pth", ".pt"), help="file to write, .pth or .pt")
    return parser


def main():
    args = build_parser().parse_args()
    weights = with_counters(read_weights(args.checkpoint)[0])
    if not args.output.parent.is_dir():
        raise DataError(f"{args.output}: its folder does not exist; make it, or choose another")
    try:
        import torch
    except ImportError as error:
        raise DataError(f"PyTorch cannot be imported ({error}); pip install torch") from None
    state = {name: torch.from_numpy(array) for name, array in weights.items()}
    with atomic_write(args.output) as temporary, open(temporary, "wb") as file:
        torch.save(state, file)
    print(f"{args.output}: {len(state)} tensors")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
