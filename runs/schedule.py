"""The learning rate over a run."""
import math


def learning_rate(settings, done):
    """The rate once the share `done` (0 ... 1) of a run is over; settings: TrainingSettings.

    'cosine': Loshchilov and Hutter, "SGDR", ICLR 2017, eq. 5, without restarts.
    """
    share = 1.0
    if settings.lr_schedule == "cosine":
        share *= (1 + math.cos(math.pi * done)) / 2
    if settings.warm_up:
        share *= min(1.0, done / settings.warm_up)
    return share * settings.Learning_rate
