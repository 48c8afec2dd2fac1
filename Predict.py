"""Predict images with a trained net.

    python Predict.py --Checkpoint checkpoints/best_model.safetensors --Input my_images/ --Result_directory predictions

The checkpoint says what the net is and how its images were normalised and tiled.  Others' weights (.pth, safetensors)
say most of it by their names and shapes; --preset names the published ones.  Images may be of any number and size, grey
or RGB, 8 or 16 bits, single or stacks.  For each, <name>_pred.png; with --probabilities, --overlay and --instances also
<name>_prob.npy, <name>_overlay.png and <name>_instances.tif; of stacks and of images of over 64 million pixels, .tif.
Flags and files are checked before Jittor is imported: a mistake is answered in a second.
"""
import contextlib
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from backend import machine, start
from command import last_words
from command.errors import DataError, run, say_once
from command.files import make_folder
from command.flags import Parser, boolean, number, tile
from images.channels import to_channels
from images.formats import list_images
from images.pages import LARGE, Bands, ImageFile, examine, page_writer, pages_of, row_bands
from images.values import NormalisedRows, Statistics, white_of
from masks.answers import assemble, average_of_eight, class_bands, mask_pixels
from masks.colours import overlay
from masks.objects import instances
from masks.saliency import saliency_input, saliency_map
from MirrorPadding import tiled_logits
from nets.checkpoint import assign_weights, read_weights
from nets.geometry import WHOLE, automatic_tile, check_tile, geometry_of
from nets.recognise import describe_net
from runs.log import duration

SEEN = ("mode", "n_channels", "n_classes")            # flags for what weights show: checked against them
UNSEEN = ("padding", "align_corners", "mean", "std")  # flags for what weights alone do not show
LESS_MEMORY = "try --tile 256 or --batch 1"
PRESETS = {"u2net": "U2net", "u2netp": "U2netS", "milesial": "Unet"}  # the published weights' nets


def parse_arguments():
    parser = Parser("Predict images with a trained net: a class mask for each.")
    add = parser.add_argument
    add("--Checkpoint", type=Path, default=Path("./checkpoints/best_model.safetensors"),
        help="weights: of Main.py, or others' (.pth, safetensors)")
    add("--Input", type=Path, nargs="+", required=True, metavar="path", help="images, TIFF stacks, folders of them")
    add("--Result_directory", type=Path, default=Path("./predictions"), help="folder of the predictions")
    add("--probabilities", action="store_true", help="write <name>_prob.npy: float32 (classes, height, width)")
    add("--overlay", action="store_true", help="write <name>_overlay.png: the image with contours")
    add("--instances", action="store_true", help="write <name>_instances.tif: objects numbered, touching ones parted")
    add("--overwrite", action="store_true", help="make anew what is there")
    add("--tta", type=int, choices=(1, 8), default=1, help="8: average the probabilities over flips and rotations")
    add("--tile", type=tile, metavar="full|N|reference",
        help="how images are cut; see Main.py (default: as in training, and large images into windows)")
    add("--batch", type=number(int, 1), default=1, help="tiles per forward pass")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to run")
    others = parser.add_argument_group("for weights that are not of Main.py")
    add = others.add_argument
    add("--preset", choices=tuple(PRESETS),
        help="published weights, by their authors' protocol: u2net and u2netp (saliency), milesial's U-Net")
    add("--mode", choices=("Unet", "U2net", "U2netS"), help="net (default: as the weights show it)")
    add("--n_channels", type=int, choices=(1, 3), help="1 grey, 3 RGB (default: as the weights show it)")
    add("--n_classes", type=number(int, 1, 256), help="outputs of the net (default: as the weights show it)")
    add("--padding", type=int, choices=(0, 1),
        help="of U-Net's convolutions (default: 1 where they have no bias, as milesial's, otherwise 0)")
    add("--align_corners", type=boolean, help="of the up-sampling (default: True where --padding is 1 by default)")
    add("--mean", type=number(float, -1e6, 1e6), nargs="+", help="of values in [0, 1], per channel (default: 0)")
    add("--std", type=number(float, 0, include_low=False), nargs="+", help="of the same, per channel (default: 1)")
    args = parser.parse_args()
    given = [name for name in UNSEEN if getattr(args, name) is not None]
    if args.preset and given:
        parser.error(f"--{given[0]}: --preset {args.preset} says it already")
    if args.preset in ("u2net", "u2netp") and args.tile:
        parser.error(f"--tile: --preset {args.preset} sees each image whole, at 320 x 320 px")
    return args, parser


