"""What Main.py chooses where no flag says otherwise: from the images, the labels, the net and the machine's memory.

Each choice is printed with its reason, and kept with the run: `--resume` does not choose again, but for the first epoch
that is tested, where the run now ends before it.
"""
import math

import numpy as np

from backend import ranks
from backend.machine import free_memory, gpu_memory
from datasets.label_values import MANY, MOST_USUAL, check_classes
from datasets.survey import facts_of
from runs.log import ENDLESS

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
    batch, memory = max(BATCH, ranks.size()), gpu_memory() if on_gpu else free_memory()
    while batch // 2 >= ranks.size() and batch * each > LARGEST_SHARE * memory:
        batch //= 2
    whose = "of the GPU" if on_gpu else "that are free"
    settle("Batch_size", batch, f"{batch * each / 1e9:.1f} GB of {memory / 1e9:.0f} GB {whose}")
