"""Scores as tables, a CSV and a picture: what Metrics.py prints and writes."""
import csv
import math

import numpy as np

from command.files import atomic_write
from images.figures import figure
from masks.pixel_scores import DISTINCT, RECALLS


def print_table(columns, rows):
    """Print the rows [(name, {key: score})] with columns {key: title}; a dash for none or NaN."""
    lines = [["", *columns.values()]]
    for name, row in rows:
        values = (row.get(key, math.nan) for key in columns)
        lines.append([name, *("-" if math.isnan(value) else f"{value:.4f}" for value in values)])
    first, *widths = (max(map(len, column)) for column in zip(*lines))
    for name, *cells in lines:
        print(name.ljust(first), *map(str.rjust, cells, widths), sep="  ")


def write_csv(path, rows):
    """Write rows [(name, {key: score})] as CSV; the first has all keys; none and NaN stay empty."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8",
                                               errors="surrogateescape") as file:
        writer = csv.DictWriter(file, ["image", *rows[0][1]], restval="")
        writer.writeheader()
        for name, row in rows:
            defined = {key: score for key, score in row.items() if not math.isnan(score)}
            writer.writerow({"image": name, **defined})


def print_classes(together, mean, n_classes):
    """Print the table of classes.

    together: `Metrics.class_columns` of the pixels of all images.  mean: the mean of each image's.
    """
    columns = {score.key: score.title for score in DISTINCT}
    columns.update({f"mean {score.key}": f"{score.title}, mean" for score in DISTINCT})
    rows = []
    for value in range(n_classes):
        row = {score.key: together[f"{score.key}_{value}"] for score in DISTINCT}
        row.update({f"mean {score.key}": mean[f"{score.key}_{value}"] for score in DISTINCT})
        rows.append((f"class {value}", row))
    rows.append(("all classes", {"iou": together["mean_iou"], "mean iou": mean["mean_iou"]}))
    print("\nPer class, of the pixels of all images together; "
          "beside it the mean of the images' own scores.")
    print_table(columns, rows)


def draw_precision_recall(curves, ap, constant_ap, path):
    """Write the picture of several images' `precision_at_recalls`, with their mean.

    ap: mean average precision of the predictions.  constant_ap: that of a constant probability,
    which is drawn as a line.
    """
    with figure(path, 1, 1, (5.5, 5), dpi=110) as axes:
        axis, colour = axes[0, 0], "#1f77b4"
        axis.plot(RECALLS, np.transpose(curves), color=colour, alpha=min(1, 3 / len(curves)),
                  linewidth=0.8)
        axis.plot(RECALLS, np.mean(curves, axis=0), color=colour, linewidth=2,
                  label=f"mean, AP {ap:.4f}")
        axis.axhline(constant_ap, color="black", linestyle=":",
                     label=f"a constant, AP {constant_ap:.4f}")
        axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall (0 to 1)", ylabel="precision (0 to 1)")
        axis.grid(alpha=0.3)
        axis.legend(loc="lower left")
