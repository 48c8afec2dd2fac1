"""The command line of `python Model.py`.

It is here, because Model.py itself needs Jittor.  Importing this module does not import it.
"""
import argparse
import contextlib
import sys
from pathlib import Path

from backend import start
from backend.doctor import examine
from backend.doctor_step import STEP_WAYS, save_taken, take_step
from backend.summary import print_summary
from command.errors import run
from command.flags import Parser

SIDES = {"Unet": 572, "U2net": 320, "U2netS": 320}  # px: as in the papers


def build_parser():
    parser = Parser("Print the layer table of each net: output shapes, parameters, memory.")
    parser.add_argument("--doctor", action="store_true",
                        help="instead, say what is installed and what a run uses, take a training "
                             "step on the CPU and on a GPU that is there, and compare them; exit "
                             "code 0 only where they agree")
    # how --doctor calls itself: the way and the file to write
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    return parser


def start_command():
    """Begin `python Model.py`: read the command line, then import Jittor, which the nets need.

    So --help answers at once, and where Jittor cannot start, one line says why.  In these two cases
    the process ends here, with its exit code; with --doctor too.
    """
    args = build_parser().parse_args()
    if args.doctor:
        sys.exit(run(examine))

    def prepare():
        if args.step:
            word, path = args.step
            with report_error(path):
                start.import_jittor(STEP_WAYS[word].device, STEP_WAYS[word].exact)
        else:
            start.import_jittor()

    code = run(prepare)
    if code:
        sys.exit(code)


def run_command(build_model):
    """What `python Model.py` does once Jittor runs.  build_model: Model.build_model."""
    args = build_parser().parse_args()
    if args.step:
        word, path = args.step
        with report_error(path):
            save_taken(path, take_step(STEP_WAYS[word], build_model))
        return
    for mode, side in SIDES.items():
        print(f"\n{mode}: 1 input channel, 2 classes, {side} x {side} px")
        print_summary(build_model(mode, 1, 2), (1, side, side))


@contextlib.contextmanager
def report_error(path):
    """`with report_error(path):` an error's first line is also written beside `path`, as .txt."""
    try:
        yield
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        Path(path).with_suffix(".txt").write_text(first[:300], "utf-8")
        raise