# -------------------------------------------------------------------------------------------------------------- the net
@dataclass
class Net:
    """What there is to know of a net before it is built."""
    mode: str
    n_channels: int
    n_classes: int
    options: dict
    statistics: Statistics
    tile: object = "full"
    saliency: bool = False  # by U-2-Net's own protocol

    @property
    def geometry(self):
        names = ("bilinear", "padding", "align_corners")
        return geometry_of(self.mode, **{name: self.options[name] for name in names if name in self.options})

    def __str__(self):
        said = {"n_channels": self.n_channels, "n_classes": self.n_classes, **self.options}
        return ", ".join([self.mode, *(f"{name} {value}" for name, value in said.items())])


def net_of_header(header, net, path):
    """Complete `net`, as its weights show it, by the header of a checkpoint of Main.py."""
    try:
        told = header["mode"], header["n_channels"], header["n_classes"]
        statistics = Statistics(*(tuple(float(value) for value in header[name]) for name in ("mean", "std")),
                                header.get("bits", 0))
        options = {name: header["options"][name] for name in ("padding", "align_corners") if name in header["options"]}
        cut = header["tile"]
        if not (cut in ("full", "reference") or cut >= 16) or any(value not in (0, 1) for value in options.values()) \
                or statistics.bits not in (0, 8, 16):
            raise ValueError(f"tile {cut!r}, bits {statistics.bits!r}, {options}")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: its header is not as Main.py writes it ({error!r}); choose another") from None
    if told != (net.mode, net.n_channels, net.n_classes):
        raise DataError(f"{path}: its header says {told[0]}, n_channels {told[1]}, n_classes {told[2]}, its weights "
                        f"are those of {net}; choose another")
    lengths = {len(statistics.mean), len(statistics.std)}
    if lengths != {net.n_channels} or not all(map(math.isfinite, statistics.mean)) or not min(statistics.std) > 0:
        raise DataError(f"{path}: its header's mean and std do not suit n_channels {net.n_channels}; choose another")
    net.options.update(options)
    net.statistics, net.tile = statistics, cut


def net_of_flags(args, net):
    """Complete `net`, as its weights show it, by what the flags say or what is likely."""
    def per_channel(name, default):
        values = getattr(args, name) or [default]
        if len(values) not in (1, net.n_channels):
            raise DataError(f"--{name}: {len(values)} values, but the net has n_channels {net.n_channels}")
        return tuple(values * net.n_channels if len(values) == 1 else values)
    without_bias = net.options.get("conv_bias") is False  # milesial's U-Net and those made after it
    net.statistics = Statistics(per_channel("mean", 0.0), per_channel("std", 1.0))
    net.options["align_corners"] = without_bias if args.align_corners is None else args.align_corners
    if net.mode == "Unet":
        net.options["padding"] = int(without_bias) if args.padding is None else args.padding
    net.saliency = args.preset in ("u2net", "u2netp")
    if args.preset and (PRESETS[args.preset], 3) != (net.mode, net.n_channels):
        raise DataError(f"--preset {args.preset}: {args.Checkpoint} holds {net}")
    if net.saliency and net.n_classes != 1:
        raise DataError(f"--preset {args.preset}: {args.Checkpoint} has n_classes {net.n_classes}, not 1")


def read_net(args, parser):
    """(Net, {name: array}) of --Checkpoint."""
    path = args.Checkpoint
    weights, header = read_weights(path)
    net = Net(*describe_net(weights, path), Statistics((), ()))
    for name in SEEN:
        if getattr(args, name) not in (None, getattr(net, name)):
            parser.error(f"--{name} {getattr(args, name)}: {path} holds {net}")
    if net.n_channels not in (1, 3):
        raise DataError(f"{path}: its net has n_channels {net.n_channels}; images here are grey or RGB")
    if header is not None:
        for name in ("preset", *UNSEEN):
            if getattr(args, name) is not None:
                parser.error(f"--{name}: {path} is a checkpoint of Main.py and says it itself")
        net_of_header(header, net, path)
    else:
        net_of_flags(args, net)
    check_tile(net.tile, net.geometry)
    try:
        check_tile(args.tile, net.geometry)
    except DataError as error:
        parser.error(str(error))
    return net, weights


# ----------------------------------------------------------------------------------------------------- files in and out
class Job(NamedTuple):
    """An image file and the outputs to make of it: {kind: path}."""
    file: ImageFile
    outputs: dict


