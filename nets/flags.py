"""The flags of Predict.py that say of others' weights what a checkpoint of Main.py says itself."""
from command.flags import boolean, number
from images.channels import MOST_CHANNELS
from nets.catalogue import CATALOGUE
from nets.trained import PRESETS, SALIENCY_PRESETS, OthersFlags, describe

SEEN = ("mode", "n_channels", "n_classes")  # flags for what weights show: checked


def add_others_flags(add):
    """Add them to a parser's group."""
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


def others_flags(args):
    """The OthersFlags of parsed flags."""
    return OthersFlags(*(getattr(args, name) for name in OthersFlags._fields))


def refuse_preset(args, parser):
    """End with exit code 2 where --preset does not go with another flag."""
    given = [name for name, value in zip(OthersFlags._fields, others_flags(args))
             if value is not None and name != "preset"]
    if args.preset and given:
        parser.error(f"--{given[0]}: --preset {args.preset} says it already")
    if args.preset in SALIENCY_PRESETS and args.tile:
        parser.error(f"--tile: --preset {args.preset} sees each image whole, at 320 x 320 px")


def refuse_other_net(args, found, path, parser):
    """End with exit code 2 where a flag does not say what weights show.

    found: catalogue.Recognised of the file `path`.
    """
    for name in SEEN:
        if getattr(args, name) not in (None, getattr(found, name)):
            parser.error(f"--{name} {getattr(args, name)}: {path} holds {describe(*found)}")


def refuse_for_ours(args, path, parser):
    """End with exit code 2 where a flag is for others' weights, and `path` is one of Main.py's."""
    for name, value in zip(OthersFlags._fields, others_flags(args)):
        if value is not None:
            parser.error(f"--{name}: {path} is a checkpoint of Main.py and says it itself")
