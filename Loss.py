"""The losses: weighted cross entropy, with a Dice term where that is wanted; for the U-2-Net their sum over all side outputs.

    python Loss.py --label data/ISBC2012/train/labels/frame_0001.png     draws its weights: frame_0001_weights.png

Only methods of Jittor's Var are called here, so that drawing the weights needs no Jittor.
"""
import sys
from pathlib import Path

from backend import ranks
from command.errors import run
from command.files import atomic_write, make_folder
from command.flags import Parser, number, picture
from images.figures import use_agg
from images.formats import read_label
from WeightMap import border_weights, class_weights


def weighted_cross_entropy(logits, label, weight_map):
    """Ronneberger et al. 2015, section 3, eq. 1, as a mean over the pixels: mean of w * -log softmax(logits)[label].

    logits: Var (N, C, H, W) float32; label: Var (N, H, W) int32 in 0 ... C-1, or -1 where the weight is 0 (not checked:
    that would wait for the device); weight_map: Var (N, H, W) float32.  Returns a Var of one value, finite for any finite logits.
    Raises ValueError where the shapes do not fit.
    """
    shifted, is_label = shifted_and_one_hot(logits, label, weight_map)
    cross_entropy = shifted.exp().sum(1).log() - (shifted * is_label).sum(1)
    return (weight_map * cross_entropy).mean(2).mean(1).mean(0)  # by rows: one long float32 sum loses digits


def soft_dice_loss(logits, label, weight_map):
    """1 - soft Dice: of each class but the background, over the whole batch, then their mean.

    Milletari et al., "V-Net", 3DV 2016, section 3, with the probabilities themselves below the line and 1 pixel added to
    both sides of it: a class that is neither there nor predicted costs nothing.  Pixels of weight 0 do not count, all
    others count the same.  Parameters, result and errors as `weighted_cross_entropy`.
    """
    shifted, is_label = shifted_and_one_hot(logits, label, weight_map)
    counts = (weight_map > 0).broadcast(shifted, [1])
    odds = shifted.exp()
    probability = odds / odds.sum(1, keepdims=True) * counts
    truth = is_label * counts
    overlap, sizes = (ranks.all_sum(pixels.sum(3).sum(2).sum(0))[1:] for pixels in (probability * truth, probability + truth))
    return (1 - (2 * overlap + 1) / (sizes + 1)).mean()


def shifted_and_one_hot(logits, label, weight_map):
    """(logits, less the largest of each pixel: exp cannot overflow, the softmax stays; whether a class is the label's)."""
    batch, _, *size = logits.shape
    if list(label.shape) != [batch, *size] or list(weight_map.shape) != [batch, *size]:
        raise ValueError(f"logits {list(logits.shape)}, label {list(label.shape)} and weight map "
                         f"{list(weight_map.shape)} do not fit together")
    shifted = logits - logits.max(1, keepdims=True).detach()
    label = label.broadcast(shifted, [1])
    return shifted, label.index(1) == label  # the one-hot is never stored, Jittor fuses it into what uses it


def cross_entropy_and_dice(logits, label, weight_map):
    """The sum of both, each of weight 1, as nnU-Net has it (Isensee et al., Nature Methods 2021)."""
    return weighted_cross_entropy(logits, label, weight_map) + soft_dice_loss(logits, label, weight_map)


# by the name of --loss; `ce` and `ce_dice` go with weight maps of 1
LOSSES = {"weighted_ce": weighted_cross_entropy, "ce": weighted_cross_entropy, "ce_dice": cross_entropy_and_dice}


def deep_supervision_loss(side_logits, label, weight_map, loss=weighted_cross_entropy):
    """The loss of Qin et al., "U^2-Net", 2020, eq. 1 with all weights 1: the sum over the fused and the side outputs.

    side_logits: list of Vars (N, C, H, W), d0 (fused), d1 ... d6; loss: of each; the rest as `weighted_cross_entropy`.
    """
    return sum(loss(logits, label, weight_map) for logits in side_logits)


# ------------------------------------------------------------------------------------------------------- the picture
def draw_weights(label, w0, sigma, output):
    """Draw label, class weights, border weights and their sum side by side into the PNG file `output`.

    label: (H, W) integer classes.
    """
    class_part, border_part = class_weights(label), border_weights(label, w0, sigma)
    panels = [("label", label, "gray"),
              ("class weights $w_c$", class_part, "viridis"),
              (f"border weights ($w_0$ = {w0:g}, $\\sigma$ = {sigma:g})", border_part, "viridis"),
              ("weight map", class_part + border_part, "viridis")]
    pyplot = use_agg()
    figure, axes = pyplot.subplots(1, len(panels), figsize=(18, 4.2), layout="constrained")
    for axis, (title, values, colours) in zip(axes, panels):
        drawn = axis.imshow(values, cmap=colours, vmin=0, interpolation="nearest")
        axis.set_title(title)
        axis.set_axis_off()
        figure.colorbar(drawn, ax=axis, shrink=0.85)
    with atomic_write(output) as temporary:
        figure.savefig(temporary, dpi=100)
    pyplot.close(figure)


def main():
    parser = Parser("Draw the weights that the loss gives to a label's pixels.")
    parser.add_argument("--label", type=Path, required=True,
                        help="a label image; each grey value is a class, 0 the background")
    parser.add_argument("--output", type=picture, help="picture to write (default: <label>_weights.png, here)")
    parser.add_argument("--Loss_w0", type=number(float, 0, 1e6), default=10.0, help="weight of a border of width 0")
    parser.add_argument("--Loss_sigma", type=number(float, 0, include_low=False), default=5.0,
                        help="how fast the border weight falls, in pixels")
    options = parser.parse_args()
    output = options.output or Path(f"{options.label.stem}_weights.png")
    label = read_label(options.label)
    make_folder(output.parent)
    draw_weights(label, options.Loss_w0, options.Loss_sigma, output)
    print(f"Wrote {output}")


if __name__ == "__main__":
    sys.exit(run(main))
