"""The learning rate and the averages of the weights over a run."""
import math

# gamma of Karras et al.: the steps that make an average have a standard deviation of 0.05 of all
# steps so far, and lie 0.053 of them back in the mean
POWER = 16.97


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


def average_share(ema, step):
    """The share of the way to the weights that the averages go after step number `step`, from 1.

    A number: the exponential average of that decay, without the bias of its beginning (Kingma and
    Ba, ICLR 2015, section 3).  'auto': step i counts as i ** gamma, so that the average reaches
    back over the same part of a run of any length (Karras et al., CVPR 2024, section 3.1).
    """
    if ema == "auto":
        return 1 - (1 - 1 / step) ** (POWER + 1)
    return (1 - ema) / (1 - ema ** step)
