"""Every Var that a training step changes: the model's state and the optimiser's moments.

Importing this module imports Jittor.
"""
from backend.device_optimizer import DeviceOptimizer
from backend.updates import Composed

MOMENTS = ("values", "m")  # where Jittor's optimisers keep theirs


class TrainingState:
    """The state of a model and its optimiser between two steps.

    prefix: begins the names of what is no weight.
    """

    def __init__(self, model, optimizer, prefix):
        self.model, self.optimizer, self.prefix = model, optimizer, prefix
        self.statistics = {name: var for name, var in model.state_dict().items()
                           if name.endswith(("running_mean", "running_var"))}
        is_on_device = isinstance(optimizer, DeviceOptimizer)
        self.updates = optimizer.updates if is_on_device else Composed()

    def vars(self):
        """{name: Var} of the model's state dict and of the optimiser's moments."""
        state = dict(self.model.state_dict())
        for kind in MOMENTS:
            for k, var in enumerate(self.optimizer.param_groups[0].get(kind, ())):
                state[f"{self.prefix}{kind}.{k}"] = var
        return state

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
