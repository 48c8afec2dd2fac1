"""An optimiser that learns on the device whether to take its step.

Importing this module imports Jittor.
"""
import numpy as np

from backend.cuda_updates import Kernels
from backend.kernel_choice import cuda_kernel_suits
from backend.start import jt
from backend.updates import Composed, Limits


class DeviceOptimizer:
    """Adam, AdamW or SGD, for a host that reads a step's loss while the next step runs.

    `lr` and `param_groups` are as in Jittor's optimisers.  formula: backend.optimizers.Formula.
    """

    def __init__(self, parameters, learning_rate, formula, updates):
        self.lr, self.formula, self.updates = learning_rate, formula, updates
        moments = {name: [jt.zeros(var.shape).stop_grad() for var in parameters]
                   for name in formula.moments}
        self.param_groups = [{"params": parameters, **moments}]
        # kernels are compiled for numbers of dimensions: few, where those of a kind are together
        order = sorted(range(len(parameters)), key=lambda k: parameters[k].ndim)
        self.parameters, *self.moments = ([each[k] for k in order]
                                          for each in (parameters, *moments.values()))
        self.n_step = 0

    @property
    def n_step(self):
        """The accepted steps that the host knows of.  To set it sets the device's count too."""
        return self._n_step

    @n_step.setter
    def n_step(self, steps):
        self._n_step = steps
        self.steps = jt.array(np.array([steps], np.int32))

    def step(self, loss, limits=Limits(), batches=()):
        """Launch a step from its loss, a Var of one value; returns its verdict, for `read`.

        limits: without them any finite loss counts.  batches: what BatchNorms noted, see
        backend/late_statistics.py.
        """
        gradients = jt.grad(loss, self.parameters, False)
        jt.sync([loss, *gradients])  # before the parameters change in place
        verdict = self.updates.decide(loss, self.steps, gradients, self.formula, limits)
        self.updates.apply(verdict, self.formula, self.lr, self.parameters, gradients,
                           self.moments)
        if batches:
            self.updates.move_statistics(verdict, batches)
        jt.sync_all()  # launched, not waited for
        return verdict

    def read(self, verdict):
        """The backend.updates.Reading of a step; waits for that step alone."""
        reading = verdict.read()
        self._n_step = reading.steps
        return reading


def build_updates(var):
    """What ends a step for Vars like this one.

    These are our kernels where they suit the Var, else Jittor's operators.
    """
    return Kernels() if cuda_kernel_suits("update", var) else Composed()
