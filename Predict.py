"""Predict images with a trained net.

    python Predict.py --Checkpoint checkpoints/best_model.safetensors --Input my_images/
    python Predict.py --Checkpoint checkpoints/ --Input my_images/       # the mean of all folds

The checkpoint says which net it holds, and how images are normalised and tiled.  Weights of others
(.pth, safetensors) show most of it; --preset names the published ones.  Of several nets the
probabilities are averaged.  Images may have any size and depth, one page or many.  Each gives
<name>_pred.png; --probabilities, --overlay and --instances add <name>_prob.npy, <name>_overlay.png
and <name>_instances.tif.  Stacks and images over 8,192 x 8,192 px give .tif files.  Flags and files
are checked before Jittor is imported.
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
from command.flags import Parser, number
from command.last_words import last_words
from images.channels import to_channels
from images.reading import pages_of
from images.values import NormalisedRows
from images.writing import Bands, page_writer
from masks.answers import (assemble, average_of_eight, average_of_nets, class_bands,
                           mask_pixels)
from masks.colours import overlay
from masks.object_bands import fill_bands
from masks.objects import instances, whole_objects, without_small
from masks.outputs import EXTRAS, plan_outputs
from masks.saliency import saliency_input, saliency_map
from MirrorPadding import WHOLE, tiling
from nets.ensemble import Ensemble, describe_members, find_checkpoints, read_members
from nets.flags import add_others_flags, refuse_preset
from nets.levels import find_levels, say_conversion
from runs.log import duration
from runs.resume import BEST

SMALLER_TILES = "try --tile 256 or --batch 1"


def build_parser():
    parser = Parser("Predict images with a trained net: a class mask for each.")
    add = parser.add_argument
    add("--Checkpoint", type=Path, nargs="+", metavar="path",
        default=[Path("./checkpoints/best_model.safetensors")],
        help="weights of Main.py, or of others (.pth, safetensors); of several files, or of a "
             "folder that holds folds, the probabilities are averaged")
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


def read_nets(args, parser):
    """The nets.ensemble.Members of --Checkpoint, whose geometry suits --tile."""
    members = read_members(find_checkpoints(args.Checkpoint, BEST), args, parser)
    for member in members:
        tiling(member.net.tile).check(member.net.geometry)
        try:
            (args.tile or tiling("full")).check(member.net.geometry)
        except DataError as error:
            parser.error(str(error))
    return members


# -------------------------------------------------------------------------------------- prediction
class Predictor:
    """Predicts image files.

    ensemble: nets.ensemble.Ensemble.  forwards: the `forward` of each net, as in MirrorPadding.
    args: the flags.
    """

    def __init__(self, ensemble, forwards, args):
        self.ensemble, self.args = ensemble, args
        self.forwards = list(map(average_of_eight, forwards)) if args.tta == 8 else forwards

    def predict(self, job):
        """Write the outputs of a Job; all or none of them."""
        file, uniform, levels = job.file, 0, None
        count = len(file.pages)
        pixels_in_all = count * file.height * file.width
        with contextlib.ExitStack() as stack:
            add = {kind: stack.enter_context(page_writer(path, count, file.height, file.width))
                   for kind, path in job.outputs.items()}
            self.bar = stack.enter_context(
                progress_bar(total=pixels_in_all * len(self.forwards), desc=file.path.name,
                             unit="px", unit_scale=True, disable=pixels_in_all <= WHOLE))
            for pixels in pages_of(file):
                if levels is None:
                    levels = self.find_levels(file, pixels, "overlay" in job.outputs)
                uniform += self.predict_page(file, pixels, levels, add)
        if uniform:
            where = f" in {uniform} of {count} pages" if count > 1 else ""
            say_beside_bars(f"{file.path}: predicted as one class everywhere{where}")

    def find_levels(self, file, pixels, is_shown):
        """The nets.levels.Levels of a file for each net; see `find_levels` there."""
        for net in self.ensemble.nets:
            say_conversion(file, net)
        return [find_levels(file, pixels, net, is_shown) for net in self.ensemble.nets]

    def predict_page(self, file, pixels, levels, add):
        """Predict one page and hand what was asked for to the writers {kind: add}.

        Returns whether it is all of one class.
        """
        if file.is_large:
            return self.predict_bands(file, pixels, levels, add["pred"])
        ensemble, cut = self.ensemble, self.ensemble.cut
        class_map, probability = self.answer(file, pixels, levels, "prob" in add)
        if ensemble.label_kind == "objects":
            regions = whole_objects(class_map, ensemble.border, cut.smallest_object)
            class_map = (regions > 0).astype(np.uint8)
        else:
            class_map = without_small(class_map, cut.smallest_object)
            regions = instances(class_map) if self.args.instances else class_map
        depth = np.uint16 if regions.max() < 2 ** 16 else np.uint32
        make = {"pred": lambda: mask_pixels(class_map, ensemble.n_classes),
                "prob": lambda: probability,
                "overlay": lambda: overlay(pixels, class_map, regions, levels[0].shades),
                "instances": lambda: regions.astype(depth)}
        made = {kind: make[kind]() for kind in add}  # all, before the first is written
        for kind, page in made.items():
            add[kind](page)
        return class_map.min() == class_map.max()

    def predict_bands(self, file, pixels, levels, add):
        """`predict_page` of a large image, whose mask alone is made, from the top down."""
        ensemble, cut, seen = self.ensemble, self.ensemble.cut, set()
        bands = class_bands(self.parts(file, pixels, levels), file.width, cut.threshold)
        if ensemble.label_kind == "objects" or cut.smallest_object:
            bands = fill_bands(bands, ensemble.border, cut.smallest_object)
        masks = (mask_pixels(band, ensemble.n_classes) for band in noted(bands, seen))
        add(Bands(masks, file.height, file.width))
        return len(seen) == 1

    def answer(self, file, pixels, levels, with_probabilities):
        """(class map, probability) of a page, as masks.answers.assemble gives them."""
        if self.ensemble.is_saliency:
            logits = self.forwards[0](saliency_input(to_channels(pixels, 3)))[0]
            probability = saliency_map(logits, file.height, file.width)
            return (probability > 0.5).astype(np.uint8), probability
        return assemble(self.parts(file, pixels, levels), file.height, file.width,
                        with_probabilities, self.ensemble.cut.threshold)

    def parts(self, file, pixels, levels):
        """Yield a page's logits as Parts: of the only net, or of the mean of all."""
        answers = [self.parts_of_net(file, pixels, *each)
                   for each in zip(self.ensemble.nets, self.forwards, levels)]
        if len(answers) == 1:
            return answers[0]
        return average_of_nets(answers, self.ensemble.n_classes, file.width)

    def parts_of_net(self, file, pixels, net, forward, levels):
        """Yield a net's logits of a page as Parts, with progress."""
        source = NormalisedRows(pixels, net.n_channels, net.statistics, levels.white)
        tile = self.tile(file, net)
        for part in tile.parts(source, forward, net.geometry, self.args.batch):
            yield part
            self.bar.update(part.logits[0].size)

    def tile(self, file, net):
        """How a net cuts an image: as asked or as in training; what is large in windows."""
        geometry = net.geometry
        cut = self.args.tile or tiling(net.tile).automatic(geometry, file.height, file.width)
        if cut.blends(geometry, file.height, file.width):
            say_once(f"{net.mode} sees beyond any tile: larger images are blended from "
                     f"overlapping tiles of {cut} px, close to --tile full")
        return cut


