"""What a run leaves in last_model for `Main.py --resume`, and what it takes from there.

A checkpoint is no more trusted than any file: its flags pass through the same parser as those of
the command line, its numbers are checked one by one, and nothing in it says where to write.
"""
import dataclasses
import shlex
from typing import NamedTuple, Optional

from backend import ranks
from command.errors import DataError
from command.flags import boolean
from masks.score_rows import ROWS
from nets.checkpoint import AVERAGE, OPTIMIZER, load
from runs.choices import CHOSEN
from runs.log import ALWAYS, RUN_NAME, best_of, find_lacking
from runs.progress import Progress, is_count, is_number, renamed, suits
from runs.settings import RunSettings

LAST, BEST = "last_model.safetensors", "best_model.safetensors"
EARLIER = "earlier_"  # before the names of these, where they are of the run before
OUTPUT_FOLDERS = tuple(each.name for each in dataclasses.fields(RunSettings)
                       if each.name.endswith("_directory"))
# n_channels says is_grayscale; the number of workers is the machine's
NOT_KEPT = (*OUTPUT_FOLDERS, "resume", "force", "is_grayscale", "workers", "seeds")
FREE_TO_CHANGE = {*NOT_KEPT, "Data_directory", "Total_epochs", "Val_epochs", "Time_budget",
                  "device", "cache_size", "save_every"}
# what runs had before these flags were there: {flag: texts}
BEFORE = {"best_by": ["iou"], "label_kind": ["classes"], "crops_per_image": ["1"],
          "precision": ["float32"], "ema": ["0"], "conv_bias": ["True"], "align_corners": ["False"]}
NO_FLAGS = {"conv_bias": boolean}  # what the file of --weights says: {setting: its type}
RECORD = {"epoch": is_count, "skipped": is_count, "epoch_time": is_number,
          "whole_time": is_number, "throughput": is_number}


class StoredRun(NamedTuple):
    """A run to go on with."""
    arrays: dict        # {name: array} of Process.Trainer.state
    progress: Progress
    settings: dict      # {flag: texts}
    data: str           # what tells its data from others
    records: list       # of its epochs
    log: str            # its name
    weights_from: Optional[dict]  # as runs.request.Request has it
    baselines: dict     # {name: scores} of constant answers on the test images; {}: not stored


# ----------------------------------------------------------------------------------------- reading
def is_record(record):
    """Whether an epoch's record is whole, its scores aside.

    A train_loss that is not finite is left out of it.
    """
    known = {*RECORD, "train_loss", *(row.key for row in ROWS)}
    return (all(check(record.get(name)) for name, check in RECORD.items())
            and all(map(is_number, record.values())) and set(record) <= known)


def are_scores(scores):
    """Whether a checkpoint's scores are whole: those that every tested epoch has, and numbers."""
    return (type(scores) is dict and ALWAYS <= scores.keys() <= {row.key for row in ROWS}
            and all(map(is_number, scores.values())))


def are_texts(values):
    return type(values) is list and all(type(value) is str for value in values)


def is_origin(value):
    return set(value) == {"name", "sha256"} and are_texts(list(value.values()))


def read_stored(arrays, header):
    """The StoredRun in a checkpoint's header; what is not as it should be raises some error."""
    run, weights_from = header["run"], header.get("weights_from")
    progress = renamed(run["progress"])
    baselines = run.get("test_baselines", {})
    sound = (all(are_texts(texts) for texts in run["settings"].values())
             and all(map(are_scores, baselines.values()))
             and RUN_NAME.fullmatch(run["log"]) and type(run["data"]) is str
             and type(run["records"]) is list and all(map(is_record, run["records"]))
             and find_lacking(run["records"]) is None and suits(Progress, progress)
             and (weights_from is None or is_origin(weights_from)))
    if not sound:
        raise ValueError
    settings = {**BEFORE, **run["settings"]}
    if settings.get("protocol") == ["default"]:  # before the paper's settings were the default
        settings["protocol"] = ["fast"]
    return StoredRun(arrays, Progress(**progress), settings, run["data"],
                     run["records"], run["log"], weights_from, baselines)


