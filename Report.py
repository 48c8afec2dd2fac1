"""What a run leaves for people: log, CSV, curves, TensorBoard's events, pictures (and a page: HtmlReport.py).

    python Report.py --compare logs/Unet_2025-01-31_12-00-00 logs/U2netS_2025-01-31_14-30-00     draws runs side by side
"""
import contextlib
import csv
import io
import itertools
import math
import re
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from Common import (IGNORED, DataError, Parser, atomic_write, epoch_of, make_folder, mute_output, picture, png_bytes,
                    read_image, run, use_agg)

COLUMNS = ("epoch", "train_loss", "iou", "dice", "f1", "epoch_time", "throughput")
HIT, EXTRA, MISSED, PASSED_OVER = (0, 200, 90), (255, 60, 40), (60, 120, 255), (110, 110, 110)  # colours of `compare`
SCORE_COLOURS = {"iou": "#1f77b4", "dice": "#2ca02c"}


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


class EventLog:
    """A run's loss, scores, speed and some predictions for `tensorboard --logdir logs`, on disk after each call.

    The events are written right here: tensorboardX's SummaryWriter hands them to a thread, which a full disk ends, and
    then waits for it for ever.
    """
    TAGS = {"train_loss": "train/loss", "throughput": "train/images_per_s",
            "iou": "scores/IoU", "dice": "scores/Dice", "f1": "scores/F1"}

    def __init__(self, folder):
        self.event, self.summary, writer = _tensorboard_classes()
        self.writer = writer(str(make_folder(folder) / "events"))

    def epoch(self, record):
        """Write what a record holds of TAGS."""
        self._write(record["epoch"], [self.summary.Value(tag=tag, simple_value=record[key])
                                      for key, tag in self.TAGS.items() if key in record])

    def predictions(self, epoch, dataset, predictions, count=3, longest=128):
        """Write the `panels` of the first `count` test images side by side, each at most `longest` px."""
        values = []
        for index in range(min(count, len(dataset))):
            name = dataset.name(index)
            strip = np.hstack(list(panels(dataset, index, predictions[name], longest).values()))
            picture = self.summary.Image(height=strip.shape[0], width=strip.shape[1], colorspace=3,
                                         encoded_image_string=png_bytes(strip))
            tag = f"image, label, probability, errors/{name}".encode("utf-8", "replace").decode()
            values.append(self.summary.Value(tag=tag, image=picture))
        self._write(epoch, values)

    def _write(self, step, values):
        self.writer.write_event(self.event(wall_time=time.time(), step=step, summary=self.summary(value=values)))
        self.writer.flush()


def _tensorboard_classes():
    """tensorboardX's (Event, Summary, EventsWriter), without the PyTorch that it would import: 3 s and 190 MB."""
    hidden = sys.modules.setdefault("torch", None) is None
    try:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary
        return Event, Summary, EventsWriter
    finally:
        if hidden:
            del sys.modules["torch"]


