"""From lists of files to batches: read, augment, normalise, mirror the border, attach the weight map.

NumPy only.  Batches are prepared by threads while the net's step runs: reading and decoding release Python's lock, a
mistake in a file reaches the training loop as the exception that it is, and nothing is left to hang.
"""
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from backend import ranks
from command.errors import DataError
from datasets.labels import IGNORED, load_label
from datasets.pairs import check_pairs
from datasets.survey import files_key, keep, read_kept
from images.formats import image_size
from images.values import load_image, normalise
from MirrorPadding import mirror_pad, mirrored_around, mirrored_before, pad_for, reference_blocks
from WeightMap import cached_weight_map


class Batch(NamedTuple):
    """One training step's arrays."""
    inputs: np.ndarray   # (N, C, h, w) float32, normalised and mirrored; four quadrants an image with tile='reference'
    labels: np.ndarray   # (N, H, W) int32 class indices; IGNORED pixels weigh 0
    weights: np.ndarray  # (N, H, W) float32 weight maps


# -------------------------------------------------------------------------------------------------------------- data set
class SegmentationSet:
    """Image/label pairs as normalised arrays: `image(i)` (C, H, W) float32, `label(i)` (H, W) int32, `name(i)`.

    Pixels that are stored as `ignore_label` have the class IGNORED (-1).
    """

    def __init__(self, pairs, n_channels, n_classes, statistics, ignore_label=None):
        self.pairs, self.n_channels, self.n_classes, self.statistics = pairs, n_channels, n_classes, statistics
        self.ignore_label = ignore_label

    def __len__(self):
        return len(self.pairs)

    def name(self, index):
        return self.pairs[index][0].stem

    def pixels(self, index):
        """The image before it is normalised: (C, H, W) float32 in [0, 1]."""
        return load_image(self.pairs[index][0], self.n_channels)

    def image(self, index):
        return normalise(self.pixels(index), self.statistics)

    def label(self, index):
        return load_label(self.pairs[index][1], self.n_classes, self.ignore_label)


