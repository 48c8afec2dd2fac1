"""Whole nets at full width: the loss and the gradients on a GPU are the CPU's."""
import numpy as np
import pytest
from Differences import WANTED, differences, worst_of
from Golden import formula_batch

NETS = {"Unet": {"base_channels": 64, "padding": 1}, "U2netS": {"side_outputs": True},
        "U2net": {"side_outputs": True}}
BATCHES = 3
SIDE = 144  # px


def net_of(mode):
    from Ours import Ours
    return Ours(mode, 1, 2, NETS[mode])


def examined(mode, weights, batches, use_cuda):
    """What a net makes of each batch, a list of Examined, on the GPU or on the CPU."""
    from backend.start import jt
    with jt.flag_scope(use_cuda=use_cuda):
        ours = net_of(mode)
        ours.load(weights)
        return [ours.examine(batch) for batch in batches]


@pytest.mark.parametrize("mode", NETS)
def test_loss_and_gradients_are_the_cpus(mode):
    """In the best of some batches: where rounding switches a ReLU, a gradient changes by more."""
    batches = [formula_batch(1, 2, SIDE, SIDE, seed) for seed in range(BATCHES)]
    weights = net_of(mode).arrays()  # a GPU and a CPU draw different ones
    found, expected = (examined(mode, weights, batches, use_cuda) for use_cuda in (1, 0))
    worst = [worst_of(differences(*pair)) for pair in zip(found, expected)]
    least = {kind: min(each[kind].value for each in worst) for kind in WANTED}
    assert all(np.isfinite(value) and value <= WANTED[kind] for kind, value in least.items()), least
