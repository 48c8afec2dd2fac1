"""How the steps of a run differ from the optimiser's plain ones."""
import math
from typing import NamedTuple


class Plan(NamedTuple):
    """How the steps of a run differ from the optimiser's plain ones."""
    loss: str = "weighted_ce"
    schedule: str = "constant"
    warm_up: float = 0.0      # the share of the run over which the learning rate rises
    clip_norm: float = 0.0    # the largest norm of all gradients together; 0: any
    time_budget: float = 0.0  # seconds after which the run ends, a tenth of them for tests; 0: none

    def rate(self, done):
        """The learning rate, as a share of its highest, once the share `done` (0 ... 1) of the run is over.

        'cosine': Loshchilov and Hutter, "SGDR", ICLR 2017, eq. 5, without restarts.
        """
        falling = (1 + math.cos(math.pi * done)) / 2 if self.schedule == "cosine" else 1.0
        return falling * min(1.0, done / self.warm_up) if self.warm_up else falling
