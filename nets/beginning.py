"""Weights that a training begins with, fitted to the channels and classes of its data.

NumPy only: nothing here needs Jittor, but the model that `begin_with` is given.
"""
import dataclasses
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from command.errors import DataError
from nets.catalogue import CATALOGUE
from nets.checkpoint import assign, read_weights
from nets.recognise import describe_net
from nets.trained import TrainedNet, net_of_header

BEFORE_SAID = {"padding": 0, "align_corners": False}  # of nets whose headers do not say it
MOST_NAMED = 3  # tensors in a line


class Beginning(NamedTuple):
    """Weights to begin with."""
    path: Path
    weights: dict         # {name: array}
    net: TrainedNet       # that they are of
    unseen_from: str      # where its options come from that weights do not show; "": the header
    origin: dict          # {"name": of the file, "sha256": of its bytes}


class OthersNet(NamedTuple):
    """The net of weights that are not of Main.py."""
    net: TrainedNet
    unseen_from: str      # as in Beginning


class Fitted(NamedTuple):
    """The weights that fit a net."""
    weights: dict         # {name: array}
    lines: list           # what was adapted, begun anew and left out, for people
    anew: list            # names of the net's tensors that the weights do not give


# ---------------------------------------------------------------------------------------- the file
def read_beginning(path, net_of_others):
    """The Beginning of any file that nets.checkpoint.read_weights reads.

    net_of_others: a function that gives the OthersNet of a catalogue.Recognised.  Raises DataError
    for a file without the weights of a net, and for weights that are not finite.
    """
    weights, header = read_weights(path)
    found = describe_net(weights, path)
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise DataError(f"{path}: {_printable(name)} has values that are not finite; "
                            "choose another")
    if header is None:
        net, unseen_from = net_of_others(found)
    else:
        net, unseen_from = net_of_header(header, found, path), ""
    unseen = {name: type(before)(net.options.get(name, before))
              for name, before in BEFORE_SAID.items()
              if name in CATALOGUE[net.mode].unseen_options}
    net = dataclasses.replace(net, options={**net.options, **unseen})
    origin = {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return Beginning(path, weights, net, unseen_from, origin)


# -------------------------------------------------------------------------------------- in a model
def begin_with(model, beginning, frozen=()):
    """Give a model the weights of a Beginning that fit it; returns lines about it for people.

    The others keep their values.  The Beginning is empty afterwards.  frozen: names of modules that
    will not be trained.  Raises DataError where one of these would begin anew.
    """
    state = model.state_dict()
    found = fit(beginning, {name: tuple(var.shape) for name, var in state.items()})
    random = [name for name in found.anew if name.partition(".")[0] in frozen]
    if random:
        raise DataError(f"--freeze: {beginning.path} does not give {_list_names(random)}, which "
                        "would stay random; leave --freeze out")
    assign({name: state[name] for name in found.weights}, found.weights, beginning.path)
    beginning.weights.clear()  # the model has them: large ones would lie in memory twice
    net, path = beginning.net, beginning.path
    lines = [f"Begins with the weights of {path}: {net}; SHA-256 {beginning.origin['sha256']}"]
    if beginning.unseen_from:
        unseen = ", ".join(f"{name} {net.options[name]}"
                           for name in CATALOGUE[net.mode].unseen_options)
        lines.append(f"{path} does not show {unseen}: from {beginning.unseen_from}")
    return lines + found.lines


def fit(beginning, shapes):
    """The Fitted weights of a Beginning for a net of its mode and options.

    shapes: {name: shape} of the net's state.
    """
    row, weights, lines = CATALOGUE[beginning.net.mode], dict(beginning.weights), []
    first = f"{row.first}.weight"
    if first in weights and first in shapes:
        before, now = weights[first].shape[1], shapes[first][1]
        weights[first] = adapt_channels(weights[first], now)
        if before != now:
            lines.append(f"First convolution {row.first}: {before} channels -> {now}: "
                         f"{CHANNEL_CHANGES.get((before, now), 'its filters begin anew')}")
    fitting = {name: weights[name] for name, shape in shapes.items()
               if name in weights and weights[name].shape == shape}
    anew = [name for name in shapes if name not in fitting]
    layers = [name for name in row.outputs if f"{name}.weight" in anew]
    if layers:
        lines.append(f"Output {_list_names(layers)}: begun anew, for another number of classes "
                     f"than {beginning.net.n_classes}")
    others = [name for name in anew if name != first and name.rpartition(".")[0] not in layers]
    if others:
        lines.append(f"Begun anew, not in the file in this shape: {_list_names(others)}")
    foreign = [name for name in weights if name not in shapes]
    if foreign:
        lines.append(f"Left out, not of this net: {_list_names(foreign)}")
    return Fitted(fitting, lines, anew)


CHANNEL_CHANGES = {(3, 1): "its filters are summed", (1, 3): "its filters are spread"}


def adapt_channels(filters, channels):
    """Filters (K, C, r, s) for images of another number of channels, where there is a rule.

    Of RGB and grey: a grey image, and the same one shown three times, then give the same answer.
    Other numbers: the filters themselves.
    """
    change = filters.shape[1], channels
    if change == (3, 1):
        return filters.sum(1, keepdims=True)
    if change == (1, 3):
        return np.repeat(filters / 3, 3, axis=1)
    return filters


# --------------------------------------------------------------------------------------- for people
def _printable(name):
    return name if name.isprintable() else ascii(name)


def _list_names(names):
    """Some of the names of tensors, and how many there are more."""
    said = ", ".join(map(_printable, names[:MOST_NAMED]))
    return said + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
