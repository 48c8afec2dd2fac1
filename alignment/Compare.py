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

import Runtime  # noqa: E402
from Common import Parser, atomic_write, boolean, make_folder, number, run, use_agg  # noqa: E402
from DataLoader import SegmentationSet, TrainingLoader, check_pairs, dataset_statistics  # noqa: E402
from MakeTxt import find_pairs  # noqa: E402
from Metrics import all_foreground_baseline, mean_scores, scores  # noqa: E402
from MirrorPadding import geometry_of, overlap_tile  # noqa: E402

# biases whose gradient is 0 by mathematics: a BatchNorm takes the constant away again
BEFORE_BATCH_NORM = re.compile(r"(double_conv\.[03]|conv_s1|up\d\.up)\.bias$")
LEARNING_RATE = 1e-3


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


def worst(differences):
    """(name, value) of the largest in {name: value}."""
    return max(differences.items(), key=lambda item: item[1])


class Table:
    """Rows of (what, measured, wanted); `sound` tells whether every one is as wanted."""

    def __init__(self, title):
        self.lines, self.sound = [title, ""], True

    def add(self, what, measured, wanted=None):
        if wanted is None:
            self.lines.append(f"{what:<66}{measured:>16}")
        else:
            good = measured <= wanted
            self.sound &= good
            self.lines.append(f"{what:<66}{measured:>16.1e}  {'<=' if good else '> '} {wanted:.0e}")
        print(self.lines[-1], flush=True)


def compare_one_batch(table, ours, twin, batch):
    """Activations, loss and gradients of one batch, from the same weights."""
    (seen, loss, gradients), (twin_seen, twin_loss, twin_gradients) = ours.examine(batch), twin.examine(batch)
    stages = {name: relative_to_range(seen[name], twin_seen[name]) for name in twin_seen}
    name, value = worst(stages)
    table.add(f"activations: worst of {len(stages)} stages ({name}), of their range", value, 1e-4)
    table.add("loss, relative", abs(loss - twin_loss) / abs(twin_loss), 1e-5)
    norms = {name: float(np.linalg.norm(gradient)) for name, gradient in twin_gradients.items()}
    errors = {name: float(np.linalg.norm(gradients[name] - twin_gradients[name])) for name in norms}
    zero = {name for name in norms if BEFORE_BATCH_NORM.search(name)}
    name, value = worst({name: errors[name] / norms[name] for name in norms.keys() - zero})
    table.add(f"gradients: worst of {len(norms) - len(zero)} ({name}), of its norm", value, 1e-3)
    largest = max(float(np.abs(gradient).max()) for gradient in twin_gradients.values())
    name, value = worst({name: float(np.abs(gradients[name]).max()) / largest for name in zero})
    table.add(f"biases before BatchNorm: worst of {len(zero)} ({name}), of the largest gradient", value, 1e-6)
    name, value = worst({name: float(np.abs(twin_gradients[name]).max()) / largest for name in zero})
    table.add(f"  PyTorch's own distance from 0 there ({name})", f"{value:.1e}")


