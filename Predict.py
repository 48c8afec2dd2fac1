"""Predict images with a trained net.

    python Predict.py --Checkpoint checkpoints/best_model.safetensors --Input my_images/

The checkpoint says which net it holds, and how images are normalised and tiled.  Weights of others
(.pth, safetensors) show most of it; --preset names the published ones.  Images may have any size
and depth, one page or many.  Each gives <name>_pred.png; --probabilities, --overlay
and --instances add <name>_prob.npy, <name>_overlay.png and <name>_instances.tif.  Stacks and images
over 8,192 x 8,192 px give .tif files.  Flags and files are checked before Jittor is imported.
"""
import contextlib
import sys
import time
from pathlib import Path

import numpy as np

from backend import start
from backend.machine import is_out_of_memory
from backend.precision import (NEEDS, add_precision_flag, element_type, find_precisions,
                               refuse_on_device)
from command.bars import progress_bar, say_beside_bars
from command.errors import DataError, describe_failure, run, say_once
from command.files import make_folder
from command.flags import Parser, boolean, number
from command.last_words import last_words
from images.channels import MOST_CHANNELS, to_channels
from images.reading import pages_of
from images.values import NormalisedRows
from images.writing import Bands, page_writer
from masks.answers import assemble, average_of_eight, class_bands, mask_pixels
from masks.colours import overlay
from masks.object_bands import fill_bands
from masks.objects import instances, whole_objects
from masks.outputs import EXTRAS, plan_outputs
from masks.saliency import saliency_input, saliency_map
from MirrorPadding import WHOLE, tiling
from nets.catalogue import CATALOGUE
from nets.checkpoint import assign_weights, read_weights
from nets.levels import find_levels, say_conversion
from nets.recognise import describe_net
from nets.trained import (PRESETS, SALIENCY_PRESETS, OthersFlags, describe, net_of_flags,
                          net_of_header)
from runs.log import duration

SEEN = ("mode", "n_channels", "n_classes")            # flags for what weights show: checked
UNSEEN = ("padding", "align_corners", "mean", "std")  # flags for what weights do not show
SMALLER_TILES = "try --tile 256 or --batch 1"


def build_parser():
    parser = Parser("Predict images with a trained net: a class mask for each.")
    add = parser.add_argument
    add("--Checkpoint", type=Path, default=Path("./checkpoints/best_model.safetensors"),
        help="weights of Main.py, or of others (.pth, safetensors)")
    add("--Input", type=Path, nargs="+", required=True, metavar="path",
        help="images, TIFF stacks, or folders of them")
    add("--Result_directory", type=Path, default=Path("./predictions"),
        help="folder of the predictions")
    add("--probabilities", action="store_true",
        help="write <name>_prob.npy: float32 (classes, height, width)")
    add("--overlay", action="store_true",
        help="write <name>_overlay.png: the image with contours")
    add("--instances", action="store_true",
        help="write <name>_instances.tif: numbered objects, parted where they touch (of a net that "
             "was trained on objects: its components)")
    add("--overwrite", action="store_true", help="write outputs again that are there already")
    add("--tta", type=int, choices=(1, 8), default=1,
        help="8: average the probabilities over flips and rotations")
    add("--tile", type=tiling, metavar="full|N|reference",
        help="full: each image in one pass; N: in tiles of N x N px; reference: in four quadrants "
             "(default: as in training, with large images in tiles of 1,024 px)")
    add("--batch", type=number(int, 1), default=1, help="tiles per forward pass")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto",
        help="where to run; auto: on a GPU where one is usable")
    add_precision_flag(add)
    add_others_flags(parser.add_argument_group("for weights of others than Main.py").add_argument)
    return parser


