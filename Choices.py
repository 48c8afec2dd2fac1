"""What Main.py chooses where no flag says otherwise: from the images, the labels, the net and the machine's memory.

Each choice is printed with its reason, and kept with the run: `--resume` does not choose again, but for the first epoch
that is tested, where the run now ends before it.
"""
import ctypes
import math
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import Ranks
from Common import ENDLESS, DataError, has_colours, image_size, read_image, read_label
from DataLoader import check_pairs, files_key, keep, read_kept

# the flags that can be left to this module
CHOSEN = ("n_channels", "n_classes", "base_channels", "tile", "Batch_size", "Total_epochs", "Val_epochs")
CROP = 256             # px: side of the crops in training; docs/ablation.md
BATCH = 4              # crops per step, where the memory allows
CROPS = 10_000         # that a run sees, copies that DataAugmentation.py made among them
EPOCHS = (10, 2500)    # fewest and most: with four images or more, and up to a thousand, that many crops
TESTED = 0.25          # share of the epochs that are tested, the last ones, where the best come; and most images in these
                       # tests for each crop that is trained on
BASE_CHANNELS = {"cpu": 16, "cuda": 64}
# bytes that a training step takes for each pixel of its input, by benchmarks/results/bench.txt; of the U-Net for each base
# channel
BYTES_PER_PIXEL = {"Unet": 72, "U2netS": 5700, "U2net": 10_000}
LARGEST_SHARE = 0.5    # of the memory that is free
MOST_CLASSES = 32      # label values beyond which these are rather numbers of objects
MOST_USUAL = 8         # and beyond which they may be
MANY = "; if these number objects: --n_classes 2"


# --------------------------------------------------------------------------------------------------------- the data set
def count_label_values(paths, ignore_label):
    """How many pixels of all label files have each stored value, `ignore_label` apart: (largest value + 1,) int64."""
    counts = np.zeros(2 ** 16, np.int64)
    for path in tqdm(paths, "label values", unit="label", delay=1, leave=False, disable=None):
        counts += np.bincount(read_label(path).ravel(), minlength=len(counts))
    if ignore_label is not None:
        counts[ignore_label] = 0
    return np.trim_zeros(counts, "b")


def foreground_of(counts):
    """(the foreground's value, whether that is certain) of labels whose values occur `counts` times; (None, False) if no mask.

    It is the one value above 0, or 255 where this has more pixels than all values between.  Several of these, and beyond
    the numbers of classes, are soft edges for certain; else 255 may also mean "not labelled", beside class numbers.
    """
    *between, largest = np.flatnonzero(counts[1:]) + 1 if counts[1:].any() else [255]
    if not between:
        return int(largest), True
    if largest != 255 or counts[255] < counts[between].sum():
        return None, False
    return 255, len(between) > 1 and between[-1] >= MOST_CLASSES


def classes_in(counts):
    """The number of classes of labels whose values occur `counts` times: two in what is a mask for certain."""
    _, is_mask = foreground_of(counts)
    return 2 if is_mask else int(np.flatnonzero(counts)[-1]) + 1


def check_classes(n_classes, folder):
    """Raise DataError where a folder's labels (or masks) have so many values that they cannot be meant as classes."""
    if n_classes > MOST_CLASSES:
        raise DataError(f"{folder}: values up to {n_classes - 1}; give --n_classes (2: every value above 0 is "
                        "foreground), or --ignore_label (a value that means: not labelled)")


class Facts(NamedTuple):
    """What is to be known of a training set, and of the test set's labels."""
    n_channels: int
    n_classes: int     # by the labels to train with
    test_classes: int  # by those to test with
    height: int  # px, of the highest and of the widest image
    width: int


def facts_of(pairs, test_labels, ignore_label, datatxt_directory):
    """The Facts of [(image path, label path)] and of the paths of test labels.

    They are kept in `dataset_facts.json` until a file changes.  Raises DataError for a bad file.
    """
    path = Path(datatxt_directory) / "dataset_facts.json"
    key = files_key([*(file for pair in pairs for file in pair), *test_labels], ignore_label)
    with suppress(KeyError, TypeError, ValueError):  # damaged
        kept = read_kept(path, key) or {}
        return Facts(*(int(kept[name]) for name in Facts._fields))
    check_pairs(pairs, "full")
    images, labels = zip(*pairs)
    bar = tqdm(images, "colours", unit="image", delay=1, leave=False, disable=None)
    n_channels = 3 if any(has_colours(read_image(image)) for image in bar) else 1
    classes = (classes_in(count_label_values(paths, ignore_label)) for paths in (labels, test_labels))
    facts = Facts(n_channels, *classes, *map(max, zip(*map(image_size, images))))
    keep(path, key, **facts._asdict())
    return facts


