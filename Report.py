"""What a run leaves for people: the log, the CSV, the curves, the predictions, the overview picture."""
import logging
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from Common import atomic_write, read_image, use_agg

COLUMNS = ("epoch", "train_loss", "iou", "dice", "f1", "epoch_time", "throughput")
HIT, EXTRA, MISSED = (0, 200, 90), (255, 60, 40), (60, 120, 255)  # colours of the overview


def duration(seconds):
    """Seconds for people: '43.2 s', '12 min', '3 h 05 min'."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def csv_row(record):
    """One epoch's line of the CSV."""
    return ",".join(f"{record[key]:.6g}" if key in record else "" for key in COLUMNS)


class RunLog:
    """A run's text log and CSV: `<name>.log` and `<name>.csv` in the log folder; `say` prints and logs a line.

    records: of the epochs before, where a run is resumed: the CSV holds these and no later ones.
    """

    def __init__(self, folder, name, records=()):
        self.text_path, self.csv_path = Path(folder) / f"{name}.log", Path(folder) / f"{name}.csv"
        self.curves_path = Path(folder) / f"{name}.png"
        self.records = list(records)
        self.logger = logging.Logger(name)
        to_file, to_screen = logging.FileHandler(self.text_path, encoding="utf-8"), logging.StreamHandler(sys.stdout)
        to_file.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
        self.logger.addHandler(to_file)
        self.logger.addHandler(to_screen)
        with atomic_write(self.csv_path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in (",".join(COLUMNS), *map(csv_row, self.records))))

    def say(self, line=""):
        self.logger.info(line)

    def epoch(self, record, total_epochs):
        """Log one epoch's record and append its row to the CSV."""
        self.records.append(record)
        with open(self.csv_path, "a", encoding="utf-8") as file:
            file.write(csv_row(record) + "\n")
        tested = f"  IoU {record['iou']:.4f}  Dice {record['dice']:.4f}  F1 {record['f1']:.4f}" if "iou" in record else ""
        skipped = f"  {record['skipped']} batches skipped" if record["skipped"] else ""
        left = statistics.median(r["whole_time"] for r in self.records) * (total_epochs - record["epoch"] - 1)
        self.say(f"epoch {record['epoch']:>3} ({record['epoch'] + 1}/{total_epochs})  loss {record['train_loss']:.4f}"
                 f"{tested}{skipped}  {record['epoch_time']:.1f} s  {record['throughput']:.4f} images/s  left: {duration(left)}")

    def closing_block(self):
        """Log the middle half's mean epoch time and throughput and the best epoch; returns the best record or None."""
        if not self.records:
            self.say("No epoch was finished.")
            return None
        n = len(self.records)
        middle = self.records[n // 4:n - n // 4]  # the first quarter warms up
        self.say("-" * 72)
        for key, title, unit in (("epoch_time", "epoch time", "s"), ("throughput", "throughput", "images/s")):
            mean = statistics.mean(record[key] for record in middle)
            self.say(f"Mean {title} (middle half of {n} epochs): {mean:.4f} {unit}")
        tested = [record for record in self.records if "iou" in record]
        if not tested:
            self.say("No epoch was tested.")
            return None
        best = max(tested, key=lambda record: record["iou"])
        self.say(f"Best epoch: {best['epoch']}  IoU {best['iou']:.4f}  Dice {best['dice']:.4f}  F1 {best['f1']:.4f}"
                 f"  loss {best['train_loss']:.4f}")
        return best


def run_name(mode, folder):
    """A run's name: its net and the time of its start, and a number where another run of this second has it already."""
    name = f"{mode}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    taken = sum(1 for _ in Path(folder).glob(f"{name}*.log"))
    return f"{name}-{taken + 1}" if taken else name


def draw_curves(records, baseline, path):
    """Write the curve picture: training loss, and the test scores beside the all-foreground baseline."""
    pyplot = use_agg()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    epochs = [record["epoch"] for record in records]
    left.plot(epochs, [record["train_loss"] for record in records], color="#c0392b", marker=".", markersize=4)
    left.set(title="Training loss", xlabel="epoch, from 0", ylabel="weighted cross entropy (nats per pixel)")
    tested = [record for record in records if "iou" in record]
    for key, label, color in (("iou", "IoU", "#1f77b4"), ("dice", "Dice = F1", "#2ca02c")):
        right.plot([r["epoch"] for r in tested], [r[key] for r in tested], label=label, color=color, marker=".",
                   markersize=4)
        right.axhline(baseline[key], color=color, linestyle=":", linewidth=1, label=f"{label}, all foreground")
    right.set(title="Test scores (mean over images)", xlabel="epoch, from 0", ylabel="score (0 to 1)")
    right.legend(loc="lower right", fontsize=8)
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)


def write_predictions(folder, predictions):
    """Write {name: PNG bytes} as `<name>_pred.png`."""
    for name, content in predictions.items():
        with atomic_write(Path(folder) / f"{name}_pred.png") as temporary:
            temporary.write_bytes(content)


def draw_overview(dataset, folder, path, rows=4):
    """Write a picture of the first test images: image, label, prediction, and where the two differ."""
    pyplot = use_agg()
    count = min(rows, len(dataset))
    figure, axes = pyplot.subplots(count, 4, figsize=(10, 2.6 * count), squeeze=False, layout="constrained")
    for row, index in zip(axes, range(count)):
        image, label = read_image(dataset.pairs[index][0]), dataset.label(index)
        with Image.open(Path(folder) / f"{dataset.name(index)}_pred.png") as file:
            prediction = np.asarray(file)
        if dataset.n_classes == 2:
            prediction = prediction // 255
        row[0].imshow(image, cmap="gray")
        for axis, classes in zip(row[1:3], (label, prediction)):
            axis.imshow(classes, cmap="gray" if dataset.n_classes == 2 else "nipy_spectral", vmin=0,
                        vmax=dataset.n_classes - 1, interpolation="nearest")
        row[3].imshow(compare(label, prediction))
        for axis in row:
            axis.set_axis_off()
    for axis, title in zip(axes[0], ("image", "label", "prediction", "right (green), extra (red), missed (blue)")):
        axis.set_title(title, fontsize=9)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=100)
    pyplot.close(figure)


def compare(label, prediction):
    """(H, W, 3) uint8: foreground that is right, extra or missed, in colour; a wrong class counts as extra."""
    picture = np.zeros((*label.shape, 3), np.uint8)
    picture[(label > 0) & (prediction == label)] = HIT
    picture[(prediction > 0) & (prediction != label)] = EXTRA
    picture[(label > 0) & (prediction == 0)] = MISSED
    return picture
