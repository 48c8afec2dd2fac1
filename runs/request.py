"""From the words of a command line to the settings of a run."""
from typing import NamedTuple, Optional

from backend import ranks
from backend.precision import refuse_on_device
from command.errors import DataError
from datasets.label_values import refuse_label_kind
from nets.beginning import Beginning
from nets.catalogue import CATALOGUE
from runs.choices import find_wrong_chooser
from runs.resume import (LAST, StoredRun, average_anew, find_contradictions, find_too_short,
                         judge_by, load_run, parse_stored, resume_command)
from runs.settings import Settings, own_folder
from runs.weights import take_weights


class Request(NamedTuple):
    """What the command line asks for."""
    settings: Settings           # None in them: left to choose
    given: frozenset             # the flags that were given
    stored: Optional[StoredRun]  # the run to go on with
    go_on: str                   # the command that resumes this run
    beginning: Optional[Beginning] = None  # the weights that a new run begins with
    seeds: tuple = ()            # of a series of runs

    @property
    def weights_from(self):
        """Whose weights the run began with, {"name": of the file, "sha256"}; None: nobody's."""
        if self.stored:
            return self.stored.weights_from
        return self.beginning.origin if self.beginning else None

    @property
    def is_series(self):
        """Whether several runs are asked for, each of which is a Request of its own."""
        return is_series(self.seeds, self.settings.data.fold)


def given_flags(words, parser):
    """{flag: value} of the flags that stand on the command line."""
    parser.parse_args(words)  # answers --help, which shows the defaults, and mistakes
    missing = object()
    parser.set_defaults(**dict.fromkeys(vars(parser.parse_args([])), missing))
    given = {flag: value for flag, value in vars(parser.parse_args(words)).items()
             if value is not missing}
    for flag, word in (("protocol", "default"), ("precision", "auto")):
        if given.get(flag) == word:  # another way to say: none
            del given[flag]
    return given


def read_request(words, build_parser, protocols, crop):
    """The Request of a command line; exit code 2, with one line, for flags that do not fit.

    build_parser: a function that makes the command's parser.  protocols: {word of --protocol:
    {flag: what it means where it is not given}}.  crop: the tiling of a tile that is left to
    choose.
    """
    parser, stored, beginning = build_parser(), None, None
    defaults = {**vars(parser.parse_args([])), "protocol": None, "precision": None}
    given = given_flags(words, build_parser())
    values = {**defaults, **protocols.get(given.get("protocol"), {}), **given}
    check_series(values, given, parser)
    if values["resume"] and not is_series(values["seeds"], values["fold"]):
        path = own_folder(values["Checkpoint_directory"], values["fold"]) / LAST
        stored = load_run(path)
        kept = {**defaults, **parse_stored(stored.settings, build_parser(), path)}
        values = {**kept, **given}
        if kept["fold"] and "fold" not in given:
            parser.error(f"--resume: {path} is of --fold {kept['fold']}; add that flag, and give "
                         f"the folders in which fold_{kept['fold'].number} lies")
    elif values["force"] and not values["resume"]:
        parser.error("--force: only with --resume")
    elif "Time_budget" in given:
        values.update({name: given.get(name) for name in ("Total_epochs", "Val_epochs")})
    if not stored:
        beginning = take_weights(values, given, parser)
    fill_gaps(values, given, parser)
    settings = Settings.of_flags(values)
    check_flags(settings, parser, crop)
    if stored:
        check_resumed(settings, kept, stored, parser)
        if settings.training.best_by != kept["best_by"]:
            judge_by(stored, settings.training.best_by)
        if bool(settings.training.ema) != bool(kept["ema"]):
            average_anew(stored)
    seeds, go_on = tuple(values["seeds"] or ()), resume_command(settings, defaults)
    if is_series(seeds, values["fold"]):
        beginning = None  # each run reads the weights itself; here they would only take memory
    return Request(settings, frozenset(given), stored, go_on, beginning, seeds)


def is_series(seeds, fold):
    """Whether --seeds and --fold, or None, ask for several runs."""
    return bool(seeds or fold and fold.number is None)