def gather(inputs, result_directory):
    """The image files that --Input names, each once, in order; DataError where two predictions would have one name."""
    found = {}
    for path in inputs:
        if path.is_dir():
            if path.resolve() == result_directory.resolve():
                raise DataError(f"{path}: both --Input and --Result_directory; choose another folder for the results")
            files = list(list_images(path).values())
            if not files:
                raise DataError(f"{path}: no images here")
        elif path.exists():
            files = [path]
        else:
            raise DataError(f"{path}: no such file or folder")
        found.update((file.resolve(), file) for file in files)
    by_stem = {}
    for file in found.values():
        if file.stem in by_stem:
            raise DataError(f"{file}: its predictions would be named as those of {by_stem[file.stem]}; rename one")
        by_stem[file.stem] = file
    return list(found.values())


def outputs_of(file, args):
    """{kind: path} of all that the flags ask for of an ImageFile."""
    stack = len(file.numbers) > 1
    suffixes = {"pred": ".tif" if stack or file.is_large else ".png"}
    if not file.is_large:
        if args.probabilities:
            suffixes["prob"] = ".npy"
        if args.overlay:
            suffixes["overlay"] = ".tif" if stack else ".png"
        if args.instances:
            suffixes["instances"] = ".tif"
    return {kind: args.Result_directory / f"{file.path.stem}_{kind}{suffix}" for kind, suffix in suffixes.items()}


def plan(args, net):
    """(Jobs, number of files that are done already, errors): files that cannot be read are told at the end."""
    jobs, done, errors = [], 0, []
    paths = gather(args.Input, args.Result_directory)
    inputs = {path.resolve() for path in paths}
    for path in paths:
        try:
            file = examine(path)
        except DataError as error:
            errors.append(str(error))
            continue
        outputs = outputs_of(file, args)
        if file.is_large and (args.probabilities or args.overlay or args.instances):
            say_once(f"{path}: over {LARGE:,} pixels: only its mask is made, no probabilities, overlay or instances")
        for output in outputs.values():
            if output.resolve() in inputs:
                raise DataError(f"{output}: would overwrite an image of --Input; choose another --Result_directory")
        if not args.overwrite:
            outputs = {kind: output for kind, output in outputs.items() if not output.exists()}
        if not outputs:
            done += 1
        elif file.is_large and net.saliency:
            errors.append(f"{path}: over {LARGE:,} pixels, and --preset {args.preset} sees 320 x 320; make it smaller")
        else:
            jobs.append(Job(file, outputs))
    return jobs, done, errors


