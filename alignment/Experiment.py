"""What a comparison works with: the data, its batches, and the sides."""
import itertools
from pathlib import Path

import numpy as np
from Sides import Sides

from backend import start
from DataLoader import SegmentationSet, TrainingLoader
from datasets.pairs import check_pairs, find_pairs
from datasets.survey import dataset_statistics
from masks.pixel_scores import constant_baselines
from nets.geometry import geometry_of

# A tenth of Main.py's.  There a change in the last bit grows to a percent of the loss in 10 steps.
ALIGNMENT_RATE = 1e-4
LAST_BIT = 2.0 ** -23


def in_double(batch):
    """A DataLoader.Batch in double precision."""
    return batch._replace(inputs=batch.inputs.astype(np.float64),
                          weights=batch.weights.astype(np.float64))


def nudged(arrays):
    """Weights of which about half are changed in the last bit, as rounding would do.

    arrays: {name: float32 array}.  Running statistics stay as they are.
    """
    rng, changed = np.random.default_rng(0), {}
    for name, array in arrays.items():
        changed[name] = array
        if "running_" not in name:
            factors = rng.uniform(1 - LAST_BIT, 1 + LAST_BIT, array.shape)
            changed[name] = array * factors.astype(np.float32)
    return changed


class Experiment:
    """The data of a comparison, and sides and loaders by seed.

    The same seed gives the same weights, the same order of the images, and the same crops.
    args: the flags of Compare.py; scratch: a folder for the cached weight maps and statistics.
    """

    def __init__(self, args, scratch):
        pairs = find_pairs(args.Data_directory)
        self.args, self.scratch = args, Path(scratch)
        self.data = args.Data_directory.resolve().name
        self.tile = args.tile or "full"
        self.geometry = geometry_of(args.mode, args.bilinear)
        check_pairs(pairs["train"] + pairs["test"], self.tile)
        normalisation = dataset_statistics(pairs["train"], args.n_channels, scratch)
        self.train_set, self.test_set = (
            SegmentationSet(pairs[split], args.n_channels, 2, normalisation)
            for split in ("train", "test"))
        labels = map(self.test_set.label, range(len(self.test_set)))
        self.baseline = constant_baselines(labels)["all foreground"]

    def loader(self, seed, tile=None):
        """The TrainingLoader of a seed; tile: another side of the crops, px."""
        return TrainingLoader(self.train_set, self.geometry, tile or self.tile, 1, seed,
                              self.scratch)

    def batches(self, count, tile=None):
        """The first `count` batches of the epochs in their order, a list."""
        epochs = map(self.loader(0, tile).epoch, itertools.count())
        return list(itertools.islice(itertools.chain.from_iterable(epochs), count))

    def sides(self, seed, nudge=False):
        """The Sides with the initial weights of a seed; nudge: the third's are `nudged`."""
        from Ours import Ours
        from Twin import Twin
        args, options = self.args, {"side_outputs": True}
        if args.mode == "Unet":
            options = {"bilinear": args.bilinear, "base_channels": args.base_channels}
        net = args.mode, args.n_channels, 2, options, ALIGNMENT_RATE
        sides = Sides(Ours(*net, seed=seed), Twin(*net), Twin(*net))
        weights = sides.ours.arrays()
        sides.twin.load(weights)
        sides.other.load(nudged(weights) if nudge else weights)
        return sides

    def title(self):
        """The first line of the table."""
        import torch
        size = f", {self.args.base_channels} base channels" if self.args.mode == "Unet" else ""
        what = "whole images" if self.tile == "full" else f"crops of {self.tile} px"
        return (f"{self.args.mode}{size}; {self.data}, {len(self.train_set)} training pairs, "
                f"{what}; {start.device_name()}; PyTorch {torch.__version__}")
