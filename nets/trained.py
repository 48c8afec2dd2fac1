"""What there is to know of a trained net before it is built, from a checkpoint or from flags."""
import math
from dataclasses import dataclass
from typing import NamedTuple, Optional

from command.errors import DataError
from images.channels import VALUE_DTYPES
from images.values import Statistics
from nets.catalogue import CATALOGUE
from nets.cut import Cut, cut_of_header

# the published weights' nets, by their words
PRESETS = {"u2net": "U2net", "u2netp": "U2netS", "milesial": "Unet"}
WIDEST_BORDER = 16  # px
SALIENCY_PRESETS = ("u2net", "u2netp")  # predicted by U-2-Net's own protocol


@dataclass(frozen=True)
class TrainedNet:
    """A net and how its images were prepared."""
    mode: str
    n_channels: int
    n_classes: int
    options: dict
    statistics: Statistics
    tile: str = "full"         # how images are cut: the word of --tile
    is_saliency: bool = False  # by U-2-Net's own protocol
    label_kind: str = "classes"  # "objects": their foreground, without the separation border
    border: int = 0            # px, its width on each side; 0 for classes
    threshold: float = 0.5     # see nets.cut.Cut
    smallest_object: int = 0   # px

    @property
    def geometry(self):
        return CATALOGUE[self.mode].geometry(self.options)

    @property
    def cut(self):
        return Cut(self.threshold, self.smallest_object)

    def __str__(self):
        return describe(self.mode, self.n_channels, self.n_classes, self.options)


class OthersFlags(NamedTuple):
    """What flags say of weights that are not Main.py's; None: not given."""
    preset: Optional[str]
    padding: Optional[int]
    align_corners: Optional[bool]
    mean: Optional[list]
    std: Optional[list]


def describe(mode, n_channels, n_classes, options):
    """A net for people: 'Unet, n_channels 1, n_classes 2, base_channels 64, ...'."""
    said = {"n_channels": n_channels, "n_classes": n_classes, **options}
    return ", ".join([mode, *(f"{name} {value}" for name, value in said.items())])


def net_of_header(header, found, path):
    """The TrainedNet of a checkpoint of Main.py.

    found: what its weights show, catalogue.Recognised.  Raises DataError where the header is
    damaged or does not suit the weights.
    """
    try:
        told = [header[name] for name in ("mode", "n_channels", "n_classes")]
        mean, std = (tuple(map(float, header[name])) for name in ("mean", "std"))
        statistics = Statistics(mean, std, _dtype_of(header))
        options = {name: header["options"][name] for name in CATALOGUE[found.mode].unseen_options
                   if name in header["options"]}
        cut = header["tile"]
        is_cut = cut in ("full", "reference") or type(cut) is int and cut >= 16
        are_switches = all(value in (0, 1) for value in options.values())
        kind = header.get("label_kind", "classes"), header.get("border", 0)
        answers = cut_of_header(header, found.n_classes)
        if not is_cut or not are_switches or not _is_kind(*kind, found.n_classes):
            raise ValueError(f"tile {cut!r}, {options}, labels {kind}")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: its header is not as Main.py writes it ({error!r}); "
                        "choose another") from None
    if told != [found.mode, found.n_channels, found.n_classes]:
        raise DataError(f"{path}: its header says {told[0]}, n_channels {told[1]}, n_classes "
                        f"{told[2]}, its weights are those of {describe(*found)}; choose another")
    suits = {len(mean), len(std)} == {found.n_channels}
    if not suits or not all(map(math.isfinite, mean)) or not min(std) > 0:
        raise DataError(f"{path}: its header's mean and std do not suit n_channels "
                        f"{found.n_channels}; choose another")
    return TrainedNet(found.mode, found.n_channels, found.n_classes,
                      {**found.options, **options}, statistics, str(cut), False, *kind,
                      *answers)


def _is_kind(label_kind, border, n_classes):
    """Whether a header's words about labels go together."""
    if label_kind == "objects":
        return type(border) is int and 1 <= border <= WIDEST_BORDER and n_classes == 2
    return label_kind == "classes" and border == 0


def _dtype_of(header):
    """The dtype of the training images, by a checkpoint's header; "" where nobody knows.

    Checkpoints had `bits` when images had 8 or 16, and none before that.
    """
    dtype = header.get("dtype", {0: "", 8: "uint8", 16: "uint16"}[header.get("bits", 0)])
    if dtype not in ("", *VALUE_DTYPES):
        raise ValueError(f"dtype {dtype!r}")
    return dtype


def net_of_flags(flags, found, path):
    """The TrainedNet of others' weights: what these show, completed by OthersFlags.

    Where no flag says it: milesial's U-Net pads and aligns corners, and so do those made after it,
    whose convolutions have no bias either.  Raises DataError where a preset or a number does not
    suit.
    """
    statistics = Statistics(_per_channel("mean", flags.mean or [0.0], found.n_channels),
                            _per_channel("std", flags.std or [1.0], found.n_channels))
    likely = flags.preset == "milesial" or found.options.get("conv_bias") is False
    given = {"align_corners": flags.align_corners, "padding": flags.padding}
    options = dict(found.options)
    for name in CATALOGUE[found.mode].unseen_options[::-1]:
        options[name] = given[name]
        if given[name] is None:
            options[name] = likely if name == "align_corners" else int(likely)
    is_saliency = flags.preset in SALIENCY_PRESETS
    net = TrainedNet(found.mode, found.n_channels, found.n_classes, options, statistics,
                     is_saliency=is_saliency)
    if flags.preset and (PRESETS[flags.preset], 3) != (net.mode, net.n_channels):
        raise DataError(f"--preset {flags.preset}: {path} holds {describe(*found)}")
    if is_saliency and net.n_classes != 1:
        raise DataError(f"--preset {flags.preset}: {path} has n_classes {net.n_classes}, not 1")
    return net


def _per_channel(name, values, n_channels):
    """A value for each channel, of one for all or of one for each."""
    if len(values) not in (1, n_channels):
        raise DataError(f"--{name}: {len(values)} values, but the net has n_channels "
                        f"{n_channels}")
    return tuple(values * n_channels if len(values) == 1 else values)