# ----------------------------------------------------------------------------------------------------------- the curves
@contextlib.contextmanager
def figure(path, rows, columns, size, dpi=100):
    """`with figure(...) as axes:` draw on the (rows, columns) array of axes; then it is written to `path`.

    path: a PNG file, or a BytesIO that receives an SVG without background; size: width and height in inches.
    """
    pyplot = use_agg()
    made, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    try:
        yield axes
        if isinstance(path, io.BytesIO):
            made.savefig(path, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        else:
            with atomic_write(path) as temporary:
                made.savefig(temporary, dpi=dpi)
    finally:
        pyplot.close(made)


def plot_loss(axis, records):
    """The training loss over the epochs."""
    axis.plot([record["epoch"] for record in records], [record["train_loss"] for record in records], color="#c0392b",
              marker=".", markersize=4)
    axis.set(title="Training loss", xlabel="epoch, from 0", ylabel="loss (nats per pixel; ce_dice: and its Dice term)")
    axis.grid(alpha=0.3)
    axis.xaxis.get_major_locator().set_params(integer=True)


def plot_scores(axis, records, baseline):
    """The test scores over the epochs, beside those of a constant answer: baseline, (its name, its scores)."""
    name, constant = baseline
    tested = [record for record in records if "iou" in record]
    for key, label in (("iou", "IoU"), ("dice", "Dice = F1")):
        axis.plot([r["epoch"] for r in tested], [r[key] for r in tested], label=label, color=SCORE_COLOURS[key],
                  marker=".", markersize=4)
        axis.axhline(constant[key], color=SCORE_COLOURS[key], linestyle=":", linewidth=1, label=f"{label}, {name}")
    axis.set(title="Scores (mean over images)", xlabel="epoch, from 0", ylabel="score (0 to 1)")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    axis.xaxis.get_major_locator().set_params(integer=True)


def draw_curves(records, baseline, path):
    """Write the curve picture: training loss, and the test scores beside those of a constant answer; see `plot_scores`."""
    with figure(path, 1, 2, (11, 4), dpi=110) as axes:
        plot_loss(axes[0, 0], records)
        plot_scores(axes[0, 1], records, baseline)


# ---------------------------------------------------------------------------------------------------------- predictions
def write_predictions(folder, predictions):
    """Write {name: PNG bytes} as `<name>_pred.png`."""
    for name, content in predictions.items():
        with atomic_write(Path(folder) / f"{name}_pred.png") as temporary:
            temporary.write_bytes(content)


def class_map(mask, n_classes):
    """The predicted classes, (H, W) integers, of a prediction's PNG: its path, or a file that holds it."""
    with Image.open(mask) as file:
        pixels = np.asarray(file)
    return pixels // 255 if n_classes == 2 else pixels


def draw_overview(dataset, folder, path, rows=4):
    """Write a picture of the first test images: image, label, prediction, and where the two differ."""
    count = min(rows, len(dataset))
    with figure(path, count, 4, (10, 2.6 * count)) as axes:
        for row, index in zip(axes, range(count)):
            image, label = read_image(dataset.pairs[index][0]), dataset.label(index)
            prediction = class_map(Path(folder) / f"{dataset.name(index)}_pred.png", dataset.n_classes)
            row[0].imshow(image, cmap="gray")
            for axis, classes in zip(row[1:3], (label, prediction)):
                axis.imshow(classes, cmap="gray" if dataset.n_classes == 2 else "nipy_spectral", vmin=0,
                            vmax=dataset.n_classes - 1, interpolation="nearest")
            row[3].imshow(compare(label, prediction))
            for axis in row:
                axis.set_axis_off()
        for axis, title in zip(axes[0], ("image", "label", "prediction", "right (green), extra (red), missed (blue)")):
            axis.set_title(title, fontsize=9)


def compare(label, prediction):
    """(H, W, 3) uint8: foreground that is right, extra or missed, in colour; a wrong class counts as extra.

    Pixels that are IGNORED in the label are grey, whatever is predicted there.
    """
    picture = np.zeros((*label.shape, 3), np.uint8)
    picture[(label > 0) & (prediction == label)] = HIT
    picture[(prediction > 0) & (prediction != label)] = EXTRA
    picture[(label > 0) & (prediction == 0)] = MISSED
    picture[label == IGNORED] = PASSED_OVER
    return picture


def coloured(values, colours, lowest, highest):
    """(H, W) numbers as (H, W, 3) uint8 in Matplotlib's colour map of that name, from `lowest` to `highest`."""
    from matplotlib import colormaps
    scaled = (values - lowest) / max(highest - lowest, 1e-12)
    return colormaps[colours](scaled, bytes=True)[..., :3]


def shrunk(pixels, longest, smooth=True):
    """(H, W) or (H, W, 3) uint8 as (h, w, 3), no side over `longest` px; not `smooth`: no colour that was not there."""
    small = Image.fromarray(pixels).convert("RGB")
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST)
    return np.asarray(small)


def shown_image(path, longest):
    """An image file as (h, w, 3) uint8, no side over `longest` px; 16-bit values are stretched from black to white."""
    pixels = read_image(path)
    if pixels.dtype != np.uint8:
        low, high = int(pixels.min()), int(pixels.max())
        pixels = np.rint((pixels.astype(np.float32) - low) * (255 / max(high - low, 1))).astype(np.uint8)
    return shrunk(pixels, longest)


def shown_label(label, n_classes, longest):
    """A label as (h, w, 3) uint8, no side over `longest` px: black and white, or a colour for each class; IGNORED grey."""
    picture = coloured(label, "gray" if n_classes == 2 else "nipy_spectral", 0, n_classes - 1)
    picture[label == IGNORED] = PASSED_OVER
    return shrunk(picture, longest, smooth=False)


