"""A run's curves, and those of several runs side by side."""
import itertools
import math

import numpy as np

from images.figures import figure
from masks.pixel_scores import SCORES
from masks.score_rows import distinct_rows, rows_of
from runs.log import best_of

LOSS_COLOUR = "#c0392b"


# -------------------------------------------------------------------------------------------- a run
def plot_loss(axis, records, loss_title):
    """Draw the training loss over the epochs; loss_title: which loss it is, and its unit."""
    plot_line(axis, records, "train_loss", color=LOSS_COLOUR, markersize=4)
    label_axis(axis, "Training loss", loss_title)
    axis.grid(alpha=0.3)


def plot_scores(axis, records, baseline):
    """Draw the test scores over the epochs, and beside them those of a constant answer.

    baseline: (its name, its scores).
    """
    name, constant = baseline
    rows = distinct_rows(rows_of(*records, constant))
    for score in rows:
        plot_line(axis, records, score.key, label=score.curve, color=score.colour, markersize=4)
        if score.key in constant:
            axis.axhline(constant[score.key], color=score.colour, linestyle=":", linewidth=1,
                         label=f"{score.curve}, {name}")
    label_axis(axis, "Scores (mean over images)", "score (0 to 1)")
    axis.legend(fontsize=8, ncols=math.ceil(len(rows) / 3))
    axis.grid(alpha=0.3)


def plot_line(axis, records, key, **style):
    """Draw a value over the epochs, of the records that have it; style: options of `Axes.plot`."""
    shown = [record for record in records if key in record]
    epochs, values = ([record[name] for record in shown] for name in ("epoch", key))
    axis.plot(epochs, values, marker=".", **style)


def label_axis(axis, title, unit):
    """Name a panel and what its y axis shows; epochs, from 0, are on its x axis."""
    axis.set(title=title, xlabel="epoch, from 0", ylabel=unit)
    axis.xaxis.get_major_locator().set_params(integer=True)


def draw_curves(records, baseline, path, loss_title):
    """Write the picture of a run's curves; parameters: those of `plot_loss` and `plot_scores`."""
    with figure(path, 1, 2, (11, 4), dpi=110) as axes:
        plot_loss(axes[0, 0], records, loss_title)
        plot_scores(axes[0, 1], records, baseline)


# ------------------------------------------------------------------------------------ runs compared
def rows_of_runs(runs):
    """The rows of the scores that any of several runs, {name: records}, has."""
    return rows_of(*itertools.chain.from_iterable(runs.values()))


def comparison_figure(path, runs):
    """A panel for the loss, and those of `draw_scores`: `with comparison_figure(...) as axes:`.

    runs: {name: records}.
    """
    panels = 1 + len(distinct_rows(rows_of_runs(runs))) + 1  # a loss, the scores, a table
    height = math.ceil(panels / 2)
    return figure(path, height, 2, (11, 3.75 * height))


def draw_scores(axes, runs, styles, table, baseline=None):
    """Draw each score over the epochs on a panel of its own, and a table on the last panel.

    axes: of `comparison_figure`, whose first panel is left to the caller; runs: {name: records};
    styles: {name: options of `Axes.plot`}; table: its strings, the head first; baseline: scores of
    answering foreground everywhere, or None.  A run without a score has no line on its panel.
    """
    _, *panels, last = np.ravel(axes)
    rows = distinct_rows(rows_of_runs(runs))
    for axis, score in zip(panels, rows):
        for name, records in runs.items():
            if score in rows_of(*records):
                plot_line(axis, records, score.key, label=name, **styles[name])
        if baseline:
            axis.axhline(baseline[score.key], color="gray", linestyle="--", linewidth=1,
                         label="all foreground")
        label_axis(axis, f"{score.curve} (mean over the tested images)", "score (0 to 1)")
        axis.legend(fontsize=8)
    for axis in (*panels[len(rows):], last):
        axis.set_axis_off()
    last.set_title("best epoch")
    if table[1:]:
        others = len(table[0]) - 1
        last.table(table[1:], colLabels=table[0], loc="center", cellLoc="center",
                   colWidths=[0.36] + [0.64 / others] * others).scale(1, 2)


def best_row(name, records, rows=SCORES):
    """A run's row of the table, strings: its name; number, loss and scores of its best epoch.

    The best epoch is that of the highest IoU, which every run has.  rows: of the table's scores.
    """
    best, name = best_of(records), name.replace("_", "\n", 1)  # the net, and the time below it
    keys = ("train_loss", *(score.key for score in rows))
    if best is None:
        return [name, "-", *("-" for _ in keys)]
    return [name, f"{best['epoch']:.0f}",
            *(f"{best[key]:.4f}" if key in best else "-" for key in keys)]


def draw_comparison(runs, path):
    """Write panels about {name: records}: training loss, scores, and a table of the best epochs."""
    styles = {name: {"color": f"C{k}", "markersize": 4, "linewidth": 1.2}
              for k, name in enumerate(runs)}
    rows = rows_of_runs(runs)
    head = ["", "epoch", "loss", *(score.title for score in rows)]
    table = [head, *(best_row(name, records, rows) for name, records in runs.items())]
    with comparison_figure(path, runs) as axes:
        for name, records in runs.items():
            plot_line(axes[0, 0], records, "train_loss", label=name, **styles[name])
        label_axis(axes[0, 0], "Training loss", "loss (compare runs of the same --loss)")
        axes[0, 0].legend(fontsize=8)
        draw_scores(axes, runs, styles, table)
