"""The flags of a training that begins with weights: what the file says takes their place."""
from command.errors import DataError
from nets.beginning import OthersNet, read_beginning
from nets.catalogue import CATALOGUE
from nets.trained import OthersFlags, net_of_flags


def take_weights(values, given, parser):
    """The nets.beginning.Beginning that --weights asks for; None for a training from scratch.

    The mode and the options of its net come into `values` ({flag: value}), in place of defaults and
    of a protocol's.  given: {flag: value} of the flags on the command line.  Exit code 2, with one
    line, where these contradict it.  Raises DataError for a file that is no good.
    """
    path, preset = values["weights"], values["preset"]
    if path is None:
        for name in ("preset", "freeze"):
            if values[name]:
                parser.error(f"--{name}: only with --weights")
        return None

    def net_of_others(found):
        flags, words = say_unseen(found, values, given)
        try:
            return OthersNet(net_of_flags(flags, found, path), words)
        except DataError as error:  # --preset is another net's
            parser.error(str(error))
    beginning = read_beginning(path, net_of_others)
    if preset and not beginning.unseen_from:
        parser.error(f"--preset: {path} is a checkpoint of Main.py and says it itself")
    net = beginning.net
    for name, value in {"mode": net.mode, **net.options}.items():
        if given.get(name, value) != value:
            source = path
            if preset and name in CATALOGUE[net.mode].unseen_options:
                source = f"--preset {preset}"
            parser.error(f"--{name} {given[name]}: {source} has {name} {value}; leave it out")
        values[name] = value
    if values["freeze"] and not CATALOGUE[net.mode].encoder:
        parser.error(f"--freeze {values['freeze']}: {net.mode} has none")
    return beginning


def say_unseen(found, values, given):
    """(OthersFlags, where they come from) for what weights of others do not show.

    found: catalogue.Recognised.  The others as in `take_weights`.
    """
    def flags(preset=None, padding=None, align_corners=None):
        return OthersFlags(preset, padding, align_corners, mean=None, std=None)
    if values["preset"]:
        return flags(values["preset"]), f"--preset {values['preset']}"
    if found.options.get("conv_bias") is False:
        return (flags(None, given.get("padding"), given.get("align_corners")),
                "flags, or else as is usual where convolutions have no bias")
    words = [f"--{name}" for name in CATALOGUE[found.mode].unseen_options]
    return flags(None, values["padding"], values["align_corners"]), " and ".join(words)
