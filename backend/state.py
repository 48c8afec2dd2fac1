"""Every Var that a training step changes: the model's state and the optimiser's moments."""

MOMENTS = ("values", "m")  # where Jittor's optimisers keep theirs


class TrainingState:
    """The state of a model and its optimiser between two steps.

    prefix: begins the names of what is no weight.
    """

    def __init__(self, model, optimizer, prefix):
        self.model, self.optimizer, self.prefix = model, optimizer, prefix
        self.statistics = {name: var for name, var in model.state_dict().items()
                           if name.endswith(("running_mean", "running_var"))}

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
        """The state after `n_step` steps, for `restore`; nothing is copied.

        It refers to the Vars of now: a step puts new ones in their places.
        statistics: those of then, where the forward pass has moved on.
        """
        state = {name: var.detach()
                 for name, var in {**self.vars(), **(statistics or {})}.items()}
        return {**state, "n_step": n_step}

    def restore(self, snapshot):
        """Go back to a `snapshot`, which stays as it is."""
        for name, var in self.vars().items():
            var.assign(snapshot[name])
        self.optimizer.n_step = snapshot["n_step"]
