"""A model without Jittor, for the tests that load weights."""
from types import SimpleNamespace

import numpy as np


class FakeVar:
    """What nets/checkpoint.py asks of a Jittor Var."""

    def __init__(self, *shape):
        self.value = np.zeros(shape, np.float32)
        self.assigned = 0  # how often
        self.on_host = False

    shape = property(lambda self: self.value.shape)

    def numpy(self):
        self.on_host = True  # a Var on a GPU moves
        return self.value.copy()

    def detach(self):
        other = FakeVar()
        other.value = self.value
        return other

    def assign(self, value):
        assert value.dtype == np.float32 and value.shape == self.shape
        self.value = value
        self.assigned += 1


def fake_model(**shapes):
    """A model whose state dict has a FakeVar of zeros for each {name: shape}."""
    state = {name: FakeVar(*shape) for name, shape in shapes.items()}
    return SimpleNamespace(state_dict=lambda: state)
