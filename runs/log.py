"""A run's log and CSV."""
import contextlib
import csv
import itertools
import math
import re
import statistics
import time
from pathlib import Path

from command.errors import DataError, say_line
from command.files import atomic_write
from masks.pixel_scores import CHOOSING, SCORES
from masks.score_rows import ROWS, format_scores, name_chooser, rows_of

ENDLESS = 100_000  # epochs, where only the time ends a run
ALWAYS = frozenset({"iou", "dice", "f1"})  # the scores that the tested epochs of every run have


def csv_columns(rows):
    """The CSV's columns, a tuple, for a run with these rows of scores."""
    return ("epoch", "train_loss") + tuple(row.key for row in rows) + ("epoch_time", "throughput")


CSV_COLUMNS = csv_columns(SCORES)  # where labels are classes


# -------------------------------------------------------------------------------- words and records
def epoch_of(epoch, total_epochs):
    """An epoch, counted from 0, for people: "0 (1/200)", or "0" where time alone ends the run."""
    return f"{epoch:>3}" + (f" ({epoch + 1}/{total_epochs})" if total_epochs < ENDLESS else "")


def duration(seconds):
    """Seconds for people: '43.2 s', '12 min', '3 h 05 min'."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def is_tested(record):
    """Whether a record's epoch ended with a test: then it has all scores, else none."""
    return CHOOSING in record


def best_of(records, key=CHOOSING):
    """The first record with the highest score of this key, or None where none has it."""
    return max((record for record in records if key in record), key=lambda record: record[key],
               default=None)


def find_lacking(records):
    """The place of the first tested record without a score that it must have, or None.

    It must have the scores of ALWAYS, and those of each tested record before it.  It may have more:
    a run that began when there were fewer scores gets them once it is resumed.
    """
    wanted = ALWAYS
    for place, record in enumerate(records):
        found = {row.key for row in ROWS if row.key in record}
        if found and not found >= wanted:
            return place
        wanted = found or wanted
    return None


