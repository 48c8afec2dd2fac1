"""A run's curves, and those of several runs side by side."""
import math

import numpy as np

from images.figures import figure
from masks.pixel_scores import DISTINCT, SCORES
from runs.log import best_of

LOSS_COLOUR = "#c0392b"
PANEL_ROWS = math.ceil((1 + len(DISTINCT) + 1) / 2)  # of a comparison: a loss, the scores, a table


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
    for score in DISTINCT:
        plot_line(axis, records, score.key, label=score.curve, color=score.colour, markersize=4)
        axis.axhline(constant[score.key], color=score.colour, linestyle=":", linewidth=1,
                     label=f"{score.curve}, {name}")
    label_axis(axis, "Scores (mean over images)", "score (0 to 1)")
    axis.legend(fontsize=8)
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
def comparison_figure(path):
    """`with comparison_figure(path) as axes:` a panel for the loss, and those of `draw_scores`."""
    return figure(path, PANEL_ROWS, 2, (11, 3.75 * PANEL_ROWS))


def draw_scores(axes, runs, styles, rows, baseline=None):
    """Draw each score of DISTINCT over the epochs on a panel of its own, and a table on the last.

    axes: of `comparison_figure`, whose first panel is left to the caller; runs: {name: records};
    styles: {name: options of `Axes.plot`}; rows: the table's strings, its head first; baseline:
    scores of answering foreground everywhere, or None.
    """
    _, *panels, last = np.ravel(axes)
    for axis, score in zip(panels, DISTINCT):
        for name, records in runs.items():
            plot_line(axis, records, score.key, label=name, **styles[name])
        if baseline:
            axis.axhline(baseline[score.key], color="gray", linestyle="--", linewidth=1,
                         label="all foreground")
        label_axis(axis, f"{score.curve} (mean over the tested images)", "score (0 to 1)")
        axis.legend(fontsize=8)
    for axis in (*panels[len(DISTINCT):], last):
        axis.set_axis_off()
    last.set_title("best epoch")
    if rows[1:]:
        others = len(rows[0]) - 1
        last.table(rows[1:], colLabels=rows[0], loc="center", cellLoc="center",
                   colWidths=[0.36] + [0.64 / others] * others).scale(1, 2)


def best_row(name, records):
    """A run's row of the table, strings: its name; number, loss and scores of its best epoch."""
    best, name = best_of(records), name.replace("_", "\n", 1)  # the net, and the time below it
    keys = ("train_loss", *(score.key for score in SCORES))
    if best is None:
        return [name, "-", *("-" for _ in keys)]
    return [name, f"{best['epoch']:.0f}", *(f"{best[key]:.4f}" for key in keys)]


def draw_comparison(runs, path):
    """Write panels about {name: records}: training loss, scores, and a table of the best epochs."""
    styles = {name: {"color": f"C{k}", "markersize": 4, "linewidth": 1.2}
              for k, name in enumerate(runs)}
    head = ["", "epoch", "loss", *(score.title for score in SCORES)]
    rows = [best_row(name, records) for name, records in runs.items()]
    with comparison_figure(path) as axes:
        for name, records in runs.items():
            plot_line(axes[0, 0], records, "train_loss", label=name, **styles[name])
        label_axis(axes[0, 0], "Training loss", "loss (compare runs of the same --loss)")
        axes[0, 0].legend(fontsize=8)
        draw_scores(axes, runs, styles, [head, *rows])
