"""What a comparison works with: the data, its batches, and the sides."""
import itertools
from pathlib import Path

import numpy as np
from Sides import Sides

from backend import start
from DataLoader import SegmentationSet, TrainingLoader
from datasets.pairs import find_pairs
from datasets.survey import Survey, statistics_of
from masks.pixel_scores import baselines_of_counts
from MirrorPadding import Tiles, Whole
from nets.catalogue import CATALOGUE
from WeightMap import WeightMaps

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
    args: the flags of Compare.py; scratch: a folder for the weight maps.
    """

    def __init__(self, args, scratch):
        self.args, self.maps = args, WeightMaps(Path(scratch))
        self.data = args.Data_directory.resolve().name
        self.tile = Tiles(args.tile) if args.tile else Whole()
        net = CATALOGUE[args.mode]
        self.options = net.options({"bilinear": args.bilinear, "dropout_probs": None,
                                    "base_channels": args.base_channels, "padding": 0,
                                    "conv_bias": True, "align_corners": False})
        self.geometry = net.geometry(self.options)
        pairs, survey = find_pairs(args.Data_directory), Survey()
        survey.read(pairs["train"] + pairs["test"])
        images = [image for image, _ in pairs["train"]]
        normalisation = statistics_of(survey, images, args.n_channels)
        self.train_set, self.test_set = (
            SegmentationSet(pairs[split], args.n_channels, 2, normalisation)
            for split in ("train", "test"))
        self.baseline = baselines_of_counts(self.test_set.class_counts(survey))["all foreground"]

    def loader(self, seed, tile=None):
        """The TrainingLoader of a seed; tile: another tiling."""
        return TrainingLoader(self.train_set, self.geometry, tile or self.tile, 1, seed, self.maps)

    def batches(self, count, tile=None):
        """The first `count` batches of the epochs in their order, a list; tile: another tiling."""
        epochs = map(self.loader(0, tile).epoch, itertools.count())
        return list(itertools.islice(itertools.chain.from_iterable(epochs), count))

    def sides(self, seed, nudge=False):
        """The Sides with the initial weights of a seed; nudge: the third's are `nudged`."""
        from Ours import Ours
        from Twin import Twin
        net = self.args.mode, self.args.n_channels, 2, self.options, ALIGNMENT_RATE
        sides = Sides(Ours(*net, seed=seed), Twin(*net), Twin(*net))
        weights = sides.ours.arrays()
        sides.twin.load(weights)
        sides.other.load(nudged(weights) if nudge else weights)
        return sides

    def title(self):
        """The first line of the table."""
        import torch
        net = self.args.mode
        if "base_channels" in self.options:
            net += f", {self.options['base_channels']} base channels"
        what = f"crops of {self.args.tile} px" if self.args.tile else "whole images"
        return (f"{net}; {self.data}, {len(self.train_set)} training pairs, {what}; "
                f"{start.device_name()}; PyTorch {torch.__version__}")
