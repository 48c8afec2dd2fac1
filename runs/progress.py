"""The numbers that the next step of a run depends on: what --resume stores, with every Var."""
import dataclasses
import math
from dataclasses import dataclass, field


def is_count(value):
    return type(value) is int and 0 <= value < 2 ** 53


def is_number(value):
    return is_count(value) or (type(value) is float and math.isfinite(value))


def are_numbers(values):
    return type(values) is list and all(map(is_number, values))


SETTLED, ACCEPTED, REFUSED = 0, 1, 2  # what a run has not judged yet: no step, or one that was

CHECKS = {int: is_count, float: is_number, list: are_numbers,
          bool: lambda value: type(value) is bool}


def suits(cls, values):
    """Whether a dict from a file holds just the fields of a dataclass, each of its annotation."""
    kinds = {each.name: each.type for each in dataclasses.fields(cls)}
    return set(values) == set(kinds) and all(CHECKS[kind](values[name])
                                             for name, kind in kinds.items())


def renamed(values):
    """The fields of a stored Progress under their names of today; values: a dict from a file."""
    values = dict(values)
    if "best_iou" in values:  # before another score could choose the best model
        values["best_score"] = values.pop("best_iou")
    # before a step could be read late
    return {"pending": SETTLED, "pending_loss": 0.0, **values}


@dataclass
class Progress:
    """How far a run is."""
    epoch: int = 0                # the epoch at hand, from 0
    step: int = 0                 # the next step in it
    losses: list = field(default_factory=list)  # of this epoch's accepted batches
    images: int = 0               # trained on in this epoch
    epoch_seconds: float = 0.0    # this epoch's training
    skipped: int = 0              # batches left out in this epoch
    tested: int = 0               # epochs that were done at the last test
    best_score: float = -1.0      # of the best model, by the score that chooses it
    bad_in_a_row: int = 0         # skipped batches
    good_in_a_row: int = 0        # accepted batches
    went_back: bool = False       # to the last good state, and has not proved itself since
    seconds: float = 0.0          # the whole run
    test_seconds: float = 0.0     # the last test
    all_test_seconds: float = 0.0
    accepted: list = field(default_factory=list)  # losses in the guard's window
    n_step: int = 0               # the optimiser's steps
    pending: int = SETTLED        # the last step, where its loss is to be judged after the next one
    pending_loss: float = 0.0     # its loss; -1 where that is not finite

    def take_over(self, other):
        """Become another Progress: all that refers to this one goes on from there."""
        vars(self).update(vars(other))

    def ends_run(self, total_epochs, out_of_time):
        """Whether all epochs are done, or the time is up and the last of them was tested."""
        return (self.epoch >= total_epochs
                or out_of_time and self.step == 0 and 0 < self.tested == self.epoch)

    def begin_epoch(self, epoch):
        self.epoch, self.step, self.losses, self.skipped = epoch, 0, [], 0
        self.images, self.epoch_seconds = 0, 0.0
