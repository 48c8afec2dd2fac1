"""What is chosen where no flag says otherwise: from images, labels, the net and the memory.

`complete` returns settings without gaps.  Each choice is printed with its reason and kept with the
run.  `--resume` does not choose again, but for the number of workers, and for the first tested
epoch where the run now ends before it.
"""
import dataclasses
import math
from typing import NamedTuple

import numpy as np

from backend import ranks
from backend.precision import NEEDS
from backend.start import CUDNN_WORKSPACE
from command.errors import DataError
from datasets.label_values import MOST_USUAL, NUMBERED
from masks.score_rows import OF_OBJECTS
from nets.catalogue import GPU_COPIES, GPU_COPIES_OF_AVERAGES
from runs.log import ENDLESS
from runs.settings import Every, Settings

# the flags that can be left to this module and that a run keeps
CHOSEN = ("n_channels", "label_kind", "n_classes", "loss", "base_channels", "tile", "Batch_size",
          "Total_epochs", "Val_epochs", "precision")
BATCH = 4            # crops per step, where the memory allows
CROPS = 10_000       # that a run sees, copies that DataAugmentation.py made among them
EPOCHS = (10, 2500)  # fewest and most: with four images or more, and up to a thousand, that many
TESTED = 0.25        # share of the epochs that are tested, the last ones; and most images in these
                     # tests for each crop that is trained on (a large image counts as its crops)
MANY_CROPS = 16      # crops' areas: of an image that is larger, an epoch takes several crops
BASE_CHANNELS = {"cpu": 16, "cuda": 64}
SAVE_EVERY = {"cpu": Every(1, ""), "cuda": Every(1, "m")}  # an epoch may take a second there
LOADER_THREADS = 2, 16  # fewest, and most
LOSS = {"classes": "ce_dice", "objects": "weighted_ce"}  # only the weight map parts objects
LARGEST_SHARE = 0.5  # of the memory that is free, for a batch that is left to choose


class Device(NamedTuple):
    """Where a run will train."""
    is_gpu: bool
    memory: int  # bytes: the GPU's, or those that are free
    precisions: tuple = ("float32",)  # that it has, of precision.PRECISIONS
    cores: int = 1  # of the processor

    @property
    def whose(self):
        return "of the GPU" if self.is_gpu else "that are free"


class Choice(NamedTuple):
    """Settings without gaps, and why."""
    settings: Settings
    reasons: dict  # {flag: why} of what was chosen


def complete(settings, facts, device, crop):
    """Choose what the settings leave open: Choice.

    facts: datasets.survey.SetFacts.  device: Device.  crop: the tiling for a tile that is left to
    choose.  Raises DataError where --best_by wants numbered objects and labels are classes, and
    where --precision wants what the device has not.
    """
    values, reasons = settings.flags(), {}

    def settle(name, value, why):
        if values[name] is None:
            values[name] = value
            if why:
                reasons[name] = why
    if settings.training.precision not in (None, *device.precisions):
        refuse_missing(settings.training.precision, settings.run)
        values["precision"] = None
    if "tf32" in device.precisions:
        settle("precision", "tf32", "a GPU")
    else:
        settle("precision", "float32", "a GPU without TF32" if device.is_gpu else "")
    what = {1: "grey images", 3: "images in colour"}
    settle("n_channels", facts.n_channels,
           what.get(facts.n_channels, f"images of {facts.n_channels} channels"))
    settle("label_kind", *facts.label_kind)
    mistake = find_wrong_chooser(values["best_by"], values["label_kind"], values["n_classes"])
    if mistake:
        raise DataError(mistake)
    doubt = f"; {NUMBERED}" if facts.n_classes > MOST_USUAL else ""
    are_objects = values["label_kind"] == "objects"
    settle("n_classes", facts.n_classes,
           "objects and background" if are_objects else f"values in the labels{doubt}")
    settle("loss", LOSS[values["label_kind"]], "parts objects that touch" if are_objects else "")
    kind = "cuda" if device.is_gpu else "cpu"
    settle("base_channels", BASE_CHANNELS[kind], "a GPU" if device.is_gpu else "a CPU")
    if "base_channels" not in settings.net.row.flags:
        reasons.pop("base_channels", None)  # kept, but of no meaning
    settle("tile", crop.for_images(facts.height, facts.width),
           f"images of up to {facts.height} x {facts.width} px")
    settle("Batch_size", *choose_batch(settings.replace(**values), facts, device))
    settle("workers", choose_workers(device), f"{device.cores} cores" if device.is_gpu else "")
    settle("save_every", SAVE_EVERY[kind], "a GPU" if device.is_gpu else "")
    if values["Time_budget"]:
        settle("Total_epochs", ENDLESS, "the time ends the run")
        settle("Val_epochs", 0, "tests take a tenth of the time")
    crops, tested = (sum(crops_of(values["tile"], values["crops_per_image"], *size)
                         for size in sizes) for sizes in (facts.training_sizes, facts.tested_sizes))
    epochs = int(np.clip(round(CROPS / crops), *EPOCHS))
    epochs = max(epochs, (values["Val_epochs"] or 0) + 1)
    settle("Total_epochs", epochs, f"{epochs * crops:,} crops, {crops:,} an epoch")
    total = values["Total_epochs"]
    tested = math.ceil(TESTED * total * min(1, crops / tested))
    settle("Val_epochs", total - tested, f"the last {tested} are tested")
    return Choice(settings.replace(**values), reasons)


