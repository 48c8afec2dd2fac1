"""Ours and its PyTorch twin, number by number: same weights, same batches, no dropout.

    python alignment/Compare.py --mode Unet             # also U2netS, U2net
    python alignment/Compare.py --mode Unet --base_channels 16 --tile 64 --epochs 2     # in small
    python alignment/Compare.py --device cuda --precision tf32      # ours on a GPU

The twin always runs on the CPU.  Double precision is compared on the CPU alone, and what rounding
to TF32 does is shown, not judged.  Prints a table.  Writes it, and a picture, into
`--Result_directory`.  Ends with exit code 1 where a difference is larger than wanted.
"""
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import Root  # noqa: F401 - puts the repository's root on the path
from Comparisons import compare_batches, compare_in_double, compare_parameters, compare_steps
from DistanceTable import DistanceTable
from Experiment import Experiment
from ShortTraining import best_record, compare_training, train_all_shortly
from Sides import Sides

from backend import start
from backend.precision import ON_GPU, refuse_on_device
from command.errors import run
from command.files import atomic_write, make_folder
from command.flags import Parser, boolean, number
from masks.pixel_scores import SCORES
from nets.catalogue import CATALOGUE
from runs.curves import comparison_figure, draw_scores

BATCHES = 5  # that are examined in single precision


class Comparison(NamedTuple):
    """What `compare_sides` has found."""
    table: DistanceTable
    losses: Sides    # of lists: the loss of each Adam step
    histories: dict  # {name: records} of the short training; empty without one


def build_parser():
    parser = Parser("Compare ours with its PyTorch twin: activations, loss, gradients, Adam "
                    "steps, scores, speed.")
    add = parser.add_argument
    add("--mode", choices=tuple(CATALOGUE), default="Unet", help="net to compare")
    add("--base_channels", type=number(int, 2), default=64,
        help="channels of the U-Net's first level")
    add("--bilinear", type=boolean, default=True,
        help="how the U-Net up-samples; True: bilinear, False: transposed convolutions")
    add("--steps", type=number(int, 1), default=20, help="number of Adam steps to compare")
    add("--epochs", type=number(int, 0), default=3,
        help="epochs of the short training; 0: none")
    add("--tile", type=number(int, 16),
        help="side of the training crops, in pixels (default: whole images)")
    add("--n_channels", type=int, choices=(1, 3), default=1, help="channels of the images")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where ours runs")
    add("--precision", choices=ON_GPU, default=ON_GPU[0],
        help="of the convolutions; tf32: on a GPU, with factors rounded to 11 bits")
    add("--Data_directory", type=Path, default=Path("./data/sample"),
        help="folder of the data set, with {train,test}/{imgs,labels}")
    add("--Result_directory", type=Path, default=Path("./docs"),
        help="folder for the table and the picture")
    return parser


def compare_sides(experiment):
    """Make all comparisons: a Comparison."""
    steps, device = experiment.args.steps, experiment.args.device
    table = DistanceTable(experiment.title(), is_judged=experiment.args.precision == "float32")
    compare_parameters(table, experiment.sides(0))
    if device == "cpu":
        compare_in_double(table, experiment)
    else:
        table.say(f"convolutions of ours in {experiment.args.precision}; double precision is "
                  "compared on a CPU alone")
    batches = experiment.batches(max(BATCHES, steps))
    compare_batches(table, experiment, batches[:BATCHES])
    losses, histories = compare_steps(table, experiment, batches[:steps]), {}
    if experiment.args.epochs:
        histories = train_all_shortly(experiment)
        compare_training(table, histories, experiment.baseline)
    return Comparison(table, losses, histories)


def draw_alignment(path, what, comparison, baseline):
    """Draw the loss of every step, the scores after each epoch, and a table of the best epochs."""
    histories, losses = comparison.histories, comparison.losses
    blue, red = "#1f77b4", "#c0392b"
    styles = dict(zip(histories, (
        {"color": blue, "linewidth": 3, "alpha": 0.5}, {"color": red},
        {"color": red, "linestyle": ":"}, {"color": red, "linestyle": "--"})))
    keys = ("train_loss", *(score.key for score in SCORES))
    rows = [["", "loss", *(score.title for score in SCORES)]]
    for name, records in histories.items():
        best = best_record(records)
        rows.append([name, *(f"{best[key]:.4f}" for key in keys)])
    with comparison_figure(path, histories) as axes:
        steps = axes[0, 0]
        steps.plot(losses.ours, color=blue, linewidth=3, alpha=0.5, label="Jittor")
        steps.plot(losses.twin, color=red, linewidth=1, label="PyTorch")
        steps.plot(losses.other, color=red, linewidth=1, linestyle=":",
                   label="PyTorch, weights changed in the last bit")
        steps.set(title=f"{what}: loss of each Adam step, from the same weights", xlabel="step",
                  ylabel="loss (nats per pixel)")
        steps.legend()
        draw_scores(axes, histories, styles, rows, baseline)


def main():
    parser = build_parser()
    args = parser.parse_args()
    refuse_on_device(args.precision, args.device, parser)
    start.check_machine(args.device)
    make_folder(args.Result_directory)
    with tempfile.TemporaryDirectory() as scratch:
        experiment = Experiment(args, scratch)
        start.import_jittor(args.device, exact=args.precision == "float32")
        comparison = compare_sides(experiment)
    stem = args.Result_directory / f"alignment_{experiment.data}_{args.mode}"
    draw_alignment(Path(f"{stem}.png"), f"{args.mode}, {experiment.data}", comparison,
                   experiment.baseline)
    with atomic_write(Path(f"{stem}.txt")) as temporary:
        temporary.write_text("\n".join(comparison.table.lines) + "\n")
    verdict = "Aligned" if comparison.table.sound else "NOT aligned"
    print(f"\n{verdict}: {stem}.png, {stem}.txt")
    return 0 if comparison.table.sound else 1


if __name__ == "__main__":
    sys.exit(run(main))
