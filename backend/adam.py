"""Adam, as Kingma and Ba wrote it.  Importing this module imports Jittor."""
import math

from backend.start import jt


class Adam(jt.optim.Adam):
    """Adam with epsilon after the bias correction (Kingma and Ba, ICLR 2015, algorithm 1).

    PyTorch does the same.  Jittor's own adds epsilon before the correction.
    """
    EPSILON = 1e-8

    def step(self, loss=None, retain_graph=False):
        steps = self.n_step
        if loss is not None:
            steps += 1
        # Jittor divides by sqrt(v) + eps with v uncorrected: eps has to shrink as v does.
        self.eps = self.EPSILON * math.sqrt(1 - self.betas[1] ** steps)
        super().step(loss, retain_graph)
