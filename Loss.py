"""The losses: weighted cross entropy and soft Dice, and for U-2-Net their sum over side outputs.

    python Loss.py --label data/ISBC2012/train/labels/frame_0001.png

draws the weights of a label's pixels into frame_0001_weights.png.  To add a loss, write a function
like `weighted_cross_entropy` and give it a row in LOSSES.

The functions call only methods of Jittor's Var.  So this module works without Jittor, and drawing
the weights does not need it.
"""
import sys
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np

from backend import ranks
from command.errors import run
from command.files import make_folder
from command.flags import Parser, number, picture
from datasets.label_kinds import decide_kind
from datasets.label_values import KINDS_OF_LABELS
from datasets.labels import load_objects
from datasets.objects import training_target
from datasets.survey import Survey
from images.figures import figure
from images.reading import read_label
from masks.colours import colour_objects
from WeightMap import border_weights, class_weights


def weighted_cross_entropy(logits, label, weight_map):
    """The mean over all pixels of w * -log softmax(logits)[label].

    Ronneberger et al. 2015, section 3, eq. 1.  The paper takes the sum instead of the mean.

    logits: Var (N, C, H, W) float32; label: Var (N, H, W) int32 in 0 ... C-1; weight_map: Var
    (N, H, W) float32.  Where the weight is 0 the label may be -1.  Labels are not checked, because
    a check would wait for the device.  Returns a Var of one value in nats, finite for any finite
    logits.
    Raises ValueError where the shapes do not fit together.
    """
    shifted, is_label = prepare_logits(logits, label, weight_map)
    cross_entropy = shifted.exp().sum(1).log() - (shifted * is_label).sum(1)
    # the mean by rows, because one long sum of float32 loses digits
    return (weight_map * cross_entropy).mean(2).mean(1).mean(0)


def soft_dice_loss(logits, label, weight_map):
    """1 - soft Dice of each foreground class over the whole batch, averaged over the classes.

    Milletari et al., "V-Net", 3DV 2016, section 3, with two changes.  The denominator has the
    probabilities themselves instead of their squares.  1 is added to numerator and denominator, so
    that a class that is neither there nor predicted has the loss 0.  Pixels of weight 0 do not
    count.  All others count alike.  Parameters, result and errors are those of
    `weighted_cross_entropy`.
    """
    shifted, is_label = prepare_logits(logits, label, weight_map)
    counts = (weight_map > 0).broadcast(shifted, [1])
    odds = shifted.exp()
    probability = odds / odds.sum(1, keepdims=True) * counts
    truth = is_label * counts
    overlap, sizes = (ranks.all_sum(pixels.sum(3).sum(2).sum(0))[1:]
                      for pixels in (probability * truth, probability + truth))
    return (1 - (2 * overlap + 1) / (sizes + 1)).mean()


def prepare_logits(logits, label, weight_map):
    """(shifted logits, whether a class is the label's): two Vars (N, C, H, W).

    From each pixel's logits their largest is subtracted.  Then exp cannot overflow, and the softmax
    stays the same.  Raises ValueError where the shapes do not fit together.
    """
    batch, _, *size = logits.shape
    if list(label.shape) != [batch, *size] or list(weight_map.shape) != [batch, *size]:
        raise ValueError(f"logits {list(logits.shape)}, label {list(label.shape)} and weight map "
                         f"{list(weight_map.shape)} do not fit together")
    shifted = logits - logits.max(1, keepdims=True).detach()
    label = label.broadcast(shifted, [1])
    # never stored: Jittor fuses the comparison into what uses it
    return shifted, label.index(1) == label


def cross_entropy_and_dice(logits, label, weight_map):
    """The sum of both losses with weight 1 each (nnU-Net: Isensee et al., Nature Methods 2021)."""
    cross_entropy = weighted_cross_entropy(logits, label, weight_map)
    return cross_entropy + soft_dice_loss(logits, label, weight_map)


