"""Ours and its PyTorch twin, number by number: same weights, same batches, no dropout.

    python DataAugmentation.py --img_path data/sample/train/imgs --mask_path data/sample/train/labels
    python alignment/Compare.py --mode Unet                 (also U2netS, U2net)

Prints a table, writes it beside a picture into `--Result_directory`, and ends with exit code 1 where a difference is
larger than wanted.
"""
import itertools
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backend import start
from command.errors import run
from command.files import atomic_write, make_folder
from command.flags import Parser, boolean, number
from DataLoader import SegmentationSet, TrainingLoader
from datasets.pairs import check_pairs, find_pairs
from datasets.survey import dataset_statistics
from images.figures import figure
from masks.pixel_scores import constant_baselines, mean_scores, scores
from MirrorPadding import overlap_tile
from nets.geometry import geometry_of
from runs.curves import draw_scores

# biases whose gradient is 0 by mathematics: a BatchNorm takes the constant away again
BEFORE_BATCH_NORM = re.compile(r"(double_conv\.[03]|conv_s1|up\d\.up)\.bias$")
LEARNING_RATE = 1e-4  # a tenth of Main.py's: there a changed last bit grows to a percent of the loss within 10 steps
GRADIENTS = "gradients, of their norm"
WANTED = {"activations, of their range": 1e-4, "loss, relative": 1e-5, GRADIENTS: 1e-3,
          "biases before BatchNorm, of the largest gradient": 1e-6}
OWN = 10            # times PyTorch's own distance from itself that still count as rounding
LAST_BIT = 2.0 ** -23
BATCHES = 5         # that are examined in single precision
DOUBLE_TILE = 20    # px: side of the crops in double precision, for which Jittor has no fast convolutions


def parse_arguments():
    parser = Parser("Compare ours with its PyTorch twin: activations, loss, gradients, steps, scores, speed.")
    add = parser.add_argument
    add("--mode", choices=("Unet", "U2netS", "U2net"), default="Unet", help="net")
    add("--base_channels", type=number(int, 2), default=64, help="U-Net: channels of the first level")
    add("--bilinear", type=boolean, default=True,
        help="U-Net: bilinear up-sampling, or transposed convolutions")
    add("--steps", type=number(int, 1), default=20, help="Adam steps to compare")
    add("--epochs", type=number(int, 0), default=3, help="epochs of the short training; 0: none")
    add("--tile", type=number(int, 16), help="side of the training crops, px (default: whole images)")
    add("--n_channels", type=int, choices=(1, 3), default=1, help="image channels")
    add("--Data_directory", type=Path, default=Path("./data/sample"), help="data set: {train,test}/{imgs,labels}")
    add("--Result_directory", type=Path, default=Path("./docs"), help="folder of the table and the picture")
    return parser.parse_args()


# ------------------------------------------------------------------------------------------------------- the differences
def relative_to_range(one, other):
    """Largest difference of two arrays, relative to the range of the second's values."""
    return float(np.abs(one - other).max() / max(np.ptp(other), 1e-12))


def differences(found, expected):
    """How far two sides' `examine` of one batch are from each other: {what: {name: number}}."""
    (seen, loss, gradients), (other_seen, other_loss, other_gradients) = found, expected
    zero = {name for name in other_gradients if BEFORE_BATCH_NORM.search(name)}
    largest = max(float(np.abs(gradient).max()) for gradient in other_gradients.values())
    return {
        "activations, of their range": {name: relative_to_range(seen[name], other_seen[name]) for name in other_seen},
        "loss, relative": {"loss": abs(loss / other_loss - 1)},
        GRADIENTS: {
            name: float(np.linalg.norm(gradients[name] - other) / np.linalg.norm(other))
            for name, other in other_gradients.items() if name not in zero},
        "biases before BatchNorm, of the largest gradient": {
            name: float(np.abs(gradients[name]).max()) / largest for name in zero}}


def worst_of(measured):
    """{what: (name, number)}, the largest of `differences` over all names."""
    return {what: max(measured[what].items(), key=by_number, default=("none", 0.0)) for what in WANTED}


def by_number(item):
    return item[1]


