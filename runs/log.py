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

ENDLESS = 100_000  # epochs, where only the time ends a run


def epoch_of(epoch, total_epochs):
    """An epoch, counted from 0, for people: "0 (1/200)", or "0" where only the time ends the run."""
    return f"{epoch:>3}" + (f" ({epoch + 1}/{total_epochs})" if total_epochs < ENDLESS else "")

COLUMNS = ("epoch", "train_loss", "iou", "dice", "f1", "epoch_time", "throughput")


def duration(seconds):
    """Seconds for people: '43.2 s', '12 min', '3 h 05 min'."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def best_of(records):
    """The first tested record with the highest IoU, or None."""
    return max((record for record in records if "iou" in record), key=lambda record: record["iou"], default=None)


def middle_mean(records, key):
    """The mean of `key` over the middle half of the epochs: the first quarter warms up."""
    n = len(records)
    return statistics.mean(record[key] for record in records[n // 4:n - n // 4])


# ------------------------------------------------------------------------------------------------------------- the logs
def csv_row(record):
    """One epoch's line of the CSV."""
    return ",".join(f"{record[key]:.6g}" if key in record else "" for key in COLUMNS)


class RunLog:
    """A run's text log and CSV, `<name>.log` and `<name>.csv` in the log folder, and its other files' paths.

    `say` prints and logs a line.  records: of the epochs before, where a run is resumed: the CSV holds these and no
    later ones.
    """

    def __init__(self, folder, name, records=()):
        self.name = name
        self.text_path, self.csv_path = Path(folder) / f"{name}.log", Path(folder) / f"{name}.csv"
        self.curves_path, self.page_path = Path(folder) / f"{name}.png", Path(folder) / f"report_{name}.html"
        self.events_folder = Path(folder) / name
        self.records = list(records)
        with atomic_write(self.csv_path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in (",".join(COLUMNS), *map(csv_row, self.records))))

    def say(self, line=""):
        with open(self.text_path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")
        try:
            print(line, flush=True)
        except BrokenPipeError:  # no reason to stop: the log has it all
            mute_output()

    def time_left(self, total_epochs, val_epochs):
        """Seconds until the last of `total_epochs`, from how long one with a test and one without took so far."""
        next_epoch = self.records[-1]["epoch"] + 1
        each = {tested: [r["whole_time"] for r in self.records if ("iou" in r) is tested] for tested in (False, True)}
        plain, tested = (statistics.median(each[kind] or each[not kind]) for kind in each)
        tests = total_epochs - max(next_epoch, val_epochs)
        return tests * tested + (total_epochs - next_epoch - tests) * plain

    def epoch(self, record, total_epochs, val_epochs, time_left=math.inf):
        """Log one epoch's record and append its row to the CSV; the run ends in `time_left` seconds, or after its last epoch."""
        self.records.append(record)
        with open(self.csv_path, "a", encoding="utf-8") as file:
            file.write(csv_row(record) + "\n")
        tested = f"  IoU {record['iou']:.4f}  Dice {record['dice']:.4f}  F1 {record['f1']:.4f}" if "iou" in record else ""
        skipped = f"  {record['skipped']} batches skipped" if record["skipped"] else ""
        left = min(time_left, self.time_left(total_epochs, val_epochs))
        self.say(f"epoch {epoch_of(record['epoch'], total_epochs)}  loss {record['train_loss']:.4f}"
                 f"{tested}{skipped}  {record['epoch_time']:.1f} s  {record['throughput']:.4f} images/s  left: {duration(left)}")

    def closing_block(self):
        """Log the middle half's mean epoch time and throughput and the best epoch; returns the best record or None."""
        if not self.records:
            self.say("No epoch was finished.")
            return None
        self.say("-" * 72)
        for key, title, unit in (("epoch_time", "epoch time", "s"), ("throughput", "throughput", "images/s")):
            self.say(f"Mean {title} (middle half of {len(self.records)} epochs): "
                     f"{middle_mean(self.records, key):.4f} {unit}")
        best = best_of(self.records)
        if best is None:
            self.say("No epoch was tested.")
            return None
        self.say(f"Best epoch: {best['epoch']}  IoU {best['iou']:.4f}  Dice {best['dice']:.4f}  F1 {best['f1']:.4f}"
                 f"  loss {best['train_loss']:.4f}")
        return best


RUN_NAME = re.compile(r"[A-Za-z0-9]+_[0-9]{4}(-[0-9]{2}){2}_[0-9]{2}(-[0-9]{2}){2}(-[0-9]+)?")


def run_name(mode, folder):
    """A run's name: its net and the time of its start, and a number where another run of this second has it already.

    Its log is there from now on, empty: of two runs that begin at once only one gets a name.
    """
    name = f"{mode}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    for count in itertools.count(1):
        numbered = f"{name}-{count}" if count > 1 else name
        with contextlib.suppress(FileExistsError):
            (Path(folder) / f"{numbered}.log").touch(exist_ok=False)
            return numbered


def read_records(path):
    """The records of a run's CSV; a DataError where the file is not one."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if tuple(rows.fieldnames or ()) != COLUMNS:
                raise DataError(f"{path}: not a run's CSV, whose first line is {','.join(COLUMNS)}")
            records = [{key: float(text) for key, text in row.items() if text != ""} for row in rows]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; name a run's CSV, or its log without .log") from None
    except (ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{path}: not a run's CSV ({error})") from None
    for line, record in enumerate(records, start=2):
        if set(COLUMNS) - record.keys() not in (set(), {"iou", "dice", "f1"}):
            raise DataError(f"{path}: line {line} is not complete; delete this line")
    return records
