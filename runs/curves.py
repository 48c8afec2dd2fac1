"""A run's curves."""
import itertools

from images.figures import figure
from runs.log import COLUMNS, best_of

SCORE_COLOURS = {"iou": "#1f77b4", "dice": "#2ca02c"}


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
