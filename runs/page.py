"""A run as one page to read and to send: scores, curves, pictures, settings, machine, command.

The page needs no server, no network and no JavaScript: pictures lie in it as data.  This module
says what stands on it.  page.html, page_parts.html and page.css say how that looks.  Jinja2 escapes
every text, for a file may be named `<script>.png`.
"""
import platform
import shlex
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from command.files import atomic_write
from masks.pixel_scores import CHOOSING, DISTINCT, SCORES, best_constant
from runs.log import ENDLESS, best_of, duration, middle_mean
from runs.page_pictures import (PROBABILITY_SCALE, choose_examples, draw_plots, explain_classes,
                                explain_errors, rank_images, show_example, show_training)

PACKAGES = ("jittor", "numpy", "scipy", "scikit-image", "pillow")


@dataclass(frozen=True)
class Run:
    """What a page tells about a run."""
    name: str          # of its files in the log folder
    title: str         # its net and its data set
    records: list      # of its epochs, as runs.log.RunLog has them
    settings: dict     # {flag: the value that the run had}
    total_epochs: int  # that it was to have; ENDLESS where only the time ends it
    loss_title: str    # which loss it has, and its unit
    parameters: int    # that were trained
    device: str
    command: list      # the words of the command that repeats it
    seconds: float     # that all of it took
    outcome: str       # why it ended early, or ""
    data: object       # loader, choosing, test_set, baselines, test_baselines, holds_back of a run
    predictions: dict  # {name: answers.Prediction}: the test images at the best epoch, {} before
    test_scores: dict  # the best model's on the test images where others have chosen it, else {}


class PageTable(NamedTuple):
    """A table of strings."""
    head: list  # of the columns, or []
    rows: list  # of lists


# ----------------------------------------------------------------------------------------- the page
def write_page(path, run):
    """Write the page about a Run, atomically."""
    text = render_page(page_content(run))
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def render_page(content):
    """The page's text, from the {variable: value} of `page_content`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # late: few starts need it
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True,
                            undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    templates.filters["in_short"] = format_short
    return templates.get_template("page.html").render(content)


def page_content(run):
    """The variables of page.html."""
    data, test_set = run.data, run.data.test_set
    constant = best_constant(data.baselines)
    scored = "held-back training images" if data.holds_back else "test images"  # after each epoch
    return {
        "run": run, "written": time.strftime("%Y-%m-%d %H:%M"), "command": shlex.join(run.command),
        "training_images": len(data.loader.dataset), "test_images": len(test_set),
        "choosing_images": len(data.choosing), "scored": scored, "constant": constant[0],
        "headline": " / ".join(score.title for score in DISTINCT), "epochs": count_epochs(run),
        "best": best_of(run.records), "plots": draw_plots(run.records, run.loss_title, constant),
        "scores": tabulate_scores(run, scored), "test_scores": tabulate_test_scores(run),
        "epoch_scores": tabulate_epochs(run.records),
        "image_scores": tabulate_images(run.predictions),
        "ranked_by": next(score.title for score in SCORES if score.key == CHOOSING),
        "error_colours": explain_errors(test_set.n_classes, test_set.ignore_label),
        "class_colours": explain_classes(test_set.n_classes),
        "probability_scale": PROBABILITY_SCALE,
        "examples": [show_example(test_set, run.predictions[name], rank, name)
                     for rank, name in choose_examples(run.predictions)],
        "training": show_training(data.loader), "settings": tabulate_settings(run.settings),
        "machine": tabulate_machine(run)}


# ------------------------------------------------------------------------------------------ numbers
def format_short(scores):
    """The scores of DISTINCT alone: '0.8123 / 0.9123'."""
    return " / ".join(f"{scores[score.key]:.4f}" for score in DISTINCT)


def format_cells(scores, *more):
    """The cells of a dict of scores: those of SCORES, then other keys.  Empty where it has none."""
    keys = (*(score.key for score in SCORES), *more)
    return [f"{scores[key]:.4f}" if key in scores else "" for key in keys]


def count_epochs(run):
    """How many epochs were trained, and in what time."""
    done = f"{len(run.records)}"
    if run.total_epochs < ENDLESS:
        done += f" of {run.total_epochs}"
    return f"{done} epochs in {duration(run.seconds)}"


# ------------------------------------------------------------------------------------------- tables
def score_table(first, more, rows):
    """A PageTable with a column for each score; first, more: titles of the columns around them."""
    return PageTable([first, *(score.title for score in SCORES), *more], rows)


def tabulate_scores(run, scored):
    """The best and the last epoch, beside the constant answers; scored: the images they are of."""
    best, rows = best_of(run.records), []
    if best:
        rows.append([f"best epoch, {best['epoch']}", *format_cells(best, "train_loss")])
    if run.records:
        last = run.records[-1]
        rows.append([f"last epoch, {last['epoch']}", *format_cells(last, "train_loss")])
    rows += [[name, *format_cells(scores, "train_loss")]
             for name, scores in run.data.baselines.items()]
    return score_table(f"mean over {scored}", ["training loss"], rows)


def tabulate_test_scores(run):
    """The best model on the test images, beside the constant answers."""
    rows = {"best model": run.test_scores, **run.data.test_baselines}
    return score_table("mean over test images, read once", [],
                       [[name, *format_cells(scores)] for name, scores in rows.items()])


def tabulate_epochs(records):
    rows = [[str(record["epoch"]), *format_cells(record, "train_loss"),
             f"{record['epoch_time']:.2f}", f"{record['throughput']:.4f}"] for record in records]
    return score_table("epoch", ["training loss", "time (s)", "images/s"], rows)


def tabulate_images(predictions):
    return score_table("image", [], [[name, *format_cells(predictions[name].scores)]
                                     for name in rank_images(predictions)])


def tabulate_settings(settings):
    """Two PageTables, to stand beside each other."""
    rows = [[name, " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)]
            for name, value in settings.items()]
    half = (len(rows) + 1) // 2
    return [PageTable([], rows[:half]), PageTable([], rows[half:])]


def tabulate_machine(run):
    rows = [["device", run.device], ["system", platform.platform()],
            ["Python", platform.python_version()]]
    rows += [[name, metadata.version(name)] for name in PACKAGES]
    if run.records:
        seconds, images = (middle_mean(run.records, key) for key in ("epoch_time", "throughput"))
        speed = (f"{seconds:.2f} s per epoch, {images:.4f} images/s (means over the middle half of "
                 f"{len(run.records)} epochs, tests not counted)")
        rows.append(["training", speed])
    return PageTable([], [*rows, ["whole run", duration(run.seconds)]])
