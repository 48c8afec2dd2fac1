"""The settings of a run: what the flags of Main.py say, frozen, in four groups.

Fields have their flags' names.  Checkpoint header, --resume and the page keep the same words.
"""
import argparse
import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Optional

from command.flags import number
from datasets.splits import Fold
from nets.catalogue import CATALOGUE


FROZEN_PARTS = ("encoder",)  # the words of --freeze


class Every(NamedTuple):
    """How often: `amount` epochs, or minutes where `unit` is 'm'."""
    amount: float
    unit: str

    def __str__(self):
        return f"{self.amount}{self.unit}"


def save_every(text):
    """A flag type: 'N' epochs or 'Nm' minutes -> Every."""
    if text.endswith("m"):
        return Every(number(float, 0, include_low=False)(text[:-1]), "m")
    return Every(number(int, 1)(text), "")


def crop_count(text):
    """A flag type: 'auto', or a number of crops."""
    return text if text == "auto" else number(int, 1, 10 ** 6)(text)


def decay(text):
    """A flag type: 'auto', or the decay of an average, 0: none."""
    return text if text == "auto" else number(float, 0, 1)(text)


def fold_of_text(text):
    """A flag type: 'K/N', the fold K of N, or 'all/N' -> datasets.splits.Fold."""
    match = re.fullmatch("(all|[0-9]{1,6})/([0-9]{1,6})", text)
    if match:
        which, count = None if match[1] == "all" else int(match[1]), int(match[2])
        if (which or 0) < count > 1:
            return Fold(which, count)
    raise argparse.ArgumentTypeError("expected K/N, the fold K = 0 ... N - 1 of N = 2 or more, "
                                     f"or all/N, got {text!r}")


# the folders that a run shares with no other one
OWN_FOLDERS = ("Log_directory", "Checkpoint_directory", "Result_directory")


def own_folder(folder, fold):
    """Where in `folder` a run of this Fold writes; None: a run without folds."""
    return folder / f"fold_{fold.number}" if fold else folder


@dataclass(frozen=True)
class DataSettings:
    """What is trained on; None: left to choose."""
    Data_directory: Path
    n_channels: Optional[int]
    n_classes: Optional[int]
    label_kind: Optional[str]     # of label_values.KINDS_OF_LABELS
    ignore_label: Optional[int]
    val_fraction: float
    fold: Optional[Fold]          # that chooses the best model
    group: Optional[str]

    @property
    def holds_back(self):
        """Whether training images choose the best model, and are left out of training."""
        return bool(self.fold or self.val_fraction)


@dataclass(frozen=True)
class NetSettings:
    """What is trained; None: left to choose."""
    mode: str
    bilinear: bool
    dropout_probs: list
    base_channels: Optional[int]
    padding: int
    conv_bias: bool               # no flag: the file of --weights shows it
    align_corners: bool

    @property
    def row(self):
        """The net's row in the catalogue."""
        return CATALOGUE[self.mode]

    @property
    def options(self):
        """The options of Model.build_model, as the checkpoint keeps them."""
        return self.row.options(dataclasses.asdict(self))

    @property
    def geometry(self):
        return self.row.geometry(self.options)


@dataclass(frozen=True)
class TrainingSettings:
    """How it is trained; None: left to choose, or (Time_budget) no limit."""
    protocol: Optional[str]       # None: not given, the paper's settings
    Total_epochs: Optional[int]
    Val_epochs: Optional[int]
    Batch_size: Optional[int]
    tile: Optional[object]        # a MirrorPadding tiling
    crops_per_image: object       # a number, or "auto"
    Learning_rate: float
    optimizer: str
    lr_schedule: str
    warm_up: float                # share of the run
    clip_norm: float              # 0: any
    ema: object                   # the decay of averaged weights, 0: none, or "auto"
    loss: Optional[str]
    Loss_w0: float
    Loss_sigma: float             # px
    augment: str
    best_by: str                  # key of the score that chooses the best model
    Time_budget: Optional[float]  # minutes
    precision: Optional[str]      # of backend.precision.PRECISIONS
    seed: int
    weights: Optional[Path]       # the file to begin with; None: from scratch
    preset: Optional[str]         # of nets.trained.PRESETS
    freeze: Optional[str]         # of FROZEN_PARTS

    @property
    def budget(self):
        """Seconds after which the run ends; 0: none."""
        return 60 * (self.Time_budget or 0)


@dataclass(frozen=True)
class RunSettings:
    """Where it runs, where its files go."""
    Datatxt_directory: Path
    Log_directory: Path
    Checkpoint_directory: Path
    Result_directory: Path
    Weight_directory: Path
    device: str
    cache_size: float             # GB
    workers: Optional[int]        # threads; None: left to choose
    save_every: Optional[Every]   # None: left to choose
    resume: bool
    force: bool


@dataclass(frozen=True)
class Settings:
    """All settings of a run."""
    data: DataSettings
    net: NetSettings
    training: TrainingSettings
    run: RunSettings

    @classmethod
    def of_flags(cls, values):
        """The settings that {flag: value} holds; other flags are passed over."""
        return cls(**{group.name: group.type(**{each.name: values[each.name]
                                                for each in dataclasses.fields(group.type)})
                      for group in dataclasses.fields(cls)})

    @property
    def frozen(self):
        """The names of the net's modules that are not trained."""
        return self.net.row.encoder if self.training.freeze else ()

    @property
    def folders(self):
        """The RunSettings with the folders that this run alone writes: a fold has its own."""
        return dataclasses.replace(self.run, **{name: own_folder(getattr(self.run, name),
                                                                 self.data.fold)
                                                for name in OWN_FOLDERS})

    def flags(self):
        """{flag: value} of all settings."""
        return {name: value for group in dataclasses.fields(self)
                for name, value in vars(getattr(self, group.name)).items()}

    def replace(self, **changes):
        """The same settings, but for these {flag: value}."""
        return type(self).of_flags({**self.flags(), **changes})
