"""The benchmark's images, and how long each part of their preparation takes."""
import sys
import time

import numpy as np
from Contenders import RACE_SIDE

from command.files import make_folder
from DataAugmentation import augment_pair
from DataLoader import SegmentationSet, TrainingLoader
from datasets.drawn import make_pair
from datasets.survey import Survey, statistics_of
from images.formats import write_png
from images.reading import read_image
from nets.geometry import UNET_BILINEAR
from WeightMap import WeightMaps, compute_weight_map

SAMPLE_PAIRS = 4  # for the loader


def make_bench_pairs(folder):
    """Write SAMPLE_PAIRS pairs of RACE_SIDE px as files: a SegmentationSet.

    The workers' pair.npz holds the first of them as arrays.
    """
    pairs = [(folder / "imgs" / f"{k}.png", folder / "labels" / f"{k}.png")
             for k in range(SAMPLE_PAIRS)]
    for index, paths in enumerate(pairs):
        for path, pixels in zip(paths, make_pair(0, 0, index, RACE_SIDE)):
            write_png(make_folder(path.parent) / path.name, pixels)
    statistics = statistics_of(Survey(), [image for image, _ in pairs], 1)
    dataset = SegmentationSet(pairs, 1, 2, statistics)
    label = dataset.label(0)
    np.savez(folder / "pair.npz", image=dataset.image(0), label=label,
             weight=compute_weight_map(label))
    return dataset


def time_preparation(dataset, folder, repeats):
    """Seconds per image of each part of the preparation: {what: list of `repeats` times}.

    A first turn does not count.
    """
    rng, seconds = np.random.default_rng(0), {}
    for turn in range(repeats + 1):
        title = f"turn {turn} of {repeats}" if turn else "warm-up"
        for what, value in time_parts(dataset, folder / f"weights-{turn}", rng).items():
            print(f"data, {title}, {what}: {value:.3f} s per image", file=sys.stderr, flush=True)
            seconds.setdefault(what, []).append(value)
    return {what: each[1:] for what, each in seconds.items()}


def time_parts(dataset, weight_directory, rng):
    """Seconds per image of each part, once: {what: seconds}; weight_directory: without maps."""
    grey, label = (read_image(path) for path in dataset.pairs[0])
    colour = np.stack([grey] * 3, axis=2)
    loader = TrainingLoader(dataset, UNET_BILINEAR, maps=WeightMaps(weight_directory))
    count = len(dataset)
    return {
        "elastic augmentation, grey": time_call(augment_pair, grey, label, rng),
        "elastic augmentation, RGB": time_call(augment_pair, colour, label, rng),
        "weight map": time_call(compute_weight_map, dataset.label(0)),
        "TrainingLoader, first epoch (with weight maps)": time_call(list, loader.epoch(0)) / count,
        "TrainingLoader, later epochs": time_call(list, loader.epoch(1)) / count}


def time_call(function, *arguments):
    """How long a function takes, in seconds."""
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started