def middle_mean(records, key):
    """The mean of `key` over the middle half of the epochs: the first quarter warms up."""
    n = len(records)
    return statistics.mean(record[key] for record in records[n // 4:n - n // 4])


# ----------------------------------------------------------------------------------------- the logs
def csv_row(record, columns):
    """One epoch's line of the CSV."""
    return ",".join(f"{record[key]:.6g}" if key in record else "" for key in columns)


class RunLog:
    """A run's text log and CSV, `<name>.log` and `<name>.csv` in the log folder.

    It also knows where the run's curves, page and events belong.  `say` prints and logs a line.
    records: of the epochs before, where a run is resumed.  The CSV holds these and no later ones.
    rows: of the run's scores.  best_by: the key of the score that chooses the best epoch.
    """

    def __init__(self, folder, name, records=(), rows=SCORES, best_by=CHOOSING):
        folder = Path(folder)
        self.name, self.best_by, self.columns = name, best_by, csv_columns(rows)
        self.text_path, self.csv_path = folder / f"{name}.log", folder / f"{name}.csv"
        self.curves_path, self.page_path = folder / f"{name}.png", page_of(folder, name)
        self.events_folder = folder / name
        self.records = list(records)
        lines = (",".join(self.columns),
                 *(csv_row(record, self.columns) for record in self.records))
        with atomic_write(self.csv_path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines))

    def say(self, line=""):
        """Print a line, and add it with the time to the log."""
        with open(self.text_path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")
        say_line(line)

    def time_left(self, total_epochs, val_epochs):
        """Seconds until the last epoch ends, by the times of tested and untested ones so far."""
        next_epoch = self.records[-1]["epoch"] + 1
        plain_times, tested_times = ([record["whole_time"] for record in self.records
                                      if is_tested(record) is tested] for tested in (False, True))
        plain = statistics.median(plain_times or tested_times)
        tested = statistics.median(tested_times or plain_times)
        tests = total_epochs - max(next_epoch, val_epochs)
        return tests * tested + (total_epochs - next_epoch - tests) * plain

    def epoch(self, record, total_epochs, val_epochs, time_left=math.inf):
        """Log one epoch's record and append its row to the CSV.

        time_left: seconds after which the run ends, where that is before its last epoch.
        """
        self.records.append(record)
        with open(self.csv_path, "a", encoding="utf-8") as file:
            file.write(csv_row(record, self.columns) + "\n")
        parts = [f"epoch {epoch_of(record['epoch'], total_epochs)}",
                 f"loss {record['train_loss']:.4f}"]
        if is_tested(record):
            parts.append(format_scores(record))
        if record["skipped"]:
            parts.append(f"{record['skipped']} batches skipped")
        left = min(time_left, self.time_left(total_epochs, val_epochs))
        parts += [f"{record['epoch_time']:.1f} s", f"{record['throughput']:.4f} images/s",
                  f"left: {duration(left)}"]
        self.say("  ".join(parts))

    def closing_block(self):
        """Log the mean epoch time and throughput of the middle half, and the best epoch.

        Returns the best epoch's record, or None.  Where another score than IoU has chosen it, the
        line names that score.
        """
        if not self.records:
            self.say("No epoch was finished.")
            return None
        self.say("-" * 72)
        seconds, images = (middle_mean(self.records, key) for key in ("epoch_time", "throughput"))
        middle = f"(middle half of {len(self.records)} epochs)"
        self.say(f"Mean epoch time {middle}: {seconds:.4f} s")
        self.say(f"Mean throughput {middle}: {images:.4f} images/s")
        best = best_of(self.records, self.best_by)
        if best is None:
            self.say("No epoch was tested.")
            return None
        self.say(f"Best epoch{name_chooser(self.best_by)}: {best['epoch']}  {format_scores(best)}  "
                 f"loss {best['train_loss']:.4f}")
        return best


def describe_crops(loader):
    """What to say of a TrainingLoader's crops, where some images give several an epoch: or ""."""
    crops = len(loader.draws)
    if crops == len(loader.dataset):
        return ""
    return f" ({crops:,} crops an epoch; images/s counts crops)"


# ---------------------------------------------------------------------------------------- its files
def page_of(folder, name):
    """The path of the page of the run `name` in a log folder, a Path."""
    return folder / f"report_{name}.html"


RUN_NAME = re.compile(r"[A-Za-z0-9]+_[0-9]{4}(-[0-9]{2}){2}_[0-9]{2}(-[0-9]{2}){2}(-[0-9]+)?")


def run_name(mode, folder):
    """A run's name: its net and the time of its start.  A number follows where that name is taken.

    The run's log is there from now on, empty: of two runs that begin at once only one gets a name.
    """
    name = f"{mode}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    for count in itertools.count(1):
        numbered = f"{name}-{count}" if count > 1 else name
        with contextlib.suppress(FileExistsError):
            (Path(folder) / f"{numbered}.log").touch(exist_ok=False)
            return numbered


def read_records(path):
    """The records of a run's CSV.  Raises DataError where the file is not one.

    It has the columns of the run's scores: those of `masks.score_rows.ROWS`, or fewer.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            columns = csv_columns(rows_of(rows.fieldnames or ()))
            if tuple(rows.fieldnames or ()) != columns or not ALWAYS <= set(columns):
                raise DataError(f"{path}: not a run's CSV, whose first line is "
                                f"{','.join(CSV_COLUMNS)}")
            records = [{key: float(text) for key, text in row.items() if text != ""}
                       for row in rows]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; "
                        "name a run's CSV, or its log without .log") from None
    except (ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{path}: not a run's CSV ({error})") from None
    others, lacking = set(columns) - {row.key for row in ROWS}, find_lacking(records)
    for place, record in enumerate(records):
        if others - record.keys() or place == lacking:
            raise DataError(f"{path}: line {place + 2} is not complete; delete this line")
    return records