def noted(bands, seen):
    """Yield `bands`, and put their smallest and largest values into the set `seen`."""
    for band in bands:
        seen.update((band.min(), band.max()))
        yield band


def build_forwards(members, element):
    """The `forward` of each Member.  Its weights move into its model.

    element: the type of what passes from layer to layer; see backend.precision.element_type.
    """
    from Process import trained_forward
    forwards = []
    for path, net, weights in members:
        forwards.append(trained_forward(net, weights, path, element))
        weights.clear()
    return forwards


def predict_all(jobs, ensemble, members, args):
    """Run the Jobs; returns the errors of those that failed."""
    lines = describe_members(members)
    forwards = build_forwards(members, element_type(args.precision))
    rounded = f", {args.precision}" if args.precision in NEEDS else ""
    print("\n".join(lines) + f"; {start.device_name()}{rounded}")
    predictor, errors = Predictor(ensemble, forwards, args), []
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
    refuse_on_device(args.precision, args.device, parser)
    refuse_preset(args, parser)
    nvcc, _ = start.check_machine(args.device)
    if args.precision not in ("auto", *find_precisions(bool(nvcc))):
        raise DataError(f"--precision {args.precision}: {NEEDS[args.precision].missing}; leave it "
                        "out")
    members = read_nets(args, parser)
    ensemble = Ensemble(tuple(member.net for member in members))
    extras = [name for name in EXTRAS if getattr(args, name)]
    plan = plan_outputs(args.Input, args.Result_directory, extras, args.overwrite, ensemble)
    make_folder(args.Result_directory)
    if plan.done:
        print(f"Images done already: {plan.done}; they stay as they are "
              "(--overwrite makes them anew)")
    failed = []
    if plan.jobs:
        started = time.monotonic()
        start.import_jittor(args.device, args.precision == "float32")
        with last_words(f"Predict.py: error: killed, for lack of memory perhaps: {SMALLER_TILES}"):
            failed = predict_all(plan.jobs, ensemble, members, args)
        print(f"Images predicted: {len(plan.jobs) - len(failed)}, in "
              f"{duration(time.monotonic() - started)}, into {args.Result_directory}/")
    for error in [*plan.errors, *failed]:
        print(f"Predict.py: error: {error}", file=sys.stderr)
    return 1 if plan.errors or failed else 0


if __name__ == "__main__":
    sys.exit(run(main))