def add_others_flags(add):
    """The flags for what a checkpoint of Main.py says itself."""
    add("--preset", choices=tuple(PRESETS),
        help="published weights, used as their authors do: u2net and u2netp (saliency), milesial's "
             "U-Net")
    add("--mode", choices=tuple(CATALOGUE), help="the net (default: as the weights show it)")
    add("--n_channels", type=number(int, 1, MOST_CHANNELS + 1),
        help="image channels, up to 16: 1 grey, 3 RGB (default: as the weights show it)")
    add("--n_classes", type=number(int, 1, 256),
        help="outputs of the net, one a class (default: as the weights show it)")
    add("--padding", type=int, choices=(0, 1),
        help="U-Net: 0: valid convolutions; 1: convolutions that keep the size (default: 1 where "
             "the convolutions have no bias, else 0)")
    add("--align_corners", type=boolean,
        help="of bilinear up-sampling (default: True for U-Nets without biases, else False)")
    add("--mean", type=number(float, -1e6, 1e6), nargs="+",
        help="mean of the training images' values in [0, 1], for all channels or each (default: 0)")
    add("--std", type=number(float, 0, include_low=False), nargs="+",
        help="standard deviation of the same values, for all channels or each (default: 1)")


def refuse_contradictions(args, parser):
    """End with exit code 2 for flags that do not go together."""
    refuse_on_device(args.precision, args.device, parser)
    given = [name for name in UNSEEN if getattr(args, name) is not None]
    if args.preset and given:
        parser.error(f"--{given[0]}: --preset {args.preset} says it already")
    if args.preset in SALIENCY_PRESETS and args.tile:
        parser.error(f"--tile: --preset {args.preset} sees each image whole, at 320 x 320 px")


def read_net(args, parser):
    """(TrainedNet, {name: array}) of --Checkpoint."""
    path = args.Checkpoint
    weights, header = read_weights(path)
    found = describe_net(weights, path)
    for name in SEEN:
        if getattr(args, name) not in (None, getattr(found, name)):
            parser.error(f"--{name} {getattr(args, name)}: {path} holds {describe(*found)}")
    if found.n_channels > MOST_CHANNELS:
        raise DataError(f"{path}: its net has n_channels {found.n_channels}; "
                        f"images here have up to {MOST_CHANNELS}")
    if header is not None:
        for name in ("preset", *UNSEEN):
            if getattr(args, name) is not None:
                parser.error(f"--{name}: {path} is a checkpoint of Main.py and says it itself")
        net = net_of_header(header, found, path)
    else:
        others = OthersFlags(*(getattr(args, name) for name in OthersFlags._fields))
        net = net_of_flags(others, found, path)
    tiling(net.tile).check(net.geometry)
    try:
        (args.tile or tiling("full")).check(net.geometry)
    except DataError as error:
        parser.error(str(error))
    return net, weights


# -------------------------------------------------------------------------------------- prediction
class Predictor:
    """Predicts image files: a TrainedNet, its `forward` (see MirrorPadding) and the flags."""

    def __init__(self, net, forward, args):
        self.net, self.args = net, args
        self.forward = average_of_eight(forward) if args.tta == 8 else forward

    def predict(self, job):
        """Write the outputs of a Job; all or none of them."""
        file, uniform, levels = job.file, 0, None
        count = len(file.pages)
        pixels_in_all = count * file.height * file.width
        with contextlib.ExitStack() as stack:
            add = {kind: stack.enter_context(page_writer(path, count, file.height, file.width))
                   for kind, path in job.outputs.items()}
            self.bar = stack.enter_context(
                progress_bar(total=pixels_in_all, desc=file.path.name, unit="px",
                             unit_scale=True, disable=pixels_in_all <= WHOLE))
            for pixels in pages_of(file):
                if levels is None:
                    say_conversion(file, self.net)
                    levels = find_levels(file, pixels, self.net, "overlay" in job.outputs)
                uniform += self.predict_page(file, pixels, levels, add)
        if uniform:
            where = f" in {uniform} of {count} pages" if count > 1 else ""
            say_beside_bars(f"{file.path}: predicted as one class everywhere{where}")

    def predict_page(self, file, pixels, levels, add):
        """Predict one page and hand what was asked for to the writers {kind: add}.

        Returns whether it is all of one class.
        """
        if file.is_large:
            seen = set()
            bands = noted(class_bands(self.parts(file, pixels, levels.white), file.width), seen)
            if self.net.label_kind == "objects":
                bands = fill_bands(bands, self.net.border)
            masks = (mask_pixels(band, self.net.n_classes) for band in bands)
            add["pred"](Bands(masks, file.height, file.width))
            return len(seen) == 1
        if self.net.is_saliency:
            logits = self.forward(saliency_input(to_channels(pixels, 3)))[0]
            probability = saliency_map(logits, file.height, file.width)
            class_map = (probability > 0.5).astype(np.uint8)
        else:
            class_map, probability = assemble(self.parts(file, pixels, levels.white), file.height,
                                              file.width, "prob" in add)
        regions = class_map
        if self.net.label_kind == "objects":
            regions = whole_objects(class_map, self.net.border)
            class_map = (regions > 0).astype(np.uint8)
        elif self.args.instances:
            regions = instances(class_map)
        depth = np.uint16 if regions.max() < 2 ** 16 else np.uint32
        make = {"pred": lambda: mask_pixels(class_map, self.net.n_classes),
                "prob": lambda: probability,
                "overlay": lambda: overlay(pixels, class_map, regions, levels.shades),
                "instances": lambda: regions.astype(depth)}
        made = {kind: make[kind]() for kind in add}  # all, before the first is written
        for kind, page in made.items():
            add[kind](page)
        return class_map.min() == class_map.max()

    def parts(self, file, pixels, white):
        """Yield a page's logits as Parts, with progress."""
        source = NormalisedRows(pixels, self.net.n_channels, self.net.statistics, white)
        for part in self.tile(file).parts(source, self.forward, self.net.geometry,
                                          self.args.batch):
            yield part
            self.bar.update(part.logits[0].size)

    def tile(self, file):
        """How to cut an image: as asked or as in training; what is large in windows."""
        geometry = self.net.geometry
        cut = self.args.tile or tiling(self.net.tile).automatic(geometry, file.height, file.width)
        if cut.blends(geometry, file.height, file.width):
            say_once(f"{self.net.mode} sees beyond any tile: larger images are blended from "
                     f"overlapping tiles of {cut} px, close to --tile full")
        return cut


