"""Made nuclei for tests: numbered objects that touch."""
import numpy as np

from datasets.labels import IGNORED
from datasets.segmentation import SegmentationSet
from images.formats import write_png
from images.values import Statistics
from masks.assess import assess


def random_objects(seed, shape=(24, 31)):
    """Squares over squares: they touch along sides and corners, are cut through, leave gaps.

    Returns (H, W) int32: numbers with gaps, 0 and IGNORED.
    """
    rng = np.random.default_rng(seed)
    objects = np.zeros(shape, np.int32)
    for number in rng.choice(10 ** 6, 14, replace=False) + 1:
        top, left = rng.integers(0, shape)
        height, width = rng.integers(1, 11, 2)
        objects[top:top + height, left:left + width] = number
    objects[rng.random(shape) < 0.02] = rng.choice(objects[objects > 0])  # single pixels
    objects[rng.random(shape) < 0.05] = IGNORED
    return objects


def ellipses(seed, size=256, radii=(8, 16), tried=60, seen=0.6):
    """Nuclei that lie over each other, so that they touch: (H, W) int32, numbered 1 ... n."""
    rng = np.random.default_rng(seed)
    objects, count = np.zeros((size, size), np.int32), 0
    rows, columns = np.mgrid[:size, :size]
    for _ in range(tried):
        (y, x), (a, b) = rng.uniform(0, size, 2), rng.uniform(*radii, 2)
        turn = rng.uniform(0, np.pi)
        along = (rows - y) * np.cos(turn) + (columns - x) * np.sin(turn)
        across = (columns - x) * np.cos(turn) - (rows - y) * np.sin(turn)
        inside = (along / a) ** 2 + (across / b) ** 2 <= 1
        free = inside & (objects == 0)
        if free.sum() >= seen * inside.sum():
            count += 1
            objects[free] = count
    return objects


def write_nuclei(folder, count, seed=0, step=1, **options):
    """Write pairs of bright nuclei and their numbers, `imgs/<k>.png` and `labels/<k>.png`.

    step: from one number to the next.  options: of `ellipses`.  Returns [(image, label)] paths.
    """
    pairs = []
    for kind in ("imgs", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for k in range(count):
        objects = ellipses(seed + k, **options)
        noise = np.random.default_rng(seed + k).integers(0, 60, objects.shape)
        pairs.append((folder / "imgs" / f"{k}.png", folder / "labels" / f"{k}.png"))
        write_png(pairs[-1][0], (120 * (objects > 0) + noise).astype(np.uint8))
        write_png(pairs[-1][1], (step * objects).astype(np.uint16))
    return pairs


def nuclei_set(folder, count=2, seed=0, ignore_label=None, **options):
    """A SegmentationSet of `write_nuclei`."""
    pairs = write_nuclei(folder, count, seed, **options)
    return SegmentationSet(pairs, 1, 2, Statistics((0.4,), (0.2,)), ignore_label, "objects")


def perfect_predictions(dataset):
    """{name: Prediction} of a set of objects, by a net that has learnt all of its targets."""
    found = {}
    for index in range(len(dataset)):
        target = dataset.target(index) > 0
        logits = np.stack([0 * target, np.where(target, 2.0, -2.0)]).astype(np.float32)
        found[dataset.name(index)] = assess(logits, dataset, index)
    return found
