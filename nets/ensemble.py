"""Nets that predict together: their files, and whether their answers can be averaged.

An ensemble of one net is that net.
"""
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from command.errors import DataError
from images.channels import MOST_CHANNELS, describe_channels, suits_channels
from nets.checkpoint import read_weights
from nets.cut import Cut, common_cut
from nets.flags import others_flags, refuse_for_ours, refuse_other_net
from nets.recognise import describe_net
from nets.trained import SALIENCY_PRESETS, TrainedNet, net_of_flags, net_of_header


class AnswerKind(NamedTuple):
    """What the answers of nets that go together are about."""
    n_classes: int   # background included
    label_kind: str  # as in TrainedNet
    border: int      # px

    def __str__(self):
        if self.label_kind == "objects":
            return f"objects with a border of {self.border} px"
        return f"{self.n_classes} classes"


class Member(NamedTuple):
    """A net and its weights."""
    path: Path
    net: TrainedNet
    weights: dict  # {name: array}; empty once a model has them

    @property
    def kind(self):
        return AnswerKind(max(self.net.n_classes, 2), self.net.label_kind, self.net.border)


@dataclass(frozen=True)
class Ensemble:
    """Nets that agree on what they answer.  Each sees an image in its own way."""
    nets: tuple  # of TrainedNets

    @property
    def n_channels(self):
        """With how many channels image files are read; each net converts grey and RGB itself."""
        return self.nets[0].n_channels

    @property
    def n_classes(self):
        """How many probabilities a pixel has: 1 where every net has a single output."""
        return max(net.n_classes for net in self.nets)

    @property
    def label_kind(self):
        return self.nets[0].label_kind

    @property
    def border(self):
        return self.nets[0].border

    @property
    def cut(self):
        """What is foreground of their mean."""
        return common_cut(net.cut for net in self.nets)

    @property
    def is_saliency(self):
        return self.nets[0].is_saliency


def find_checkpoints(paths, name):
    """The files that paths of files and folders name, each as often as it is named.

    Of a folder, the files called `name` in its sub-folders, sorted; where these have none, its own.
    Raises DataError for a folder without any.
    """
    found = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        files = sorted(path.rglob(name))
        inside = [file for file in files if file.parent != path] or files
        if not inside:
            raise DataError(f"{path}: no {name} here or in its folders")
        found += inside
    return found


def read_members(paths, args, parser):
    """[Member] of files.  args: the flags of nets.flags, which hold for all of others' weights.

    Raises DataError for files that are no nets or do not go together.  A flag that contradicts one
    ends the command.
    """
    if args.preset in SALIENCY_PRESETS and len(paths) > 1:
        parser.error(f"--preset {args.preset}: saliency maps are no probabilities to average; give "
                     "one file in --Checkpoint")
    stored = [(path, *read_weights(path)) for path in paths]
    if all(header is not None for _, _, header in stored):
        refuse_for_ours(args, paths[0], parser)
    members = []
    for path, weights, header in stored:
        found = describe_net(weights, path)
        refuse_other_net(args, found, path, parser)
        if found.n_channels > MOST_CHANNELS:
            raise DataError(f"{path}: its net has n_channels {found.n_channels}; "
                            f"images here have up to {MOST_CHANNELS}")
        if header is None:
            net = net_of_flags(others_flags(args), found, path)
        else:
            net = net_of_header(header, found, path)
        members.append(Member(path, net, weights))
    check_together(members)
    return members


def check_together(members):
    """Raise DataError, naming two files, where the answers of Members cannot be averaged."""
    first = members[0]
    for other in members[1:]:
        both = f"{first.path} and {other.path}"
        if first.kind != other.kind:
            raise DataError(f"{both}: one answers {first.kind}, the other {other.kind}; "
                            "leave one out")
        channels = first.net.n_channels, other.net.n_channels
        if not suits_channels(*channels):
            raise DataError(f"{both}: one takes {describe_channels(channels[0])}, the other "
                            f"{describe_channels(channels[1])}; no image suits both; "
                            "leave one out")


def describe_members(members):
    """A line about each Member, and about what several are together."""
    lines = [f"{member.path}: {member.net}{_name_cut(member.net)}" for member in members]
    if len(members) > 1:
        size = sum(array.size for member in members for array in member.weights.values())
        together = Ensemble(tuple(member.net for member in members))
        lines.append(f"Mean of the probabilities of {len(members)} nets, {size * 4 / 1e6:.1f} MB "
                     f"of weights{_name_cut(together)}")
    return lines


def _name_cut(net):
    """The Cut of a net for people, "" for a plain one."""
    return "" if net.cut == Cut() else f"; {net.cut}"
