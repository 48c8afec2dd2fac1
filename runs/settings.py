"""The settings of a run."""
from typing import NamedTuple

from command.flags import number


class Every(NamedTuple):
    """How often: `amount` epochs, or minutes where `unit` is 'm'."""
    amount: float
    unit: str

    def __str__(self):
        return f"{self.amount}{self.unit}"


def save_every(text):
    """A flag type: 'N' epochs or 'Nm' minutes -> Every."""
    return Every(number(float, 0, include_low=False)(text[:-1]), "m") if text.endswith("m") else Every(number(int, 1)(text), "")