def compare_steps(table, ours, twin, batches):
    """Adam steps on the same batches, in turns: (losses, twin's losses); also the speed of both."""
    losses, seconds = ([], []), ([], [])
    for batch in tqdm(batches, "steps", disable=None, leave=False):
        for k, side in enumerate((ours, twin)):
            started = time.perf_counter()
            losses[k].append(side.step(batch))
            seconds[k].append(time.perf_counter() - started)
    curves = np.array(losses)
    table.add(f"loss over {len(batches)} Adam steps, relative", float(np.abs(curves[0] / curves[1] - 1).max()), 1e-3)
    rates = [1 / statistics.median(each[len(each) // 4:]) for each in seconds]
    table.add("training, images/s: Jittor, PyTorch", f"{rates[0]:.3f}, {rates[1]:.3f}")
    table.add("  ratio of the medians, steps in turns", f"{rates[0] / rates[1]:.2f}")
    return losses


def compare_prediction(table, ours, twin, inputs):
    """The trained weights of either, in the other framework."""
    for source, other in ((ours, twin), (twin, ours)):
        expected = source.logits(inputs)
        kept = other.arrays()
        other.load(source.arrays())
        difference = relative_to_range(other.logits(inputs), expected)
        other.load(kept)
        table.add(f"{source.name}'s trained weights in {other.name}: logits, of their range", difference, 1e-4)


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


def compare_training(table, histories):
    """The scores' differences beside those of PyTorch from itself under another seed."""
    ours, twin, other = (np.array(history) for history in histories.values())
    for column, name in ((1, "IoU"), (2, "Dice")):
        difference = np.abs(ours - twin)[:, column].max()
        yardstick = np.abs(other - twin)[:, column].max()
        table.add(f"{name} after each epoch: largest difference", f"{difference:.4f}")
        table.add("  of PyTorch from itself under another seed", f"{yardstick:.4f}")
        table.sound &= bool(difference <= yardstick)
    for name, history in histories.items():
        loss, iou, dice, f1 = max(history, key=lambda row: row[1])
        table.add(f"best of {name}", f"IoU {iou:.4f}")
        table.add("", f"Dice {dice:.4f}")


def draw(path, mode, losses, histories, baseline):
    """Four panels: the loss of every step, IoU, Dice = F1, and the table of the best epochs."""
    pyplot = use_agg()
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
    steps = axes[0, 0]
    steps.plot(losses[0], color="#1f77b4", linewidth=3, alpha=0.5, label="Jittor")
    steps.plot(losses[1], color="#c0392b", linewidth=1, label="PyTorch")
    steps.set(title=f"{mode}: loss of each Adam step, from the same weights", xlabel="step", ylabel="loss (nats per pixel)")
    steps.legend()
    styles = dict(zip(histories, ({"color": "#1f77b4", "linewidth": 3, "alpha": 0.5}, {"color": "#c0392b"},
                                  {"color": "#c0392b", "linestyle": ":"})))
    for axis, column, title in ((axes[0, 1], 1, "IoU"), (axes[1, 0], 2, "Dice = F1")):
        for name, history in histories.items():
            axis.plot([row[column] for row in history], marker=".", label=name, **styles[name])
        axis.axhline(baseline["iou" if column == 1 else "dice"], color="gray", linestyle="--", linewidth=1,
                     label="all foreground")
        axis.set(title=f"{title} on the test images", xlabel="epoch, from 0", ylabel="score (0 to 1)")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=8)
    rows = [[name, *(f"{value:.4f}" for value in max(history, key=lambda row: row[1]))]
            for name, history in histories.items()]
    axes[1, 1].set_axis_off()
    axes[1, 1].set_title("best epoch")
    if rows:
        table = axes[1, 1].table(rows, colLabels=["", "loss", "IoU", "Dice", "F1"], loc="center", cellLoc="center",
                                 colWidths=[0.36, 0.16, 0.16, 0.16, 0.16])
        table.scale(1, 2)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=100)
    pyplot.close(figure)


# ------------------------------------------------------------------------------------------------------------ the command
class Experiment:
    """The data, and sides and loaders by seed: the same seed gives the same weights, order and crops."""

    def __init__(self, args, scratch):
        pairs = find_pairs(args.Data_directory)
        self.args, self.scratch, self.tile = args, Path(scratch), args.tile or "full"
        self.geometry = geometry_of(args.mode, args.bilinear)
        check_pairs(pairs["train"] + pairs["test"], self.tile)
        normalisation = dataset_statistics(pairs["train"], args.n_channels, scratch)
        self.train_set, self.test_set = (SegmentationSet(pairs[split], args.n_channels, 2, normalisation)
                                         for split in ("train", "test"))
        self.baseline = all_foreground_baseline(map(self.test_set.label, range(len(self.test_set))))

    def loader(self, seed):
        return TrainingLoader(self.train_set, self.geometry, self.tile, 1, seed, self.scratch)

    def batches(self, count):
        """The first `count` batches of the epochs in their order."""
        epochs = itertools.chain.from_iterable(self.loader(0).epoch(epoch) for epoch in itertools.count())
        return list(itertools.islice(epochs, count))

    def sides(self, seed):
        """(ours, twin) with the same initial weights."""
        from Ours import Ours
        from Twin import Twin
        args, options = self.args, {"side_outputs": True}
        if args.mode == "Unet":
            options = {"bilinear": args.bilinear, "base_channels": args.base_channels}
        ours = Ours(args.mode, args.n_channels, 2, options, LEARNING_RATE, seed=seed)
        twin = Twin(args.mode, args.n_channels, 2, options, LEARNING_RATE)
        twin.load(ours.arrays())
        return ours, twin

    def title(self):
        import torch
        size = f", {self.args.base_channels} base channels" if self.args.mode == "Unet" else ""
        what = "whole images" if self.tile == "full" else f"crops of {self.tile} px"
        return (f"{self.args.mode}{size}; {len(self.train_set)} training pairs, {what}; {Runtime.device_name()}; "
                f"PyTorch {torch.__version__}")

    def train_all(self):
        """The short training of ours, of the twin, and of the twin under another seed: {name: history}."""
        (ours, twin), (_, other) = self.sides(0), self.sides(1)
        runs = (("Jittor", ours, 0), ("PyTorch", twin, 0), ("PyTorch, another seed", other, 1))
        return {name: short_training(side, self.loader(seed), self.test_set, self.geometry, self.args.epochs, name)
                for name, side, seed in runs}


def compare(experiment):
    """All comparisons: (table, losses of the steps, histories of the short training)."""
    table, (ours, twin) = Table(experiment.title()), experiment.sides(0)
    print("\n".join(table.lines))
    counts = [sum(array.size for name, array in side.arrays().items() if "running_" not in name) for side in (ours, twin)]
    table.add("trainable parameters: Jittor, PyTorch", f"{counts[0]:,}, {counts[1]:,}")
    table.sound &= counts[0] == counts[1]
    batches = experiment.batches(experiment.args.steps)
    compare_one_batch(table, ours, twin, batches[0])
    losses = compare_steps(table, ours, twin, batches)
    compare_prediction(table, ours, twin, batches[0].inputs)
    histories = experiment.train_all() if experiment.args.epochs else {}
    if histories:
        compare_training(table, histories)
    table.add("all foreground would score", f"IoU {experiment.baseline['iou']:.4f}")
    return table, losses, histories


def main():
    args = parse_arguments()
    Runtime.check("cpu")
    make_folder(args.Result_directory)
    with tempfile.TemporaryDirectory() as scratch:
        experiment = Experiment(args, scratch)
        Runtime.start("cpu")
        table, losses, histories = compare(experiment)
    stem = args.Result_directory / f"alignment_{args.mode}"
    draw(stem.with_suffix(".png"), args.mode, losses, histories, experiment.baseline)
    with atomic_write(stem.with_suffix(".txt")) as temporary:
        temporary.write_text("\n".join(table.lines) + "\n")
    print(f"\n{'Aligned' if table.sound else 'NOT aligned'}: {stem}.png, {stem}.txt")
    return 0 if table.sound else 1


if __name__ == "__main__":
    sys.exit(run(main))