# ---------------------------------------------------------------------------------------------------------- the machine
def free_memory():
    """Bytes of memory that this process may still take: what the machine has free, within its container's limit."""
    with open("/proc/meminfo", encoding="ascii") as file:
        free = [1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable:")]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # not there, or "max"
            free.append(int(Path(limit).read_text("ascii")))
    return min(free)


def gpu_memory():
    """Bytes of memory of the first NVIDIA GPU; the driver is there, Runtime.check has asked it."""
    driver, device, size = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_size_t()
    driver.cuInit(0)
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    return size.value


def step_bytes(args, height, width):
    """About how many bytes a training step takes for each image of this size (px), the net's own weights aside."""
    margin = args.geometry.margin
    per_pixel = BYTES_PER_PIXEL[args.mode] * (args.base_channels if args.mode == "Unet" else 1)
    return per_pixel * (height + margin) * (width + margin)


# ---------------------------------------------------------------------------------------------------------- the choices
def choose(args, pairs, held, test_pairs, on_gpu):
    """Set the flags of `args` that are None; returns {flag: why}.

    pairs: [(image path, label path)] to train on; held: those that are held back.  Raises DataError as `facts_of` does, and
    where labels have so many values that they cannot be meant as classes.
    """
    def settle(name, value, why):
        if getattr(args, name) is None:
            setattr(args, name, value)
            reasons[name] = why
    reasons = {}
    if all(getattr(args, name) is not None for name in CHOSEN):  # a run that is resumed
        return {}
    facts = facts_of([*pairs, *held], [label for _, label in test_pairs], args.ignore_label, args.Datatxt_directory)
    settle("n_channels", facts.n_channels, "grey images" if facts.n_channels == 1 else "images in colour")
    if args.n_classes is None:
        check_classes(facts.n_classes, pairs[0][1].parent)
        check_classes(facts.test_classes, test_pairs[0][1].parent)
    n_classes = max(facts.n_classes, facts.test_classes)
    settle("n_classes", n_classes, "values in the labels" + MANY * (n_classes > MOST_USUAL))
    settle("base_channels", BASE_CHANNELS["cuda" if on_gpu else "cpu"], "a GPU" if on_gpu else "a CPU")
    if args.mode != "Unet":
        reasons.pop("base_channels", None)  # kept, but of no meaning
    settle_size(args, settle, facts, on_gpu)
    if args.Time_budget:
        settle("Total_epochs", ENDLESS, "the time ends the run")
        settle("Val_epochs", 0, "tests take a tenth of the time")
    epochs = max(int(np.clip(round(CROPS / len(pairs)), *EPOCHS)), (args.Val_epochs or 0) + 1)
    settle("Total_epochs", epochs, f"{epochs * len(pairs):,} crops, {len(pairs):,} an epoch")
    tested = math.ceil(TESTED * args.Total_epochs * min(1, len(pairs) / len(held or test_pairs)))
    settle("Val_epochs", args.Total_epochs - tested, f"the last {tested} are tested")
    return reasons


def settle_size(args, settle, facts, on_gpu):
    """The crop and the batch: whole images where these are no larger than a crop."""
    largest = facts.height, facts.width
    settle("tile", "full" if max(largest) <= CROP else CROP, f"images of up to {facts.height} x {facts.width} px")
    side = args.tile if isinstance(args.tile, int) else max(largest)
    each = step_bytes(args, *(min(length, side) for length in largest))
    batch, memory = max(BATCH, Ranks.size), gpu_memory() if on_gpu else free_memory()
    while batch // 2 >= Ranks.size and batch * each > LARGEST_SHARE * memory:
        batch //= 2
    whose = "of the GPU" if on_gpu else "that are free"
    settle("Batch_size", batch, f"{batch * each / 1e9:.1f} GB of {memory / 1e9:.0f} GB {whose}")
