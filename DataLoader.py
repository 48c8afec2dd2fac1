"""From lists of files to batches: read, augment, normalise, mirror the border, attach the map.

NumPy only.  Threads prepare the next batches while the net's step runs.  Reading and decoding
release Python's lock.  An error in a file is raised in the training loop.
"""
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backend import ranks
from command.bars import progress_bar
from command.names import canonical
from datasets.labels import IGNORED
from datasets.objects import BORDER, training_target
from datasets.segmentation import SegmentationSet
from images.formats import check_same_size
from images.reading import image_size
from images.values import Statistics, normalise
from MirrorPadding import Whole
from Transforms import Crop
from WeightMap import border_weights, compute_weight_map, weights_of_counts


class Batch(NamedTuple):
    """One training step's arrays."""
    inputs: np.ndarray   # (N, C, h, w) float32, normalised and mirrored; with Reference tiles
                         # four quadrants an image, (4 N, C, h, w)
    labels: np.ndarray   # (N, H, W) int32 class indices; IGNORED pixels have weight 0
    weights: np.ndarray  # (N, H, W) float32 weight maps


class Sample(NamedTuple):
    """One image of a batch, before it is brought to the batch's size."""
    image: object       # (C, H, W) float32, normalised: the whole image as Windows, or a warped
                        # crop and what the net sees around it as an array
    label: np.ndarray   # (h, w) int32
    weight: np.ndarray  # (h, w) float32
    corner: tuple       # (row, column) in the image of the label's first pixel


class Data(NamedTuple):
    """What a run works on."""
    loader: "TrainingLoader"
    choosing: SegmentationSet  # chooses the best epoch: the test set, or held back training images
    test_set: SegmentationSet
    baselines: dict            # of constant answers on `choosing`
    test_baselines: dict       # on `test_set`
    statistics: Statistics
    digest: str = ""           # of the contents of all files: what --resume compares
    remarks: list = ()         # lines about the lists of files

    @property
    def holds_back(self):
        """Whether training images that are held back choose the best model."""
        return self.choosing is not self.test_set


# ----------------------------------------------------------------------------------------- batches
class Draw(NamedTuple):
    """A sample of each epoch."""
    index: int   # of its image in the SegmentationSet
    number: int  # among the samples of this image, from 0


