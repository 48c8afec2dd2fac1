"""The losses: weighted cross entropy for the U-Net, its sum over all side outputs for the U-2-Net.

    python Loss.py --label data/ISBC2012/train/labels/frame_0001.png     draws its weights: frame_0001_weights.png

Only methods of Jittor's Var are called here, so that drawing the weights needs no Jittor.
"""
import sys
from pathlib import Path

from Common import Parser, atomic_write, make_folder, number, picture, read_label, run, use_agg
from WeightMap import border_weights, class_weights


def weighted_cross_entropy(logits, label, weight_map):
    """Ronneberger et al. 2015, section 3, eq. 1, as a mean over the pixels: mean of w * -log softmax(logits)[label].

    logits: Var (N, C, H, W) float32; label: Var (N, H, W) int32 in 0 ... C-1, or -1 where the weight is 0 (not checked:
    that would wait for the device); weight_map: Var (N, H, W) float32.  Returns a Var of one value, finite for any finite logits.
    Raises ValueError where the shapes do not fit.
    """
    batch, _, *size = logits.shape
    if list(label.shape) != [batch, *size] or list(weight_map.shape) != [batch, *size]:
        raise ValueError(f"logits {list(logits.shape)}, label {list(label.shape)} and weight map "
                         f"{list(weight_map.shape)} do not fit together")
    shifted = logits - logits.max(1, keepdims=True).detach()  # <= 0: exp cannot overflow; the softmax stays the same
    label = label.broadcast(shifted, [1])
    is_label = label.index(1) == label  # one-hot; never stored, Jittor fuses it into the sum
    cross_entropy = shifted.exp().sum(1).log() - (shifted * is_label).sum(1)
    return (weight_map * cross_entropy).mean(2).mean(1).mean(0)  # by rows: one long float32 sum loses digits


def deep_supervision_loss(side_logits, label, weight_map):
    """The loss of Qin et al., "U^2-Net", 2020, eq. 1 with all weights 1: the sum over the fused and the side outputs.

    side_logits: list of Vars (N, C, H, W), d0 (fused), d1 ... d6; the rest as `weighted_cross_entropy`.
    """
    return sum(weighted_cross_entropy(logits, label, weight_map) for logits in side_logits)


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
