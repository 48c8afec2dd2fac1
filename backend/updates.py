"""The end of a training step on the device: whether the step counts, and the optimisers' formulas.

`Composed` does it by Jittor's operators, on any device.  backend/cuda_updates.py does it by a few
CUDA kernels.  Nothing here waits for the device but `read`.  Importing this module imports Jittor.
"""
import math
from typing import NamedTuple

import numpy as np

from backend.start import jt

LARGEST = float(np.finfo(np.float32).max)  # a loss that is not finite is no smaller


class Limits(NamedTuple):
    """What the host knows of a step before its loss."""
    loss: float = math.inf  # the largest one to learn from
    norm: float = 0.0       # longer gradients are cut to this; 0: none is


class Reading(NamedTuple):
    """What the host reads of a step that is over."""
    loss: float
    accepted: bool
    steps: int  # accepted ones so far


class BatchStatistics(NamedTuple):
    """What a BatchNorm found in a batch."""
    norm: object      # the BatchNorm
    mean: object      # Var (C,)
    variance: object  # Var (C,), the biased one
    count: int        # values a channel
    shift: object     # Var (C,) that the mean lacks, or None

    @property
    def unbiased(self):
        """The factor from the biased variance to the unbiased one."""
        return self.count / max(1, self.count - 1)

    def moves(self):
        """Yield (running Var, its value after this batch), of the mean and of the variance."""
        norm, mean = self.norm, self.mean
        if self.shift is not None:
            mean = mean + self.shift
        variance = self.variance * self.unbiased
        for running, new in ((norm.running_mean, mean), (norm.running_var, variance)):
            yield running, running + (new - running) * norm.momentum


class ComposedVerdict:
    """Whether a step was accepted, as Vars of one value."""

    def __init__(self, loss, accepted, steps):
        self.loss, self.accepted, self.steps = loss.detach(), accepted, steps
        self.corrections, self.scale, self.reading = [], None, None

    def choose(self, new, old):
        """`new` where the step was accepted, else `old`, whatever numbers `new` has."""
        return jt.ternary(self.accepted.broadcast(old.shape), new, old)

    def read(self):
        """The Reading of this step; waits for the device."""
        if self.reading is None:
            self.reading = Reading(float(self.loss.item()), bool(self.accepted.item()),
                                   int(self.steps.item()))
        return self.reading


class Composed:
    """The end of a step by Jittor's operators.  backend.cuda_updates.Kernels has these methods."""

    def decide(self, loss, steps, gradients, formula, limits):
        """Accept or refuse a step: its verdict.

        loss: Var of one value.  steps: Var (1,) int32, the accepted steps, counted here.
        gradients: list of Vars.  formula: backend.optimizers.Formula.  limits: Limits.
        """
        accepted = (loss <= min(limits.loss, LARGEST)) & (loss >= -LARGEST)
        steps.update(steps + accepted.int32())
        verdict = ComposedVerdict(loss, accepted, steps.detach())
        count = jt.maximum(steps, 1).float64()
        verdict.corrections = [(1 / (1 - beta ** count)).float32()
                               for beta in (formula.beta1, formula.beta2)]
        if limits.norm:
            norm = jt.sqrt(sum((gradient * gradient).sum() for gradient in gradients))
            verdict.scale = jt.minimum(limits.norm / (norm + 1e-6), 1.0)
        return verdict

    def apply(self, verdict, formula, rate, parameters, gradients, moments):
        """Move the parameters and moments where the step was accepted.

        rate: the learning rate.  moments: a list of Vars for each name of `formula.moments`.
        """
        for parameter, gradient, *old in zip(parameters, gradients, *moments):
            if verdict.scale is not None:
                gradient = gradient * verdict.scale
            if formula.coupled_decay:
                gradient = gradient + formula.coupled_decay * parameter
            if len(old) == 1:
                new = [formula.beta1 * old[0] + gradient]
                step = new[0]
            else:
                new = [formula.beta2 * old[0] + (1 - formula.beta2) * gradient * gradient,
                       formula.beta1 * old[1] + (1 - formula.beta1) * gradient]
                of_first, of_second = verdict.corrections
                step = new[1] * of_first / (jt.sqrt(new[0] * of_second) + formula.epsilon)
            kept = parameter * (1 - rate * formula.decoupled_decay)
            parameter.update(verdict.choose(kept - rate * step, parameter))
            for var, moved in zip(old, new):
                var.update(verdict.choose(moved, var))

    def move_statistics(self, verdict, batches):
        """Move running statistics by BatchStatistics, where the step was accepted."""
        for batch in batches:
            for running, moved in batch.moves():
                running.update(verdict.choose(moved, running))

    def average(self, averages, variables, share):
        """Move averages towards variables, by this share of the way."""
        for average, var in zip(averages, variables):
            average.update(average + (var - average) * share)

    def keep_values(self, variables):
        """Vars with the values of now, which no step changes; a list."""
        return [var.detach() for var in variables]  # a step puts new Vars in their places

    def restore_values(self, variables, kept):
        """Give variables the values that `keep_values` has kept, as often as one likes."""
        for var, value in zip(variables, kept):
            var.assign(value)