class TrainingLoader:
    """Batches of a SegmentationSet, in a new random order in each epoch.

        for batch in loader.epoch(k): ...

    tile: a MirrorPadding tiling; Tiles(N) takes random N x N crops of the images.
    crops: how many samples an epoch has of each image, a list; None: one.
    maps: the WeightMaps; None: every pixel has weight 1.
    augment: a Transforms.Augmentation, or None.
    Images of different sizes share a batch.  Smaller ones are mirrored further, with weight 0.
    The loss is a mean over all pixels.  The weights are scaled so that it becomes the mean over the
    pixels that count.
    workers: threads, which are that many batches ahead.  All draws depend on seed, epoch and index
    alone.  So neither their number nor resuming a run within an epoch changes a bit.
    Under mpirun each rank loads its share of a batch.  Padding samples have weight 0.
    """

    def __init__(self, dataset, geometry, tile=Whole(), batch_size=1, seed=0, maps=None,
                 augment=None, workers=2, crops=None):
        self.dataset, self.geometry, self.tile = dataset, geometry, tile
        self.batch_size, self.seed, self.workers = batch_size, seed, workers
        self.maps, self.augment = maps, augment
        self.draws = [Draw(index, number)
                      for index, count in enumerate(crops or [1] * len(dataset))
                      for number in range(count)]
        # of whole images, for their warped crops: looked at once in a run
        self.lights, self.class_weights = {}, {}  # {index: what it looks like}

    def __len__(self):
        return -(-len(self.draws) // self.batch_size)

    def images(self, step):
        """How many samples an epoch's batch of this number has, on all ranks."""
        return min(self.batch_size, len(self.draws) - step * self.batch_size)

    def prepare(self, survey):
        """Compute the weight maps that are not on disk, with progress.

        The survey remembers for which settings a label's map was made.  Where label and settings
        have not changed, nothing is read.
        """
        if not self.keeps_maps:
            return
        key = f"{self.maps.w0!r} {self.maps.sigma!r} {self.dataset.n_classes} " \
              f"{self.dataset.ignore_label}"
        if self.dataset.are_objects:
            key += f" objects {BORDER}"
        there = {file.stem for file in Path(self.maps.folder).glob("*.npy")}
        missing = [index for index, (_, label) in enumerate(self.dataset.pairs)
                   if canonical(label.stem) not in there
                   or survey.label(label).notes.get("map") != key]
        try:
            for index in progress_bar(missing, "weight maps", unit="label", leave=True):
                self.weight_map(index, self.dataset.target(index))
                survey.note(self.dataset.pairs[index][1], "map", key)
        finally:
            survey.save()

    @property
    def keeps_maps(self):
        """Whether weight maps are kept on disk.  Those of warped objects are made for a sample."""
        return self.maps is not None and not (self.dataset.are_objects and self.augment)

    def weight_map(self, index, target):
        """The weights of the pixels of `dataset.target(index)`, (H, W) float32."""
        if self.maps is None:
            return _count_known(target)
        if not self.keeps_maps:
            return compute_weight_map(target, self.maps.w0, self.maps.sigma, numbered=True)
        return self.maps.read(self.dataset.pairs[index][1], target, self.dataset.are_objects)

    def epoch(self, epoch, start=0):
        """Yield the epoch's batches from number `start` on.

        Threads prepare the next ones.  An error in a batch is raised here.
        """
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.draws))
        groups = [order[i:i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        pool = ThreadPoolExecutor(self.workers)
        try:
            pending = deque()
            for group in groups[start:]:
                pending.append(pool.submit(self.batch, group, epoch))
                if len(pending) > self.workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def batch(self, indices, epoch):
        """The Batch of some of `draws`, in one epoch's random crops and augmentations."""
        dealt, counting = ranks.deal(indices)
        samples = [self.sample(index, epoch) for index in dealt]
        height, width = self._canvas(indices, epoch, samples)
        # so that the mean over all ranks is the mean over the batch
        scale = height * width * (len(dealt) * ranks.size() / len(indices))
        inputs = [self.tile.net_inputs(self.geometry, sample.image, sample.corner, height, width)
                  for sample in samples]
        labels = np.zeros((len(samples), height, width), np.int32)
        weights = np.zeros((len(samples), height, width), np.float32)
        for k, sample in enumerate(samples):
            here = np.s_[k, :sample.label.shape[0], :sample.label.shape[1]]
            labels[here] = sample.label
            if k < counting:
                pixels = max(1, np.count_nonzero(sample.label != IGNORED))
                weights[here] = sample.weight * (scale / pixels)
        return Batch(np.concatenate(inputs), labels, weights)

    def _canvas(self, indices, epoch, samples):
        """(height, width) that all of a batch's labels fit into, those of other ranks too."""
        if ranks.size() == 1:
            sides = [sample.label.shape for sample in samples]
        else:
            sides = [self._label_sides(self.draws[index], epoch) for index in indices]
        return tuple(max(side) for side in zip(*sides))

    def _label_sides(self, draw, epoch):
        """The (height, width) of a sample's label, from its file's header."""
        rng = self._generator(draw, epoch)
        crop = self._draw_crop(rng, *image_size(self.dataset.pairs[draw.index][1]))
        if self.augment is None:
            return crop.height, crop.width
        return self.augment.sides(crop.height, crop.width, rng)

    def _generator(self, draw, epoch):
        # NumPy fills up with zeros: an image's first sample has the stream of an only one
        return np.random.default_rng([self.seed, epoch, *draw])

    def _draw_crop(self, rng, height, width):
        """The Crop of an image of this size; all of it for whole images."""
        sides = self.tile.sides(height, width)
        corner = (int(rng.integers(0, length - side + 1))
                  for length, side in zip((height, width), sides))
        return Crop(*corner, *sides)

    def sample(self, index, epoch):
        """The Sample of one of `draws` in an epoch."""
        draw = self.draws[index]
        image = self.dataset.image_windows(draw.index)
        label = self.dataset.label_windows(draw.index)
        image_path, label_path = self.dataset.pairs[draw.index]
        check_same_size(image_path, image.shape[1:], label_path, label.shape)
        rng = self._generator(draw, epoch)
        crop = self._draw_crop(rng, *label.shape)
        if self.augment is None:
            return self._cut(draw.index, image, label, crop)
        if self.dataset.are_objects:
            return self._warp_objects(draw.index, image, label, rng, crop)
        weights = self._stored_weights(draw.index)
        warped = self.augment(image, label, weights, rng, crop, self._around,
                              lights=self._lights_of(draw.index, image))
        weight = warped.weight_map if weights is not None else _count_known(warped.label)
        return self._finish(warped.image, warped.label, weight)

    def _cut(self, index, image, label, crop):
        """The Sample of a crop as it is, with all of the image around it."""
        target, weights = self.dataset.target_part(label, *crop.pixels), self._stored_weights(index)
        weight = _count_known(target) if weights is None else weights[crop.pixels]
        normalised = image.then(lambda part: normalise(part, self.dataset.statistics))
        return Sample(normalised, self.dataset.classes_of(target), weight, (crop.top, crop.left))

    def _finish(self, image, classes, weight):
        """The Sample of a warped crop: image, with what is around the crop; classes; weight."""
        corner = tuple(self._around(length)[0] for length in classes.shape)
        return Sample(normalise(image, self.dataset.statistics), classes, weight, corner)

    def _stored_weights(self, index):
        """The weight map on disk, (H, W) float32, of which parts are read when used; or None."""
        if self.maps is None:
            return None
        return self.maps.open(self.dataset.pairs[index][1], lambda: self.dataset.target(index),
                              self.dataset.are_objects)

    def _lights_of(self, index, image):
        """The Lights of a whole image, which is looked at once in a run."""
        if index not in self.lights:
            self.lights[index] = self.augment.look_at(image)
        return self.lights[index]

    def _warp_objects(self, index, image, objects, rng, crop):
        """The Sample of a crop of an image and its numbered objects, warped.

        The separation border and the weight map are made from the warped numbers.  They look a
        little beyond the crop, as far as the border and the map reach.
        """
        margin = BORDER
        if self.maps is not None:
            margin += min(self.maps.reach, max(objects.shape))
        warped = self.augment(image, objects, None, rng, crop, self._around, margin,
                              self._lights_of(index, image))
        inner = np.s_[margin:-margin, margin:-margin]
        target = training_target(warped.label)
        classes = self.dataset.classes_of(target)[inner]
        weight = _count_known(classes)
        if self.maps is not None:
            border = border_weights(target, self.maps.w0, self.maps.sigma, numbered=True)
            weight *= self._class_weights(index)[classes] + border[inner]
        return self._finish(warped.image, classes, weight)

    def _class_weights(self, index):
        """`weights_of_counts` of a whole image's target, which is looked at once in a run."""
        if index not in self.class_weights:
            classes = self.dataset.classes_of(self.dataset.target(index))
            self.class_weights[index] = weights_of_counts(np.bincount(classes[classes >= 0],
                                                                      minlength=2))
        return self.class_weights[index]

    def _around(self, length):
        """How many pixels before and after a crop's side are warped with it."""
        return self.tile.context(self.geometry, length)


def _count_known(target):
    """Weight 1 for each pixel that is not IGNORED: (H, W) float32."""
    return (target != IGNORED).astype(np.float32)
