"""Which batches a net learns from, and what ends a run whose loss does not recover."""
import math
from collections import deque

import numpy as np

from command.errors import DataError


class TrainingFailed(DataError):
    """The loss does not recover; the message says what to try."""


class LossGuard:
    """Tells a batch to learn from by its loss: finite, and after `warm_up` steps no outlier.

    An outlier is over `factor` times the running median, and over twice the largest of the last
    accepted losses.  Where most images are empty and soon cost next to nothing, those with objects
    are no outliers.  So the `window` of these losses has to hold every image: two epochs, but
    10,000 losses at most, for their median is taken at each step.  A loss of 0, of pixels that
    nobody labelled, says nothing and is not among them.
    """

    def __init__(self, warm_up=20, factor=20.0, window=100):
        self.warm_up, self.factor = warm_up, factor
        self.accepted = deque(maxlen=window)

    def accepts(self, loss):
        """Whether to learn from a batch; remembers its loss then."""
        good = math.isfinite(loss) and loss <= self.limit()
        if good:
            self.remember(loss)
        return good

    def limit(self):
        """The largest loss that is no outlier."""
        if len(self.accepted) < self.warm_up:
            return math.inf
        return max(self.factor * float(np.median(self.accepted)), 2 * max(self.accepted))

    def remember(self, loss):
        """Keep the loss of an accepted batch, for the limits of later ones."""
        if loss:
            self.accepted.append(loss)