def check_series(values, given, parser):
    """End with exit code 2 for flags of several runs that do not fit.

    values, given: {flag: value} of all flags, and of those on the command line.
    """
    seeds, fold = values["seeds"] or [], values["fold"]
    if seeds and "seed" in given:
        parser.error("--seeds: not with --seed")
    if len(set(seeds)) < len(seeds):
        parser.error(f"--seeds {' '.join(map(str, seeds))}: each seed once")
    if ranks.size() > 1 and is_series(seeds, fold):
        parser.error("--fold all/N and --seeds: not under mpirun; start each run by itself, with "
                     "--fold K/N and --seed")


def fill_gaps(values, given, parser):
    """Settle in {flag: value} what follows from other flags."""
    short = (values["Total_epochs"] or float("inf")) <= (values["Val_epochs"] or 0)
    if short and "Total_epochs" in given and "Val_epochs" not in given:
        values["Val_epochs"] = None  # that of a longer run: chosen anew
    if values["is_grayscale"] is not None:
        settle_grayscale(values, given, parser)
    if "padding" not in CATALOGUE[values["mode"]].flags and "padding" not in given:
        values["padding"] = 0


def settle_grayscale(values, given, parser):
    """Settle n_channels in {flag: value} by is_grayscale, which is given."""
    is_grey, n_channels = values["is_grayscale"], values["n_channels"]
    if n_channels is not None and is_grey == (n_channels == 1):
        return
    if n_channels is not None and "n_channels" in given:
        parser.error(f"--is_grayscale {is_grey} does not suit --n_channels {n_channels}: "
                     "grey images have 1 channel, others more")
    values["n_channels"] = 1 if is_grey else 3


def check_flags(settings, parser, crop):
    """End with exit code 2 for flags that do not go together."""
    net, training = settings.net, settings.training
    total, first = training.Total_epochs, training.Val_epochs
    if None not in (total, first) and first >= total:
        parser.error(f"--Val_epochs {first} must be below --Total_epochs {total}: "
                     "nothing would be tested")
    if training.Batch_size and training.Batch_size < ranks.size():
        parser.error(f"--Batch_size {training.Batch_size}: fewer images than mpirun's "
                     f"{ranks.size()} processes, which share them")
    if net.base_channels and net.base_channels % 2:
        parser.error(f"--base_channels {net.base_channels} must be even")
    if settings.data.fold and settings.data.val_fraction:
        parser.error(f"--fold {settings.data.fold}: not with --val_fraction; the fold is held back")
    if settings.data.group and not settings.data.holds_back:
        parser.error("--group: only with --val_fraction or --fold")
    if net.padding and "padding" not in net.row.flags:
        parser.error(f"--padding: of the U-Net alone; {net.mode} always keeps the size")
    in_crops = isinstance(training.tile or crop, type(crop))
    if training.crops_per_image not in ("auto", 1) and not in_crops:
        parser.error(f"--crops_per_image {training.crops_per_image}: only with --tile N")
    if not settings.run.resume:
        refuse_on_device(training.precision, settings.run.device, parser)
    refuse_label_kind(settings.data.label_kind, settings.data.n_classes, parser)
    mistake = find_wrong_chooser(training.best_by, settings.data.label_kind,
                                 settings.data.n_classes)
    if mistake:
        parser.error(mistake)
    try:
        (training.tile or crop).check(net.geometry)
    except DataError as error:
        parser.error(str(error))


def check_resumed(settings, kept, stored, parser):
    """Refuse flags that contradict the run that is resumed.

    kept: {flag: value} of that run.
    """
    if settings.training.weights != kept["weights"]:
        parser.error("--weights: a resumed run goes on with its own; leave it out")
    changed = find_contradictions(settings, kept)
    if changed and not settings.run.force:
        path = settings.folders.Checkpoint_directory / LAST
        parser.error(f"--resume: another run than that of {path}: {', '.join(changed)}; "
                     "leave them out, or add --force")
    too_short = find_too_short(settings, stored.progress)
    if too_short:
        parser.error(too_short)
