"""On a device: check, measure and train, each in less than ten minutes, in any order.

    python benchmarks/Gpu.py check      # doctor, tests on a GPU, alignment in float32 and TF32
    python benchmarks/Gpu.py bench      # ours beside PyTorch, training and prediction
    python benchmarks/Gpu.py train --Data_directory data/ISBC2012 --mode Unet

`make gpu-check`, `make gpu-bench` and `make gpu-train` call it.  All write into one folder:
gpu.json (a record of each step), gpu.log (what the steps printed), summary.md (all results).  Each
goes on where an earlier call has stopped: a step that has passed on this card is not repeated.
"""
import sys
import time
from pathlib import Path

import Root  # noqa: F401 - puts the repository's root on the path
from GpuPlan import START, bench_steps, check_steps, start_step, train_step
from GpuRace import STEPS
from GpuSteps import PASSED, Records, in_order, run_in_time, run_step
from GpuSummary import write_summary

from command.errors import DataError, run
from command.files import lock_folder, make_folder
from command.flags import Parser, number
from nets.catalogue import CATALOGUE


def build_parser():
    parser = Parser("Check, measure or train on a GPU, and go on where an earlier call stopped.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add_command(name, make_steps, summary):
        """Add a subcommand; make_steps: a function (args, Records, seconds left) -> steps."""
        child = commands.add_parser(name, help=summary,
                                    description=f"{summary[0].upper()}{summary[1:]}.")
        child.set_defaults(make_steps=make_steps)
        child.add_argument("--Result_directory", type=Path, default=Path("results/gpu"),
                           help="folder of the records, the log and the summary")
        child.add_argument("--minutes", type=number(float, 0, include_low=False), default=9.5,
                           help="minutes after which the command ends")
        return child.add_argument

    add_command("check", steps_of_check,
                "start, doctor, tests on the GPU, alignment in float32 and in TF32")
    add = add_command("bench", steps_of_bench, "time ours beside the PyTorch of this Python")
    add("--modes", nargs="+", choices=tuple(CATALOGUE), default=tuple(CATALOGUE), help="nets")
    add("--batches", nargs="+", type=int, choices=tuple(STEPS), default=tuple(STEPS),
        help="images of a step")
    add = add_command("train", steps_of_train, "train one net by the clock")
    add("--Data_directory", type=Path, default=Path("data/ISBC2012"),
        help="folder of the data set, with {train,test}/{imgs,labels}")
    add("--mode", choices=tuple(CATALOGUE), default="Unet", help="the net to train")
    add("--Time_budget", type=number(float, 0, include_low=False), default=8.0, metavar="MINUTES",
        help="minutes of the training, fewer where fewer are left")
    add("--plain", action="store_true", help="train by Main.py's defaults, not by --protocol fast")
    return parser


def steps_of_check(_args, records, _left):
    return list(check_steps(records.folder / "alignment"))


def steps_of_bench(args, _records, _left):
    return list(bench_steps(args.modes, args.batches))


def steps_of_train(args, records, left):
    return [train_step(records, args.Data_directory.resolve(), args.mode, args.Time_budget,
                       args.plain, left)]


def run_plan(args, records, deadline):
    """Start Jittor on the GPU, then run the steps that have not passed: those that still have not.

    deadline: of time.monotonic().
    """
    begin = start_step()
    print(f"{begin.title} ...", flush=True)
    started = run_step(begin, records.log, deadline - time.monotonic(), "")
    if started["state"] != PASSED:
        raise DataError(f"Jittor does not start on a GPU: {started['reason']} ({records.log})")
    card = started["values"]["card"]
    records.enter(START, {**started, "card": card})
    print(f"{card}, started in {started['seconds']:.0f} s", flush=True)
    steps = args.make_steps(args, records, deadline - time.monotonic())
    for step in in_order(steps, records, card):
        run_in_time(step, records, card, deadline)
        write_summary(records)
    return in_order(steps, records, card)


def main():
    deadline = time.monotonic()
    args = build_parser().parse_args()
    deadline += 60 * args.minutes
    folder = make_folder(args.Result_directory).resolve()
    with lock_folder(folder):
        records = Records(folder)
        waiting = run_plan(args, records, deadline)
    print(f"Written: {records.summary}, {records.path}, {records.log}")
    if waiting:
        print(f"Not passed: {', '.join(step.title for step in waiting)}.  Another call goes on.")
    return 1 if waiting else 0


if __name__ == "__main__":
    sys.exit(run(main))
