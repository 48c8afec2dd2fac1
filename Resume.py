"""What a run leaves in last_model for `Main.py --resume`, and what it takes from there.

A checkpoint is no more trusted than any file: its flags pass through the same parser as those of the command line, and
nothing in it says where to write.
"""
import hashlib
import json
import shlex
from pathlib import Path

from Checkpoint import load
from Common import DataError

LAST, BEST = "last_model.safetensors", "best_model.safetensors"
OUTPUT_FOLDERS = ("Datatxt_directory", "Log_directory", "Checkpoint_directory", "Result_directory", "Weight_directory")
NOT_KEPT = (*OUTPUT_FOLDERS, "resume", "force", "geometry")  # of a run's arguments
FREE_TO_CHANGE = {*NOT_KEPT, "Data_directory", "Total_epochs", "Time_budget", "device", "save_every"}


def load_run(path):
    """(arrays, header) of a last_model; DataError where no run can be resumed from it."""
    if not path.exists():
        raise DataError(f"{path}: no such checkpoint, nothing to resume; start without --resume")
    arrays, header = load(path)
    try:
        run, number = header["run"], (int, float)
        sound = (all(isinstance(name, str) and all(isinstance(text, str) for text in texts)
                     for name, texts in run["settings"].items())
                 and Path(run["log"]).name == run["log"]  # no path that leads elsewhere
                 and all(isinstance(value, number) for record in run["records"] for value in record.values())
                 and all(isinstance(run["progress"][name], number) for name in ("epoch", "step", "n_step", "best_iou", "seconds"))
                 and isinstance(run["data"], str))
    except (KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise DataError(f"{path}: holds no run to resume; start without --resume")
    return arrays, header


def settings_of(args):
    """The flags that a resumed run needs again: {name: texts}."""
    return {name: list(map(str, value if isinstance(value, list) else [value]))
            for name, value in vars(args).items() if name not in NOT_KEPT and value is not None}


def flags_of(settings):
    return [text for name, texts in settings.items() for text in (f"--{name}", *texts)]


def check_resumed(args, before, run, parser):
    """Refuse flags that contradict the run that is resumed."""
    changed = [f"--{name} {value} (was {getattr(before, name)})" for name, value in vars(args).items()
               if name not in FREE_TO_CHANGE and value != getattr(before, name)]
    if changed and not args.force:
        parser.error(f"--resume: another run than that of {args.Checkpoint_directory / LAST}: {', '.join(changed)}; "
                     "leave them out, or add --force")
    if args.Total_epochs <= run["progress"]["epoch"]:
        parser.error(f"--Total_epochs {args.Total_epochs}: so many epochs are done already; give a larger number")


def data_of(train_set, test_set, statistics):
    """What tells data from other data: names and sizes of all files, mean and std of the training images."""
    files = [[path.name, path.stat().st_size] for each in (train_set, test_set) for pair in each.pairs for path in pair]
    text = json.dumps([files, len(train_set), statistics.mean, statistics.std])
    return hashlib.sha256(text.encode()).hexdigest()


def resume_command(args, parser):
    """The command that goes on with this run: the flags that --resume does not know by itself are those of folders."""
    chosen = vars(args)
    folders = [f"--{name} {shlex.quote(str(chosen[name]))}" for name in OUTPUT_FOLDERS
               if chosen[name] != parser.get_default(name)]
    return " ".join(["python Main.py --resume", *folders])
