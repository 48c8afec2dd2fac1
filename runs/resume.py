"""What a run leaves in last_model for `Main.py --resume`, and what it takes from there.

A checkpoint is no more trusted than any file: its flags pass through the same parser as those of the command line, its
numbers are checked one by one, and nothing in it says where to write.
"""
import math
import shlex

from backend import ranks
from command.errors import DataError
from datasets.survey import content_digest
from nets.checkpoint import load
from runs.choices import CHOSEN
from runs.log import RUN_NAME

LAST, BEST = "last_model.safetensors", "best_model.safetensors"
EARLIER = "earlier_"  # before the names of these, where they are of the run before
OUTPUT_FOLDERS = ("Datatxt_directory", "Log_directory", "Checkpoint_directory", "Result_directory", "Weight_directory")
NOT_KEPT = (*OUTPUT_FOLDERS, "resume", "force", "geometry", "is_grayscale")  # of a run's arguments: n_channels says the last
FREE_TO_CHANGE = {*NOT_KEPT, "Data_directory", "Total_epochs", "Val_epochs", "Time_budget", "device", "save_every"}


# ---------------------------------------------------------------------------------------------------- what a run consists of
def is_count(value):
    return type(value) is int and 0 <= value < 2 ** 53


def is_number(value):
    return is_count(value) or (type(value) is float and math.isfinite(value))


def are_numbers(values):
    return type(values) is list and all(map(is_number, values))


def are_texts(values):
    return type(values) is list and all(type(value) is str for value in values)


PROGRESS = {**dict.fromkeys(("epoch", "step", "images", "n_step", "skipped", "tested", "bad_in_a_row", "good_in_a_row"),
                            is_count),
            **dict.fromkeys(("best_iou", "epoch_seconds", "seconds", "test_seconds", "all_test_seconds"), is_number),
            "losses": are_numbers, "accepted": are_numbers, "went_back": lambda value: type(value) is bool}
RECORD = {"epoch": is_count, "skipped": is_count, "epoch_time": is_number, "whole_time": is_number, "throughput": is_number}
SCORES = ("iou", "dice", "f1")  # of an epoch that was tested; a train_loss that is not finite is left out


def is_record(record):
    more = set(record) - set(RECORD) - {"train_loss"}
    return (all(check(record.get(name)) for name, check in RECORD.items()) and all(map(is_number, record.values()))
            and more in (set(), set(SCORES)))


def is_run(run):
    """Whether a checkpoint's `run` is what Recorder.save_last writes, in all that a resumed run relies on."""
    return (all(are_texts(texts) for texts in run["settings"].values()) and RUN_NAME.fullmatch(run["log"]) is not None
            and type(run["data"]) is str and type(run["records"]) is list and all(map(is_record, run["records"]))
            and set(run["progress"]) == set(PROGRESS) and all(check(run["progress"][name]) for name, check in PROGRESS.items()))


# ---------------------------------------------------------------------------------------------------------------- reading
def load_run(path):
    """(arrays, header) of a last_model; DataError where no run can be resumed from it."""
    if not path.exists():
        earlier = path.with_name(EARLIER + path.name)
        before = f" ({earlier.name} is the run before; rename it to go on with that)" if earlier.exists() else ""
        raise DataError(f"{path}: no such checkpoint, nothing to resume{before}; start without --resume")
    arrays, header = load(path)
    try:
        sound = is_run(header["run"])
    except (KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise DataError(f"{path}: holds no run to resume; start without --resume")
    return arrays, header


def settings_of(args):
    """The flags that a resumed run needs again: {name: texts}."""
    return {name: list(map(str, value if isinstance(value, list) else [value]))
            for name, value in vars(args).items() if name not in NOT_KEPT and value is not None}


def as_flags(settings):
    """Settings, {name: texts}, as the words of a command line."""
    return [word for name, texts in settings.items()
            for word in ([f"--{name}={texts[0]}"] if len(texts) == 1 else [f"--{name}", *texts])]


def flags_of(settings, parser, source):
    """(`as_flags` of settings, the same parsed); DataError, naming `source`, for what no run has left there."""
    def refuse(message):
        raise DataError(f"{source}: holds no run to resume ({message}); start without --resume")
    parser.error = refuse  # nobody has typed these flags
    foreign = set(settings) - (set(vars(parser.parse_args([]))) - set(NOT_KEPT))
    if foreign:
        refuse(f"a run does not keep --{min(foreign)}")
    for name, texts in settings.items():
        if len(texts) != 1 and any(text.startswith("-") for text in texts):
            refuse(f"--{name} holds other flags")
    flags = as_flags(settings)
    parsed = parser.parse_args(flags)
    for name in CHOSEN:
        if getattr(parsed, name) is None:
            refuse(f"a run keeps --{name}")
    return flags, parsed


def check_resumed(args, before, run, parser):
    """Refuse flags that contradict the run that is resumed."""
    changed = [f"--{name} {value} (was {getattr(before, name)})" for name, value in vars(args).items()
               if name not in FREE_TO_CHANGE and value != getattr(before, name)]
    if changed and not args.force:
        parser.error(f"--resume: another run than that of {args.Checkpoint_directory / LAST}: {', '.join(changed)}; "
                     "leave them out, or add --force")
    done, tested = (run["progress"][name] for name in ("epoch", "tested"))
    if args.Total_epochs < done or args.Total_epochs == done > tested:  # no epoch is left to be tested
        parser.error(f"--Total_epochs {args.Total_epochs}: so many epochs are done already; give a larger number")


def data_of(data, datatxt_directory):
    """What tells Main.py's Data from others: the contents of all files, and how many are trained on and choose."""
    train_set, held = data.loader.dataset, data.choosing.pairs if data.holds_back else []
    digest = content_digest([*train_set.pairs, *held, *data.test_set.pairs], datatxt_directory)
    return f"{len(train_set)} {len(held)} {digest}"


def resume_command(args, parser):
    """The command that goes on with this run: the flags that --resume does not know by itself are those of folders."""
    chosen = vars(args)
    folders = [f"--{name} {shlex.quote(str(chosen[name]))}" for name in OUTPUT_FOLDERS
               if chosen[name] != parser.get_default(name)]
    return " ".join([*ranks.launcher(), "python Main.py --resume", *folders])