def load_run(path):
    """The StoredRun of a last_model; DataError where no run can be resumed from it."""
    if not path.exists():
        earlier = path.with_name(EARLIER + path.name)
        before = ""
        if earlier.exists():
            before = f" ({earlier.name} is the run before; rename it to go on with that)"
        elif any(path.parent.glob(f"fold_*/{path.name}")):
            before = f" ({path.parent}/fold_... are of folds; add --fold to go on with them)"
        raise DataError(f"{path}: no such checkpoint, nothing to resume{before}; "
                        "start without --resume")
    arrays, header = load(path)
    try:
        return read_stored(arrays, header)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise DataError(f"{path}: holds no run to resume; start without --resume") from None


def as_texts(flags):
    """The flags that a resumed run needs again, {flag: value}, as {flag: texts}."""
    return {name: list(map(str, value if isinstance(value, list) else [value]))
            for name, value in flags.items() if name not in NOT_KEPT and value is not None}


def as_words(settings):
    """Settings, {flag: texts}, as the words of a command line."""
    words = []
    for name, texts in settings.items():
        words += [f"--{name}={texts[0]}"] if len(texts) == 1 else [f"--{name}", *texts]
    return words


def parse_stored(settings, parser, source):
    """{flag: value} of stored settings; DataError, naming `source`, for what no run left there."""
    def refuse(message):
        raise DataError(f"{source}: holds no run to resume ({message}); start without --resume")
    parser.error = refuse  # nobody has typed these flags
    for name, kind in NO_FLAGS.items():
        parser.add_argument(f"--{name}", type=kind)
    known = set(vars(parser.parse_args([]))) - set(NOT_KEPT)
    foreign = set(settings) - known
    if foreign:
        refuse(f"a run does not keep --{min(foreign)}")
    for name, texts in settings.items():
        if len(texts) != 1 and any(text.startswith("-") for text in texts):
            refuse(f"--{name} holds other flags")
    parsed = vars(parser.parse_args(as_words(settings)))
    for name in CHOSEN:
        if name not in settings:
            refuse(f"a run keeps --{name}")
    return {name: parsed[name] for name in settings}


def judge_by(stored, best_by):
    """Let another score choose the best model of a StoredRun, as --force may demand."""
    best = best_of(stored.records, best_by)
    stored.progress.best_score = best[best_by] if best else Progress.best_score


def average_anew(stored):
    """Begin averages of a StoredRun's weights where it has none, else drop them.

    As --force may demand.
    """
    arrays = stored.arrays
    averages = [name for name in arrays if name.startswith(AVERAGE)]
    for name in averages:
        del arrays[name]
    if not averages:
        arrays.update({AVERAGE + name: array for name, array in arrays.items()
                       if not name.startswith(OPTIMIZER)})


# ---------------------------------------------------------------------------------------- checking
def find_contradictions(settings, stored):
    """The flags of Settings that contradict a stored run's {flag: value}: a list of words."""
    return [f"--{name} {value} (was {stored.get(name)})"
            for name, value in settings.flags().items()
            if name not in FREE_TO_CHANGE and value != stored.get(name)]


def find_too_short(settings, progress):
    """What is wrong with --Total_epochs of a resumed run: "" where nothing is."""
    total = settings.training.Total_epochs
    if total < progress.epoch or total == progress.epoch > progress.tested:
        return f"--Total_epochs {total}: so many epochs are done already; give a larger number"
    return ""  # an epoch is left to be tested


def resume_command(settings, defaults):
    """The command that goes on with a run: --resume does not know its folders by itself.

    settings: runs.settings.Settings; defaults: {flag: value} of the folders that need no flag.
    """
    folders = [f"--{name} {shlex.quote(str(getattr(settings.run, name)))}"
               for name in OUTPUT_FOLDERS if getattr(settings.run, name) != defaults[name]]
    fold = [f"--fold {settings.data.fold}"] if settings.data.fold else []
    return " ".join([*ranks.launcher(), "python Main.py --resume", *fold, *folders])
