"""How far Jittor's own operators are from PyTorch's, and how far ours are.

    python alignment/Operators.py

Prints a table.  Ends with exit code 1 where one of ours is further from PyTorch than float32
explains.  The cases are in OperatorCases.py.
"""
import sys

import Root  # noqa: F401 - puts the repository's root on the path

from backend import start
from command.errors import run
from command.flags import Parser

FLOAT32 = 1e-5  # relative distance that rounding alone explains in these small cases


def build_parser():
    return Parser("Print how far Jittor's own operators, and ours, are from PyTorch's.")


def main():
    build_parser().parse_args()
    start.import_jittor()  # before PyTorch, which would load libgomp first
    from OperatorCases import OPERATOR_CASES, relative_distance
    print(f"{'largest difference from PyTorch, relative':<44}{'Jittor alone':>14}{'ours':>12}")
    sound = True
    for name, case in OPERATOR_CASES.items():
        results = case()
        jittor = relative_distance(results.jittor, results.pytorch)
        ours = relative_distance(results.ours, results.pytorch)
        sound &= ours <= FLOAT32
        print(f"{name:<44}{jittor:>14.1e}{ours:>12.1e}")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(run(main))
