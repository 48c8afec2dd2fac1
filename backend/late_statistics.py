"""BatchNorm's running statistics, moved after the step that may refuse them.

    with statistics_later() as batches:
        ...                        # a forward pass moves none, and notes them in `batches`
    updates.move_statistics(verdict, batches)

Importing this module does not import Jittor.
"""
from contextlib import contextmanager
from contextvars import ContextVar

_batches = ContextVar("batches", default=None)


@contextmanager
def statistics_later():
    """Note what BatchNorms find instead of moving their running statistics.

    Gives the list of backend.updates.BatchStatistics.  Each BatchNorm may run once.
    """
    noted = []
    token = _batches.set(noted)
    try:
        yield noted
    finally:
        _batches.reset(token)


def noted_batches():
    """The list to note in; None where running statistics move at once."""
    return _batches.get()