def refuse_missing(precision, run):
    """Raise DataError for a precision that the device has not, unless --force resumes the run.

    run: RunSettings.
    """
    missing = NEEDS[precision].missing
    if not run.resume:
        raise DataError(f"--precision {precision}: {missing}; leave it out")
    if not run.force:
        raise DataError(f"--resume: the run has --precision {precision}, but {missing}; go on "
                        "where it began, or add --force, which goes on without it")


def crops_of(tile, wanted, height, width):
    """How many crops an epoch takes of an image of this size.

    tile: of the training.  wanted: a number, or "auto": as many as cover a large image once.
    """
    if wanted != "auto":
        return wanted
    areas = tile.areas(height, width)
    return round(areas) if areas > MANY_CROPS else 1


def find_wrong_chooser(best_by, label_kind, n_classes):
    """What is wrong with --best_by: "" where nothing is.  label_kind, n_classes: None, unknown."""
    if best_by in OF_OBJECTS and (label_kind == "classes" or n_classes not in (None, 2)):
        return (f"--best_by {best_by}: these labels are classes; only numbered objects have this "
                "score (--label_kind objects)")
    return ""


def choose_batch(settings, facts, device):
    """(the batch that half of the memory holds, why), of as many images as ranks or more."""
    each, batch = image_bytes(settings, facts, device.is_gpu), max(BATCH, ranks.size())
    room = device.memory - reserved_bytes(settings, device.is_gpu)
    while batch // 2 >= ranks.size() and batch * each > LARGEST_SHARE * room:
        batch //= 2
    return batch, (f"{batch * each / 1e9:.1f} GB of {device.memory / 1e9:.0f} GB {device.whose}")


def choose_workers(device):
    """The number of threads that prepare batches: where a GPU computes, the processor is free."""
    if not device.is_gpu:
        return LOADER_THREADS[0]
    return int(np.clip(device.cores // ranks.size_here() - 1, *LOADER_THREADS))


def image_bytes(settings, facts, is_gpu=False):
    """About how many bytes a training step takes for each image, `reserved_bytes` apart."""
    net, tile = settings.net, settings.training.tile
    height, width = tile.input_sides(net.geometry, facts.height, facts.width)
    pixels = tile.inputs_per_image * height * width
    # the row's number is that of RGB images
    more = 4 * max(0, (settings.data.n_channels or facts.n_channels) - 3)
    of_row = net.row.gpu_bytes_per_pixel if is_gpu else net.row.bytes_per_pixel
    return (of_row(net.options) + more) * pixels


def reserved_bytes(settings, is_gpu):
    """About how many bytes a run takes on a GPU whatever the images are; 0 on a CPU.

    These are the copies of the weights and cuDNN's workspace.
    """
    if not is_gpu:
        return 0
    copies = GPU_COPIES + (GPU_COPIES_OF_AVERAGES if settings.training.ema else 0)
    return 4 * copies * settings.net.row.parameters(settings.net.options) + CUDNN_WORKSPACE


def check_memory(settings, facts, device):
    """Raise DataError where a training step is estimated not to fit into the free memory."""
    own = -(-settings.training.Batch_size // ranks.size())  # this process's part of a batch
    if not device.is_gpu:
        own *= ranks.size_here()
    if settings.training.Batch_size == 1 and facts.shapes:  # otherwise smaller ones are mirrored
        every = [dataclasses.replace(facts, height=height, width=width)
                 for height, width in facts.shapes]
        facts = max(every, key=lambda each: image_bytes(settings, each))
    needed = own * image_bytes(settings, facts, device.is_gpu)
    needed += reserved_bytes(settings, device.is_gpu)
    if needed > device.memory:
        height, width = settings.training.tile.sides(facts.height, facts.width)
        raise DataError(f"a training step on {height} x {width} px takes about "
                        f"{needed / 1e9:.1f} GB, but there are {device.memory / 1e9:.1f} GB "
                        f"{device.whose}; {name_ways_out(settings, max(height, width))}")


def name_ways_out(settings, side):
    """The flags that make a training step on up to `side` px smaller, for people."""
    ways = [f"--tile {256 if side > 256 else 128}"]
    if settings.training.protocol != "fast":
        ways.append("--protocol fast")
    if settings.training.Batch_size > ranks.size():
        ways.append("a smaller --Batch_size")
    if "base_channels" in settings.net.row.flags:
        ways.append("fewer --base_channels")
    *others, last = ways
    return f"{', '.join(others)} or {last} take less" if others else f"{last} takes less"