def panels(dataset, index, prediction, longest):
    """A tested image: {"image", "label", "probability", "errors": (h, w, 3) uint8}, no side over `longest` px.

    prediction: Process.Prediction of dataset's image `index`.
    """
    label = dataset.label(index)
    classes = class_map(io.BytesIO(prediction.mask), dataset.n_classes)
    with Image.open(io.BytesIO(prediction.probability)) as file:
        probability = np.asarray(file)
    return {"image": shown_image(dataset.pairs[index][0], longest),
            "label": shown_label(label, dataset.n_classes, longest),
            "probability": shrunk(probability, longest),
            "errors": shrunk(compare(label, classes), longest, smooth=False)}


# -------------------------------------------------------------------------------------------------------- runs compared
def draw_scores(axes, runs, styles, rows, baseline=None):
    """On three of the 2 x 2 `axes`: IoU and Dice = F1 over the epochs, and a table; the first is left to the caller.

    runs: {name: records}; styles: {name: options of `plot`}; rows: the table's strings, its head first.
    """
    for axis, key, title in ((axes[0, 1], "iou", "IoU"), (axes[1, 0], "dice", "Dice = F1")):
        for name, records in runs.items():
            tested = [record for record in records if key in record]
            axis.plot([record["epoch"] for record in tested], [record[key] for record in tested], marker=".",
                      label=name, **styles[name])
        if baseline:
            axis.axhline(baseline[key], color="gray", linestyle="--", linewidth=1, label="all foreground")
        axis.set(title=f"{title} (mean over the tested images)", xlabel="epoch, from 0", ylabel="score (0 to 1)")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=8)
    axes[1, 1].set_axis_off()
    axes[1, 1].set_title("best epoch")
    if rows[1:]:
        widths = [0.36] + [0.64 / (len(rows[0]) - 1)] * (len(rows[0]) - 1)
        table = axes[1, 1].table(rows[1:], colLabels=rows[0], loc="center", cellLoc="center", colWidths=widths)
        table.scale(1, 2)


def best_row(name, records):
    """A run's row of the table: its name, and of its best epoch the number, loss, IoU, Dice and F1."""
    best, name = best_of(records), name.replace("_", "\n", 1)  # Unet, and its time below
    if best is None:
        return [name, *["-"] * 5]
    return [name, f"{best['epoch']:.0f}", *(f"{best[key]:.4f}" for key in COLUMNS[1:5])]


def draw_comparison(runs, path):
    """Write four panels about {name: records}: training loss, IoU, Dice = F1, and a table of the best epochs."""
    styles = {name: {"color": f"C{k}", "markersize": 4, "linewidth": 1.2} for k, name in enumerate(runs)}
    with figure(path, 2, 2, (11, 7.5)) as axes:
        for name, records in runs.items():
            axes[0, 0].plot([record["epoch"] for record in records], [record["train_loss"] for record in records],
                            marker=".", label=name, **styles[name])
        axes[0, 0].set(title="Training loss", xlabel="epoch, from 0", ylabel="loss (nats per pixel; ce_dice: and its Dice term)")
        axes[0, 0].xaxis.get_major_locator().set_params(integer=True)
        axes[0, 0].legend(fontsize=8)
        draw_scores(axes, runs, styles, [["", "epoch", "loss", "IoU", "Dice", "F1"], *itertools.starmap(best_row, runs.items())])


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


def main():
    parser = Parser("Draw runs side by side: training loss, IoU, Dice, and their best epochs.")
    parser.add_argument("--compare", type=Path, nargs="+", required=True, metavar="RUN",
                        help="each a CSV file of Main.py, or its path without .csv")
    parser.add_argument("--picture", type=picture, default=Path("logs/comparison.png"), help="picture to write")
    options = parser.parse_args()
    paths = [path if path.suffix == ".csv" else Path(f"{path}.csv") for path in options.compare]
    same = len({path.stem for path in paths}) < len(paths)
    names = [str(path if same else path.stem).replace("$", r"\$") for path in paths]  # to Matplotlib $ is mathematics
    runs = dict(zip(names, map(read_records, paths)))
    make_folder(options.picture.parent)
    draw_comparison(runs, options.picture)
    print(f"Wrote {options.picture}")


if __name__ == "__main__":
    sys.exit(run(main))