class Table:
    """Lines of text about two sides: how far apart they are, beside how far PyTorch is from itself ("alone").

    A number that is judged is sound where it is as small as wanted, or within `OWN` times PyTorch's own; `sound`: all so
    far are.
    """

    def __init__(self, title):
        self.lines, self.sound = [], True
        self.say(title)

    def say(self, line):
        self.lines.append(line)
        print(line, flush=True)

    def section(self, title, alone="-"):
        self.say("")
        self.say(title)
        self.say(f"  {'':<78}{'Jittor - PyTorch':>17}{'PyTorch alone':>15}{'wanted':>8}")
        self.say(f"  {'':<78}{'':>17}{alone:>15}")

    def add(self, what, measured, own=None, wanted=0.0, times=OWN, judged=True):
        good = not judged or measured <= max(wanted, times * (own or 0))
        self.sound &= good
        self.say(f"  {what:<78}{measured:>17.1e}{'-' if own is None else f'{own:.1e}':>15}"
                 f"{f'{wanted:.0e}' if wanted else '':>8}{'' if good else '  TOO FAR'}")


def in_double(batch):
    return batch._replace(inputs=batch.inputs.astype(np.float64), weights=batch.weights.astype(np.float64))


def nudged(arrays):
    """The weights, about half of them changed in the last bit: what rounding does to them."""
    rng = np.random.default_rng(0)
    return {name: array if "running_" in name else array * rng.uniform(1 - LAST_BIT, 1 + LAST_BIT, array.shape).astype(np.float32)
            for name, array in arrays.items()}


def largest_ratio(losses, others):
    return float(np.abs(np.divide(losses, others) - 1).max())


def compare_in_double(table, experiment, steps=3):
    """Whether the two compute the same: in double precision rounding hides nothing."""
    batches = [in_double(batch) for batch in experiment.batches(steps, DOUBLE_TILE)]
    sides = ours, twin, _ = [side.to_double() for side in experiment.sides(0, nudge=True)]
    side = batches[0].inputs.shape[2]
    table.section(f"Double precision, {side} x {side} px", "last bit")
    for what, (name, value) in worst_of(differences(ours.examine(batches[0]), twin.examine(batches[0]))).items():
        table.add(f"{what} ({name})", value, wanted=WANTED[what])
    losses = [[each.step(batch) for batch in batches] for each in sides]
    table.add(f"loss over {steps} Adam steps, relative", largest_ratio(losses[0], losses[1]),
              largest_ratio(losses[2], losses[1]), 1e-3)


def compare_batches(table, experiment, batches):
    """What rounding makes of real batches in single precision, beside how far PyTorch is from its own double and from
    weights changed in the last bit.

    A ReLU or a maximum that rounding turns over changes a gradient by far more than a last bit, in some batches and not
    in others: the gradients are judged where that shows least.
    """
    ours, twin, near = experiment.sides(0, nudge=True)
    exact = experiment.sides(0)[2].to_double()
    apart, own = [], []
    for batch in tqdm(batches, "batches", disable=None, leave=False):
        expected = twin.examine(batch)
        itself = [worst_of(differences(expected, other)) for other in (near.examine(batch), exact.examine(in_double(batch)))]
        apart.append(worst_of(differences(ours.examine(batch), expected)))
        own.append({what: max((each[what] for each in itself), key=by_number) for what in WANTED})
    table.section(f"Single precision, the worst of {len(batches)} batches", "itself")
    for what, wanted in WANTED.items():
        largest, least = ([pick((each[what] for each in measured), key=by_number) for measured in (apart, own)]
                          for pick in (max, min))
        (name, value), (_, alone) = largest
        table.add(f"{what} ({name})", value, alone, wanted, judged=what != GRADIENTS)
        if what == GRADIENTS:
            (name, value), (_, alone) = least
            table.add(f"{what}, in the best batch ({name})", value, alone, wanted)


