"""The optimisers: one row each.

Importing this module does not import Jittor: the command line reads the names from the table.
"""
from typing import Callable, NamedTuple

from backend import ranks, start


class Formula(NamedTuple):
    """An optimiser's numbers."""
    moments: tuple                # names of its Vars: ("values", "m"), for SGD ("values",)
    beta1: float                  # of the mean of gradients; for SGD the momentum
    beta2: float = 0.0            # of the mean of their squares
    coupled_decay: float = 0.0    # weight decay as a part of the gradient
    decoupled_decay: float = 0.0  # weight decay beside the gradient
    epsilon: float = 1e-8


class Optimizer(NamedTuple):
    """An optimiser that --optimizer can name."""
    settings: str    # what --help says of it
    formula: Formula
    build: Callable  # (parameters, learning rate, formula) -> a Jittor optimiser


def _adam(parameters, learning_rate, formula):
    from backend.adam import Adam
    return Adam(parameters, learning_rate, betas=(formula.beta1, formula.beta2),
                weight_decay=formula.coupled_decay)


def _adamw(parameters, learning_rate, formula):
    return start.jt.optim.AdamW(parameters, learning_rate, betas=(formula.beta1, formula.beta2),
                                weight_decay=formula.decoupled_decay)


def _sgd(parameters, learning_rate, formula):
    return start.jt.optim.SGD(parameters, learning_rate, momentum=formula.beta1)


OPTIMIZERS = {
    # Kingma and Ba, ICLR 2015, with the settings of the earlier versions of this system
    "adam": Optimizer("betas 0.99, 0.999, weight decay 0.0001",
                      Formula(("values", "m"), 0.99, 0.999, coupled_decay=1e-4), _adam),
    # decoupled weight decay (Loshchilov and Hutter, ICLR 2019), with PyTorch's settings
    "adamw": Optimizer("betas 0.9, 0.999, weight decay 0.01",
                       Formula(("values", "m"), 0.9, 0.999, decoupled_decay=0.01), _adamw),
    # stochastic gradient descent with the momentum of the U-Net paper (section 3)
    "sgd": Optimizer("momentum 0.99", Formula(("values",), 0.99), _sgd),
}


def decides_on_device():
    """Whether the device decides if a step counts, so that the host never waits for a loss.

    On a CPU nobody waits long, and several ranks have to agree on every loss.
    """
    return bool(start.jt.flags.use_cuda) and ranks.size() == 1


def build_optimizer(name, model, learning_rate):
    """The optimiser of OPTIMIZERS that `name` names, for all parameters that are trained."""
    trainable = [parameter for parameter in model.parameters() if not parameter.is_stop_grad()]
    row = OPTIMIZERS[name]
    if decides_on_device():
        from backend.device_optimizer import DeviceOptimizer, build_updates
        return DeviceOptimizer(trainable, learning_rate, row.formula, build_updates(trainable[0]))
    return row.build(trainable, learning_rate, row.formula)
