"""A run's log and CSV."""
import contextlib
import csv
import itertools
import math
import re
import statistics
import time
from pathlib import Path

from command.errors import DataError, mute_output
from command.files import atomic_write
from masks.pixel_scores import CHOOSING, SCORES, format_scores

ENDLESS = 100_000  # epochs, where only the time ends a run
SCORE_KEYS = tuple(score.key for score in SCORES)  # that the record of a tested epoch has
CSV_COLUMNS = ("epoch", "train_loss", *SCORE_KEYS, "epoch_time", "throughput")


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


def best_of(records):
    """The first tested record with the highest IoU, or None."""
    return max(filter(is_tested, records), key=lambda record: record[CHOOSING], default=None)


def middle_mean(records, key):
    """The mean of `key` over the middle half of the epochs: the first quarter warms up."""
    n = len(records)
    return statistics.mean(record[key] for record in records[n // 4:n - n // 4])


# ----------------------------------------------------------------------------------------- the logs
def csv_row(record):
    """One epoch's line of the CSV."""
    return ",".join(f"{record[key]:.6g}" if key in record else "" for key in CSV_COLUMNS)


class RunLog:
    """A run's text log and CSV, `<name>.log` and `<name>.csv` in the log folder.

    It also knows where the run's curves, page and events belong.  `say` prints and logs a line.
    records: of the epochs before, where a run is resumed.  The CSV holds these and no later ones.
    """

    def __init__(self, folder, name, records=()):
        folder = Path(folder)
        self.name = name
        self.text_path, self.csv_path = folder / f"{name}.log", folder / f"{name}.csv"
        self.curves_path, self.page_path = folder / f"{name}.png", folder / f"report_{name}.html"
        self.events_folder = folder / name
        self.records = list(records)
        lines = (",".join(CSV_COLUMNS), *map(csv_row, self.records))
        with atomic_write(self.csv_path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines))

    def say(self, line=""):
        """Print a line, and add it with the time to the log."""
        with open(self.text_path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")
        try:
            print(line, flush=True)
        except BrokenPipeError:  # no reason to stop: the log has it all
            mute_output()

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
            file.write(csv_row(record) + "\n")
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

        Returns the best epoch's record, or None.
        """
        if not self.records:
            self.say("No epoch was finished.")
            return None
        self.say("-" * 72)
        seconds, images = (middle_mean(self.records, key) for key in ("epoch_time", "throughput"))
        middle = f"(middle half of {len(self.records)} epochs)"
        self.say(f"Mean epoch time {middle}: {seconds:.4f} s")
        self.say(f"Mean throughput {middle}: {images:.4f} images/s")
        best = best_of(self.records)
        if best is None:
            self.say("No epoch was tested.")
            return None
        self.say(f"Best epoch: {best['epoch']}  {format_scores(best)}  "
                 f"loss {best['train_loss']:.4f}")
        return best


# ---------------------------------------------------------------------------------------- its files
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
    """The records of a run's CSV.  Raises DataError where the file is not one."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if tuple(rows.fieldnames or ()) != CSV_COLUMNS:
                raise DataError(f"{path}: not a run's CSV, whose first line is "
                                f"{','.join(CSV_COLUMNS)}")
            records = [{key: float(text) for key, text in row.items() if text != ""}
                       for row in rows]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; "
                        "name a run's CSV, or its log without .log") from None
    except (ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{path}: not a run's CSV ({error})") from None
    for line, record in enumerate(records, start=2):
        if set(CSV_COLUMNS) - record.keys() not in (set(), set(SCORE_KEYS)):
            raise DataError(f"{path}: line {line} is not complete; delete this line")
    return records
