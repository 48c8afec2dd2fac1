"""Every Var that a training step changes: model, optimiser's moments, averages of the weights.

Importing this module imports Jittor.
"""
from contextlib import contextmanager

from backend.device_optimizer import DeviceOptimizer
from backend.updates import Composed

MOMENTS = ("values", "m")  # where Jittor's optimisers keep theirs


class TrainingState:
    """The state of a model and its optimiser between two steps.

    prefix: begins the names of the moments.  average_prefix: begins the names of averages of the
    model's whole state over the steps; "": there are none.
    """

    def __init__(self, model, optimizer, prefix, average_prefix=""):
        self.optimizer, self.prefix, self.average_prefix = optimizer, prefix, average_prefix
        self.own = model.state_dict()
        self.statistics = {name: var for name, var in self.own.items()
                           if name.endswith(("running_mean", "running_var"))}
        is_on_device = isinstance(optimizer, DeviceOptimizer)
        self.updates = optimizer.updates if is_on_device else Composed()
        self.averages = {}
        if average_prefix:
            self.averages = dict(zip(self.own, self.updates.keep_values(list(self.own.values()))))

    def vars(self):
        """{name: Var} of the model's state dict, of the optimiser's moments and of averages."""
        state = dict(self.own)
        for kind in MOMENTS:
            for k, var in enumerate(self.optimizer.param_groups[0].get(kind, ())):
                state[f"{self.prefix}{kind}.{k}"] = var
        for name, var in self.averages.items():
            state[self.average_prefix + name] = var
        return state

    # -------------------------------------------------------------------------------- the averages
    def average(self, share):
        """Move the averages towards the model's state, by this share of the way; 1: all of it."""
        if self.averages:
            self.updates.average(list(self.averages.values()), list(self.own.values()), share)

    def tested_vars(self):
        """{name: Var} of the model as it is tested and kept: the averages, where there are any."""
        return self.averages or self.own

    @contextmanager
    def in_model(self, variables):
        """`with state.in_model({name: Var}):` the model has these, and then its own again.

        Nothing is copied.
        """
        pairs = [(var, variables[name]) for name, var in self.own.items()
                 if variables[name] is not var]
        for var, other in pairs:
            var.swap(other)
        try:
            yield
        finally:
            for var, other in pairs:
                var.swap(other)

    # --------------------------------------------------------------------------------- going back
    def keep_statistics(self):
        """BatchNorm's running statistics before a step: {name: Var}."""
        return {name: var.detach() for name, var in self.statistics.items()}

    def put_back(self, statistics):
        """Undo what a forward pass did to the running statistics."""
        for name, var in self.statistics.items():
            var.assign(statistics[name])

    def snapshot(self, n_step, statistics=None):
        """The state after `n_step` steps, for `restore`, as a step leaves it alone.

        statistics: those of then, where the forward pass has moved on.
        """
        state = {**self.vars(), **(statistics or {})}
        kept = self.updates.keep_values(list(state.values()))
        return {**dict(zip(state, kept)), "n_step": n_step}

    def restore(self, snapshot):
        """Go back to a `snapshot`, which stays as it is."""
        state = self.vars()
        self.updates.restore_values(list(state.values()), [snapshot[name] for name in state])
        self.optimizer.n_step = snapshot["n_step"]