def compare_steps(table, experiment, batches):
    """Adam steps on the same batches, in turns: the losses of each side; also the speed, and weights that change sides."""
    sides = ours, twin, _ = experiment.sides(0, nudge=True)
    losses, seconds = ([], [], []), ([], [], [])
    for batch in tqdm(batches, "steps", disable=None, leave=False):
        for k, side in enumerate(sides):
            started = time.perf_counter()
            losses[k].append(side.step(batch))
            seconds[k].append(time.perf_counter() - started)
    table.section("Training", "last bit")
    table.add(f"loss over {len(batches)} Adam steps, relative", largest_ratio(losses[0], losses[1]),
              largest_ratio(losses[2], losses[1]), 1e-3)
    for source, other in ((ours, twin), (twin, ours)):
        expected, kept = source.logits(batches[0].inputs), other.arrays()
        other.load(source.arrays())
        table.add(f"{source.name}'s trained weights in {other.name}: logits, of their range",
                  relative_to_range(other.logits(batches[0].inputs), expected), wanted=1e-4)
        other.load(kept)
    rates = [1 / statistics.median(each[len(each) // 4:]) for each in seconds]
    table.say(f"  images/s, steps in turns: Jittor {rates[0]:.3f}, PyTorch {rates[1]:.3f}; "
              f"ratio {rates[0] / rates[1]:.2f}")
    return losses


# ------------------------------------------------------------------------------------------------------ the short training
def short_training(side, loader, test_set, geometry, epochs, name):
    """Train a side: [(mean loss, iou, dice, f1) of each epoch], tested on the whole test set."""
    history = []
    for epoch in range(epochs):
        losses = [side.step(batch) for batch in tqdm(loader.epoch(epoch), f"{name}, epoch {epoch}", len(loader),
                                                     disable=None, leave=False)]
        results = []
        for index in range(len(test_set)):
            prediction = overlap_tile(test_set.image(index), side.logits, geometry).argmax(axis=0)
            results.append(scores(prediction, test_set.label(index)))
        mean = mean_scores(results)
        history.append((float(np.mean(losses)), mean["iou"], mean["dice"], mean["f1"]))
    return history


def compare_training(table, histories, baseline):
    """The scores' differences beside those of PyTorch from itself under other seeds."""
    ours, *twins = (np.array(history) for history in histories.values())
    table.section(f"Short training, {len(ours)} epochs, tested on whole images", "other seeds")
    for column, name in ((1, "IoU"), (2, "Dice")):
        own = max(np.abs(one - other)[:, column].max() for one, other in itertools.combinations(twins, 2))
        table.add(f"{name} after each epoch: largest difference", np.abs(ours - twins[0])[:, column].max(), own, times=1)
    for name, history in histories.items():
        loss, iou, dice, f1 = max(history, key=lambda row: row[1])
        table.say(f"  best epoch of {name + ':':<24} loss {loss:.4f}  IoU {iou:.4f}  Dice {dice:.4f}  F1 {f1:.4f}")
    table.say(f"  all foreground would score:                          IoU {baseline['iou']:.4f}  Dice {baseline['dice']:.4f}")


def draw(path, what, losses, histories, baseline):
    """Four panels: the loss of every step, IoU, Dice = F1, and the table of the best epochs."""
    styles = dict(zip(histories, ({"color": "#1f77b4", "linewidth": 3, "alpha": 0.5}, {"color": "#c0392b"},
                                  {"color": "#c0392b", "linestyle": ":"}, {"color": "#c0392b", "linestyle": "--"})))
    runs = {name: [dict(zip(("epoch", "train_loss", "iou", "dice", "f1"), (epoch, *row)))
                   for epoch, row in enumerate(history)] for name, history in histories.items()}
    rows = [["", "loss", "IoU", "Dice", "F1"]]
    rows += [[name, *(f"{value:.4f}" for value in max(history, key=lambda row: row[1]))]
             for name, history in histories.items()]
    with figure(path, 2, 2, (11, 7.5)) as axes:
        steps = axes[0, 0]
        steps.plot(losses[0], color="#1f77b4", linewidth=3, alpha=0.5, label="Jittor")
        steps.plot(losses[1], color="#c0392b", linewidth=1, label="PyTorch")
        steps.plot(losses[2], color="#c0392b", linewidth=1, linestyle=":", label="PyTorch, weights changed in the last bit")
        steps.set(title=f"{what}: loss of each Adam step, from the same weights", xlabel="step",
                  ylabel="loss (nats per pixel)")
        steps.legend()
        draw_scores(axes, runs, styles, rows, baseline)


# ------------------------------------------------------------------------------------------------------------ the command
class Experiment:
    """The data, and sides and loaders by seed: the same seed gives the same weights, order and crops."""

    def __init__(self, args, scratch):
        pairs, self.data = find_pairs(args.Data_directory), args.Data_directory.resolve().name
        self.args, self.scratch, self.tile = args, Path(scratch), args.tile or "full"
        self.geometry = geometry_of(args.mode, args.bilinear)
        check_pairs(pairs["train"] + pairs["test"], self.tile)
        normalisation = dataset_statistics(pairs["train"], args.n_channels, scratch)
        self.train_set, self.test_set = (SegmentationSet(pairs[split], args.n_channels, 2, normalisation)
                                         for split in ("train", "test"))
        self.baseline = constant_baselines(map(self.test_set.label, range(len(self.test_set))))["all foreground"]

    def loader(self, seed, tile=None):
        return TrainingLoader(self.train_set, self.geometry, tile or self.tile, 1, seed, self.scratch)

    def batches(self, count, tile=None):
        """The first `count` batches of the epochs in their order."""
        epochs = itertools.chain.from_iterable(self.loader(0, tile).epoch(epoch) for epoch in itertools.count())
        return list(itertools.islice(epochs, count))

    def sides(self, seed, nudge=False):
        """(ours, the twin, another twin) with the same initial weights, the last with nudged ones where so wished."""
        from Ours import Ours
        from Twin import Twin
        args, options = self.args, {"side_outputs": True}
        if args.mode == "Unet":
            options = {"bilinear": args.bilinear, "base_channels": args.base_channels}
        ours = Ours(args.mode, args.n_channels, 2, options, LEARNING_RATE, seed=seed)
        twin, other = (Twin(args.mode, args.n_channels, 2, options, LEARNING_RATE) for _ in range(2))
        twin.load(ours.arrays())
        other.load(nudged(ours.arrays()) if nudge else ours.arrays())
        return ours, twin, other

    def title(self):
        import torch
        size = f", {self.args.base_channels} base channels" if self.args.mode == "Unet" else ""
        what = "whole images" if self.tile == "full" else f"crops of {self.tile} px"
        return (f"{self.args.mode}{size}; {self.data}, {len(self.train_set)} training pairs, {what}; {start.device_name()}; "
                f"PyTorch {torch.__version__}")

    def train_all(self):
        """The short training of ours, of the twin, and of the twin under other seeds: {name: history}."""
        (ours, twin, _), *others = (self.sides(seed) for seed in range(3))
        runs = [("Jittor", ours, 0), ("PyTorch", twin, 0)]
        runs += [(f"PyTorch, seed {seed}", other, seed) for seed, (_, other, _) in enumerate(others, start=1)]
        return {name: short_training(side, self.loader(seed), self.test_set, self.geometry, self.args.epochs, name)
                for name, side, seed in runs}


def compare(experiment):
    """All comparisons: (table, losses of the steps, histories of the short training)."""
    table, (ours, twin, _) = Table(experiment.title()), experiment.sides(0)
    counts = [sum(array.size for name, array in side.arrays().items() if "running_" not in name) for side in (ours, twin)]
    table.say(f"trainable parameters: Jittor {counts[0]:,}, PyTorch {counts[1]:,}")
    table.sound &= counts[0] == counts[1]
    compare_in_double(table, experiment)
    batches = experiment.batches(max(BATCHES, experiment.args.steps))
    compare_batches(table, experiment, batches[:BATCHES])
    losses = compare_steps(table, experiment, batches[:experiment.args.steps])
    histories = experiment.train_all() if experiment.args.epochs else {}
    if histories:
        compare_training(table, histories, experiment.baseline)
    return table, losses, histories


def main():
    args = parse_arguments()
    start.check_machine("cpu")
    make_folder(args.Result_directory)
    with tempfile.TemporaryDirectory() as scratch:
        experiment = Experiment(args, scratch)
        start.import_jittor("cpu")
        table, losses, histories = compare(experiment)
    stem = args.Result_directory / f"alignment_{experiment.data}_{args.mode}"
    draw(Path(f"{stem}.png"), f"{args.mode}, {experiment.data}", losses, histories, experiment.baseline)
    with atomic_write(Path(f"{stem}.txt")) as temporary:
        temporary.write_text("\n".join(table.lines) + "\n")
    print(f"\n{'Aligned' if table.sound else 'NOT aligned'}: {stem}.png, {stem}.txt")
    return 0 if table.sound else 1


if __name__ == "__main__":
    sys.exit(run(main))
