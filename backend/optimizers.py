"""The optimisers: one row each.

Importing this module does not import Jittor: the command line reads the names from the table.
"""
from typing import Callable, NamedTuple

from backend import start


class Optimizer(NamedTuple):
    """An optimiser that --optimizer can name."""
    settings: str    # what --help says of it
    build: Callable  # (parameters, learning rate) -> a Jittor optimiser


def _adam(parameters, learning_rate):
    """Adam (Kingma and Ba, ICLR 2015), with the settings of the earlier versions of this system."""
    from backend.adam import Adam
    return Adam(parameters, learning_rate, betas=(0.99, 0.999), weight_decay=1e-4)


def _adamw(parameters, learning_rate):
    """AdamW: decoupled weight decay (Loshchilov and Hutter, ICLR 2019), with PyTorch's settings."""
    return start.jt.optim.AdamW(parameters, learning_rate, betas=(0.9, 0.999), weight_decay=0.01)


def _sgd(parameters, learning_rate):
    """Stochastic gradient descent with the momentum of the U-Net paper (section 3)."""
    return start.jt.optim.SGD(parameters, learning_rate, momentum=0.99)


OPTIMIZERS = {
    "adam": Optimizer("betas 0.99, 0.999, weight decay 0.0001", _adam),
    "adamw": Optimizer("betas 0.9, 0.999, weight decay 0.01", _adamw),
    "sgd": Optimizer("momentum 0.99", _sgd),
}


def build_optimizer(name, model, learning_rate):
    """The optimiser of OPTIMIZERS that `name` names, for all parameters that are trained."""
    trainable = [parameter for parameter in model.parameters() if not parameter.is_stop_grad()]
    return OPTIMIZERS[name].build(trainable, learning_rate)