class LossRow(NamedTuple):
    """A loss, as --loss names it."""
    compute: Callable         # (logits, label, weight_map) -> Var, as weighted_cross_entropy
    wants_weight_map: bool    # True: equation 2; False: weight 1 for all pixels but IGNORED ones
    title: str                # the title of the curve's axis: the loss and its unit


LOSSES = {
    "weighted_ce": LossRow(weighted_cross_entropy, wants_weight_map=True,
                           title="weighted cross entropy (nats per pixel)"),
    "ce": LossRow(weighted_cross_entropy, wants_weight_map=False,
                  title="cross entropy (nats per pixel)"),
    "ce_dice": LossRow(cross_entropy_and_dice, wants_weight_map=False,
                       title="cross entropy (nats per pixel) plus Dice loss"),
}


def deep_supervision_loss(side_logits, label, weight_map, loss=weighted_cross_entropy):
    """The sum of a loss over the fused and the side outputs of a U-2-Net.

    Qin et al., "U^2-Net", Pattern Recognition 2020, eq. 1, with all weights 1.
    side_logits: list of Vars (N, C, H, W), d0 (fused), d1 ... d6; loss: the function of a LossRow;
    the other parameters, result and errors are those of `weighted_cross_entropy`.
    """
    return sum(loss(logits, label, weight_map) for logits in side_logits)


# ------------------------------------------------------------------------------------ the picture
def draw_weights(label, w0, sigma, path, numbered=False):
    """Draw label, class weights, border weights and their sum side by side, into a PNG file.

    label, w0, sigma, numbered: as for WeightMap.compute_weight_map.
    """
    classes = np.minimum(label, 1)
    if not numbered:  # without gaps: a value of 32 bits would need a table of billions of classes
        values = np.union1d([0], label)
        classes = np.searchsorted(values, label) - np.searchsorted(values, 0)
    class_part = class_weights(classes)
    border_part = border_weights(label, w0, sigma, numbered)
    title = "label"
    if numbered:
        title, label = "objects without their border", colour_objects(label)
    panels = {
        title: label,
        "class weights $w_c$": class_part,
        f"border weights ($w_0$ = {w0:g}, $\\sigma$ = {sigma:g})": border_part,
        "weight map": class_part + border_part,
    }
    with figure(path, 1, len(panels), size=(18, 4.2)) as axes:
        for axis, (title, values) in zip(axes.flat, panels.items()):
            drawn = axis.imshow(values, cmap="gray" if values is label else "viridis", vmin=0,
                                interpolation="nearest")
            axis.set_title(title, parse_math=True)
            axis.set_axis_off()
            if values is not label or not numbered:
                axis.figure.colorbar(drawn, ax=axis, shrink=0.85)


def build_parser():
    parser = Parser("Draw the weights that the loss gives to a label's pixels.")
    parser.add_argument("--label", type=Path, required=True,
                        help="label file; 0 is the background")
    parser.add_argument("--label_kind", choices=KINDS_OF_LABELS,
                        help="what its values are, as for Main.py (default: as they look)")
    parser.add_argument("--output", type=picture,
                        help="picture to write (default: <label>_weights.png, here)")
    parser.add_argument("--Loss_w0", type=number(float, 0, 1e6), default=10.0,
                        help="w0: the weight of a border of width 0")
    parser.add_argument("--Loss_sigma", type=number(float, 0, include_low=False), default=5.0,
                        help="sigma, px: how fast the weight falls with a border's width")
    return parser


def main():
    options = build_parser().parse_args()
    path = options.output or Path(f"{options.label.stem}_weights.png")
    kind, reason = decide_kind(Survey(), [options.label], options.label_kind)
    if reason:
        print(f"{options.label}: {kind}: {reason}")
    are_objects = kind == "objects"
    if are_objects:
        label = training_target(load_objects(options.label))
    else:
        label = read_label(options.label)
    make_folder(path.parent)
    draw_weights(label, options.Loss_w0, options.Loss_sigma, path, are_objects)
    print(f"Wrote {path}")


if __name__ == "__main__":
    sys.exit(run(main))