def noted(bands, seen):
    """Yield `bands`, and put their smallest and largest values into the set `seen`."""
    for band in bands:
        seen.update((band.min(), band.max()))
        yield band


def predict_all(jobs, net, weights, args):
    """Run the Jobs; returns the errors of those that failed."""
    from Model import build_model
    from Process import forward_function
    model = build_model(net.mode, net.n_channels, net.n_classes, **net.options)
    assign_weights(model, weights, args.Checkpoint)
    weights.clear()
    model.element_type = element_type(args.precision)
    model.eval()
    rounded = f", {args.precision}" if args.precision in NEEDS else ""
    print(f"{args.Checkpoint}: {net}; {start.device_name()}{rounded}")
    predictor, errors = Predictor(net, forward_function(model), args), []
    for job in progress_bar(jobs, "predicting", unit="image"):
        path = job.file.path
        try:
            predictor.predict(job)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next image may be sound
            if isinstance(error, (RuntimeError, MemoryError)) and is_out_of_memory(error):
                error = DataError(f"out of memory: {SMALLER_TILES}")
            errors.append(describe_failure(error, path, args.Result_directory))
    return errors


def main():
    parser = build_parser()
    args = parser.parse_args()
    refuse_contradictions(args, parser)
    nvcc, _ = start.check_machine(args.device)
    if args.precision not in ("auto", *find_precisions(bool(nvcc))):
        raise DataError(f"--precision {args.precision}: {NEEDS[args.precision].missing}; leave it "
                        "out")
    net, weights = read_net(args, parser)
    extras = [name for name in EXTRAS if getattr(args, name)]
    plan = plan_outputs(args.Input, args.Result_directory, extras, args.overwrite, net)
    make_folder(args.Result_directory)
    if plan.done:
        print(f"Images done already: {plan.done}; they stay as they are "
              "(--overwrite makes them anew)")
    failed = []
    if plan.jobs:
        started = time.monotonic()
        start.import_jittor(args.device, args.precision == "float32")
        with last_words(f"Predict.py: error: killed, for lack of memory perhaps: {SMALLER_TILES}"):
            failed = predict_all(plan.jobs, net, weights, args)
        print(f"Images predicted: {len(plan.jobs) - len(failed)}, in "
              f"{duration(time.monotonic() - started)}, into {args.Result_directory}/")
    for error in [*plan.errors, *failed]:
        print(f"Predict.py: error: {error}", file=sys.stderr)
    return 1 if plan.errors or failed else 0


if __name__ == "__main__":
    sys.exit(run(main))
