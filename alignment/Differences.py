"""How far two sides are from each other on one batch, and how far they may be."""
import re
from operator import attrgetter
from typing import NamedTuple

import numpy as np

# Biases whose gradient is 0 by mathematics, because a BatchNorm takes the constant away again.
BEFORE_BATCH_NORM = re.compile(r"(double_conv\.[03]|conv_s1|up\d\.up)\.bias$")
ACTIVATIONS = "activations, of their range"
LOSS_VALUE = "loss, relative"
GRADIENTS = "gradients, of their norm"
ZERO_GRADIENTS = "biases before BatchNorm, of the largest gradient"
WANTED = {ACTIVATIONS: 1e-4, LOSS_VALUE: 1e-5, GRADIENTS: 1e-3, ZERO_GRADIENTS: 1e-6}


class Worst(NamedTuple):
    """The largest difference of one kind."""
    value: float
    name: str     # the part of the net or the parameter that has it


def relative_to_range(one, other):
    """Largest difference of two arrays, relative to the range of the second's values."""
    return float(np.abs(one - other).max() / max(np.ptp(other), 1e-12))


def differences(found, expected):
    """How far one Examined is from another: {kind of WANTED: {name: number}}."""
    zero = [name for name in expected.gradients if BEFORE_BATCH_NORM.search(name)]
    largest = max(float(np.abs(gradient).max()) for gradient in expected.gradients.values())
    return {
        ACTIVATIONS: {name: relative_to_range(found.activations[name], other)
                      for name, other in expected.activations.items()},
        LOSS_VALUE: {"loss": abs(found.loss / expected.loss - 1)},
        GRADIENTS: {
            name: float(np.linalg.norm(found.gradients[name] - other) / np.linalg.norm(other))
            for name, other in expected.gradients.items() if name not in zero},
        ZERO_GRADIENTS: {name: float(np.abs(found.gradients[name]).max()) / largest
                         for name in zero}}


def worst_of(measured):
    """The Worst of each kind of `differences`: {kind: Worst}."""
    return {kind: max((Worst(value, name) for name, value in measured[kind].items()),
                      key=attrgetter("value"), default=Worst(0.0, "none"))
            for kind in WANTED}


def largest_ratio(losses, others):
    """The largest relative difference of two series of losses."""
    return float(np.abs(np.divide(losses, others) - 1).max())