# ----------------------------------------------------------------------------------------------------------- prediction
class Predictor:
    """Predicts image files: net, its `forward` (see MirrorPadding) and what the flags ask for."""

    def __init__(self, net, forward, args):
        self.net, self.args = net, args
        self.forward = average_of_eight(forward) if args.tta == 8 else forward

    def predict(self, job):
        """Write the outputs of a Job; all or none of them."""
        file, uniform, whites = job.file, 0, None
        pixels_in_all = len(file.numbers) * file.height * file.width
        with contextlib.ExitStack() as stack:
            add = {kind: stack.enter_context(page_writer(path, len(file.numbers), file.height, file.width))
                   for kind, path in job.outputs.items()}
            self.bar = stack.enter_context(tqdm(total=pixels_in_all, desc=file.path.name, unit="px", unit_scale=True,
                                                leave=False, disable=None if pixels_in_all > WHOLE else True))
            for pixels in pages_of(file):
                whites = whites or self.whites(file, pixels)
                uniform += self.predict_page(file, pixels, *whites, add)
        if uniform:
            where = f" in {uniform} of {len(file.numbers)} pages" if len(file.numbers) > 1 else ""
            tqdm.write(f"{file.path}: predicted as one class everywhere{where}", file=sys.stderr)

    def predict_page(self, file, pixels, white, shown_white, add):
        """Predict one page and hand what was asked for to the writers {kind: add}; whether it is all of one class."""
        self.say_conversion(pixels)
        if file.is_large:
            seen = set()
            bands = noted(class_bands(self.parts(file, pixels, white), file.width), seen)
            add["pred"](Bands((mask_pixels(band, self.net.n_classes) for band in bands), file.height, file.width))
            return len(seen) == 1
        if self.net.saliency:
            probability = saliency_map(self.forward(saliency_input(to_channels(pixels, 3)))[0], file.height, file.width)
            class_map = (probability > 0.5).astype(np.uint8)
        else:
            class_map, probability = assemble(self.parts(file, pixels, white), file.height, file.width, "prob" in add)
        regions = instances(class_map) if self.args.instances else class_map
        make = {"pred": lambda: mask_pixels(class_map, self.net.n_classes), "prob": lambda: probability,
                "overlay": lambda: overlay(pixels, class_map, regions, shown_white),
                "instances": lambda: regions.astype(np.uint16 if regions.max() < 2 ** 16 else np.uint32)}
        made = {kind: make[kind]() for kind in add}  # all, before the first is written
        for kind, page in made.items():
            add[kind](page)
        return class_map.min() == class_map.max()

    def parts(self, file, pixels, white):
        """Yield a page's logits part by part, as `tiled_logits` does, with progress."""
        source = NormalisedRows(pixels, self.net.n_channels, self.net.statistics, white)
        for part in tiled_logits(source, self.forward, self.net.geometry, self.tile(file), self.args.batch):
            yield part
            self.bar.update(part[2][0].size)

    def tile(self, file):
        """How to cut an image: as asked or as in training; what would take much memory in windows."""
        net = self.net
        cut = self.args.tile or net.tile
        if cut == "full" and not self.args.tile:
            cut = automatic_tile(net.geometry, file.height, file.width)
        if isinstance(cut, int) and net.geometry.edge is None and max(file.height, file.width) > cut:
            say_once(f"{net.mode} sees beyond any tile: larger images are blended from overlapping tiles of {cut} px, "
                     "close to --tile full")
        return cut

    def say_conversion(self, pixels):
        if (3 if len(pixels.shape) == 3 else 1) != self.net.n_channels:
            say_once("RGB images are turned grey: the net takes one channel" if len(pixels.shape) == 3 else
                     "Grey images are taken as RGB: the net takes three channels")

    def whites(self, file, pixels):
        """The values that count as 1 for the net, and that an overlay shows white: the same for all pages of a stack.

        pixels: the file's first page.  Of 16 bits a camera may fill 12: white is shown what is brightest.
        """
        if pixels.dtype != np.uint16:
            if self.net.statistics.bits == 16:
                say_once("Images of 8 bits, but the net was trained on 16 bits: give it the images as the microscope stored "
                         "them, for of an export in 8 bits nobody knows how bright it was")
            return (np.iinfo(pixels.dtype).max,) * 2
        every = [pixels] if len(file.numbers) == 1 else pages_of(file)
        largest = max(int(band.max()) for page in every for band in row_bands(page))
        white = white_of(largest, pixels.dtype, self.net.statistics)
        if white != np.iinfo(pixels.dtype).max:
            say_once(f"{file.path}: 16-bit values up to {largest:,}: {white:,} counts as white, for the training "
                     "images were brighter")
        return white, max(largest, 1)


def noted(bands, seen):
    """Yield `bands`, and put their smallest and largest values into the set `seen`."""
    for band in bands:
        seen.update((band.min(), band.max()))
        yield band


def predict_all(jobs, net, weights, args):
    """Run the Jobs; the errors of those that failed."""
    from Model import build_model
    from Process import forward_function
    model = build_model(net.mode, net.n_channels, net.n_classes, **net.options)
    assign_weights(model, weights, args.Checkpoint)
    weights.clear()
    model.eval()
    print(f"{args.Checkpoint}: {net}; {start.device_name()}")
    predictor, errors = Predictor(net, forward_function(model), args), []
    for job in tqdm(jobs, "predicting", unit="image", leave=False, disable=None):
        try:
            predictor.predict(job)
        except DataError as error:
            named = str(error).startswith(str(job.file.path))
            errors.append(str(error) if named else f"{job.file.path}: {error}")
        except OSError as error:
            errors.append(f"{job.file.path}: {error.filename or args.Result_directory}: {error.strerror or error}")
        except (RuntimeError, MemoryError) as error:
            if not machine.is_out_of_memory(error):
                raise
            errors.append(f"{job.file.path}: out of memory: {LESS_MEMORY}")
    return errors


def main():
    args, parser = parse_arguments()
    start.check_machine(args.device)
    net, weights = read_net(args, parser)
    jobs, done, errors = plan(args, net)
    make_folder(args.Result_directory)
    if done:
        print(f"Images done already: {done}; they stay as they are (--overwrite makes them anew)")
    if jobs:
        started = time.monotonic()
        start.import_jittor(args.device)
        with last_words(f"Predict.py: error: killed, probably for lack of memory: {LESS_MEMORY}"):
            failed = predict_all(jobs, net, weights, args)
        print(f"Images predicted: {len(jobs) - len(failed)}, in {duration(time.monotonic() - started)}, into "
              f"{args.Result_directory}/")
        errors += failed
    for error in errors:
        print(f"Predict.py: error: {error}", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(run(main))