class TrainingLoader:
    """Batches of a SegmentationSet in a seeded order that differs from epoch to epoch: `for batch in loader.epoch(k)`.

    tile: 'full' (whole images), a side N in pixels (a random N x N crop of each), or 'reference' (four quadrants).
    Images of different sizes share a batch: the smaller ones are mirrored further, and weigh nothing there.  An image's
    weights are such that the loss, a mean over all pixels, is one over those that count.
    w0: of the weight maps' border term; None: every pixel weighs 1, and there are no weight maps.
    augment: a Transforms.Augmentation, or None.  Its draws depend on seed, epoch and index alone: neither the number of
    workers nor a run that is resumed within an epoch changes a bit.
    With several ranks (Ranks.py) a batch is this rank's part of it; what there does not count weighs nothing.
    """

    def __init__(self, dataset, geometry, tile="full", batch_size=1, seed=0, weight_directory="./weight_maps", w0=10,
                 sigma=5, workers=2, augment=None):
        self.dataset, self.geometry, self.tile = dataset, geometry, tile
        self.batch_size, self.seed, self.workers = batch_size, seed, workers
        self.weight_directory, self.w0, self.sigma = weight_directory, w0, sigma
        self.augment = augment

    def __len__(self):
        return -(-len(self.dataset) // self.batch_size)

    def images(self, step):
        """How many images an epoch's batch of this number has, on all ranks."""
        return min(self.batch_size, len(self.dataset) - step * self.batch_size)

    def prepare(self, datatxt_directory):
        """Check all pairs, and compute the weight maps that are not yet on disk, with progress.

        Where neither files nor settings have changed since (`checked.json`) there is nothing to do: training checks
        whatever it reads again.
        """
        pairs, path = self.dataset.pairs, Path(datatxt_directory) / "checked.json"
        key = files_key([file for pair in pairs for file in pair], self.tile, self.dataset.n_classes,
                        self.dataset.ignore_label, self.w0, self.sigma)
        maps = {file.stem for file in Path(self.weight_directory).glob("*.npy")}
        if read_kept(path, key) and (self.w0 is None or all(label.stem in maps for _, label in pairs)):
            return
        check_pairs(pairs, self.tile)
        what = "labels" if self.w0 is None else "weight maps"
        for index in tqdm(range(len(self.dataset)), what, unit="label", disable=None):
            self.weight_map(index, self.dataset.label(index))
        keep(path, key, pairs=len(pairs))

    def weight_map(self, index, label):
        """The weights of a label's pixels, (H, W) float32."""
        if self.w0 is None:
            return (label != IGNORED).astype(np.float32)
        return cached_weight_map(self.dataset.pairs[index][1], label, self.weight_directory, self.w0, self.sigma)

    def epoch(self, epoch, start=0):
        """Yield the epoch's batches from number `start` on; the next ones are prepared meanwhile, and an error in one is
        raised here."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.dataset))
        groups = [order[i:i + self.batch_size] for i in range(0, len(order), self.batch_size)][start:]
        pool = ThreadPoolExecutor(self.workers)
        try:
            pending = deque()
            for group in groups:
                pending.append(pool.submit(self.batch, group, epoch))
                if len(pending) > self.workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def batch(self, indices, epoch):
        """The Batch of some indices, in one epoch's random crops and augmentations."""
        dealt, counting = ranks.deal(indices)
        samples = [self.sample(int(index), epoch) for index in dealt]
        height, width = self._canvas(indices, epoch, samples)
        scale = height * width * (len(dealt) * ranks.size() / len(indices))  # the mean over all ranks is one over the batch
        inputs = [self._input(image, region, height, width) for image, _, _, region in samples]
        labels = np.zeros((len(samples), height, width), np.int32)
        weights = np.zeros((len(samples), height, width), np.float32)
        for k, (_, label, weight, _) in enumerate(samples):
            h, w = label.shape
            labels[k, :h, :w] = label
            weights[k, :h, :w] = weight * ((k < counting) * scale / max(1, np.count_nonzero(label != IGNORED)))
        return Batch(np.concatenate(inputs), labels, weights)

    def _canvas(self, indices, epoch, samples):
        """(height, width) that all of a batch's labels fit into, those of other ranks among them."""
        return (max(side) for side in zip(*([label.shape for _, label, _, _ in samples] if ranks.size() == 1 else
                                            [self._sides(int(index), epoch) for index in indices])))

    def _sides(self, index, epoch):
        """The (height, width) of a sample's label, from its file's header."""
        rng, (_, _, *sides) = self._crop(index, epoch, image_size(self.dataset.pairs[index][1]))
        return self.augment.sides(*sides, rng) if self.augment else sides

    def _crop(self, index, epoch, shape):
        """(the sample's random generator, the crop of a label of this shape: top, left, height, width); the whole of it
        without a tile."""
        rng = np.random.default_rng([self.seed, epoch, index])
        sides = [min(self.tile, length) if isinstance(self.tile, int) else length for length in shape]
        top, left = (int(rng.integers(0, length - side + 1)) for length, side in zip(shape, sides))
        return rng, (top, left, *sides)

    def sample(self, index, epoch):
        """(image, label, weight map, (top, left)): the label and its map are cut to the crop that begins there.

        The image is all of it, or with augmentation the warped crop and what the net sees around it.
        """
        pixels, label = self.dataset.pixels(index), self.dataset.label(index)
        if pixels.shape[1:] != label.shape:
            raise DataError(f"{self.dataset.pairs[index][1]}: not of its image's size")
        weight, cropped = self.weight_map(index, label), isinstance(self.tile, int)
        rng, (top, left, *sides) = self._crop(index, epoch, label.shape)
        if self.augment:
            pixels, label, weight = self.augment(pixels, label, weight, rng, (top, left, *sides), self._around)
            top, left = (self._around(length)[0] for length in label.shape)
        else:
            here = np.s_[top:top + sides[0], left:left + sides[1]]
            label, weight = label[here], weight[here]
        return normalise(pixels, self.dataset.statistics), label, weight, (top, left) if cropped else None

    def _around(self, length):
        """How many pixels before and after a crop's side the net sees, to be warped with it; a whole image's border is
        mirrored once it is warped, as a test image's is."""
        return mirrored_around(self.geometry, length, length) if isinstance(self.tile, int) else (0, 0)

    def _input(self, image, region, height, width):
        """The net's input (n, C, h, w) for a sample on a canvas of height x width px."""
        if self.tile == "reference":
            return reference_blocks(image, self.geometry)
        if region is None:
            return pad_for(self.geometry, image, height, width)[None]
        return crop_input(self.geometry, image, *region, height, width)[None]


def crop_input(geometry, image, top, left, height, width):
    """The input (C, h, w) whose logits' middle is the `height` x `width` px of `image` from (top, left) on.

    It sees the real image around the crop, and mirrored pixels only beyond the image's edges.
    """
    before, after, starts, sides = [], [], [], []
    for start, canvas, own in zip((top, left), (height, width), image.shape[1:]):
        begin = start - mirrored_before(geometry, canvas)
        side = geometry.output_side(canvas) + geometry.margin
        before.append(max(0, -begin))
        after.append(max(0, begin + side - own))
        starts.append(max(0, begin))
        sides.append(side)
    padded = mirror_pad(image, before[0], after[0], before[1], after[1])
    return padded[:, starts[0]:starts[0] + sides[0], starts[1]:starts[1] + sides[1]]
