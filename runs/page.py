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
from typing import NamedTuple, Optional

from command.files import atomic_write
from masks.pixel_scores import CHOOSING, best_constant
from masks.score_rows import distinct_rows, name_chooser, rows_of, title_of
from nets.cut import Cut
from runs.log import ENDLESS, best_of, describe_crops, duration, middle_mean
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
    cut: Optional[Cut] = None  # of these test scores, where held-back images have chosen it
    best_by: str = CHOOSING  # the key of the score that chooses the best epoch
    weights_from: Optional[dict] = None  # as runs.request.Request has it

    @property
    def rows(self):
        """The rows of the scores that it has."""
        return rows_of(*self.records, self.test_scores, *self.data.baselines.values())

    @property
    def best(self):
        """The record of its best epoch, or None."""
        return best_of(self.records, self.best_by)


class PageTable(NamedTuple):
    """A table of strings."""
    head: list  # of the columns, or []
    rows: list  # of lists


# ----------------------------------------------------------------------------------------- the page
def write_page(path, run):
    """Write the page about a Run, atomically."""
    write_rendered(path, "page.html", page_content(run))


def write_rendered(path, template, content):
    """Write what the template `template` makes of {variable: value}, atomically."""
    text = render_page(template, content)
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def render_page(template, content):
    """The text that the template `template` makes of {variable: value}."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # late: few starts need it
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True,
                            undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    templates.filters["in_short"] = format_short
    return templates.get_template(template).render(content)


def page_content(run):
    """The variables of page.html."""
    data, test_set = run.data, run.data.test_set
    constant = best_constant(data.baselines)
    scored = "held-back training images" if data.holds_back else "test images"  # after each epoch
    headline = distinct_rows(run.rows)
    return {
        "run": run, "written": time.strftime("%Y-%m-%d %H:%M"), "command": shlex.join(run.command),
        "training_images": len(data.loader.dataset), "crops": describe_crops(data.loader),
        "test_images": len(test_set),
        "choosing_images": len(data.choosing), "scored": scored, "constant": constant[0],
        "headline": headline, "headline_titles": " / ".join(row.title for row in headline),
        "chosen_by": name_chooser(run.best_by),
        "epochs": count_epochs(run), "plots": draw_plots(run.records, run.loss_title, constant),
        "scores": tabulate_scores(run, scored), "test_scores": tabulate_test_scores(run),
        "epoch_scores": tabulate_epochs(run.records),
        "image_scores": tabulate_images(run.predictions, run.best_by),
        "ranked_by": title_of(run.best_by),
        "error_colours": explain_errors(test_set.n_classes, test_set.ignore_label),
        "class_colours": explain_classes(test_set.n_classes),
        "are_objects": test_set.are_objects,
        "probability_scale": PROBABILITY_SCALE,
        "examples": [show_example(test_set, run.predictions[name], rank, name)
                     for rank, name in choose_examples(run.predictions, run.best_by)],
        "training": show_training(data.loader), "settings": tabulate_settings(run.settings),
        "machine": tabulate_machine(run)}


# ------------------------------------------------------------------------------------------ numbers
def format_short(scores, rows):
    """The scores of these rows: '0.8123 / 0.9123'; a dash where there is none."""
    return " / ".join(f"{scores[row.key]:.4f}" if row.key in scores else "-" for row in rows)


def format_cells(scores, rows, *more):
    """The cells of a dict of scores: those of the rows, then other keys.  Empty: it has none."""
    keys = (*(row.key for row in rows), *more)
    return [f"{scores[key]:.4f}" if key in scores else "" for key in keys]


def count_epochs(run):
    """How many epochs were trained, and in what time."""
    done = f"{len(run.records)}"
    if run.total_epochs < ENDLESS:
        done += f" of {run.total_epochs}"
    return f"{done} epochs in {duration(run.seconds)}"


# ------------------------------------------------------------------------------------------- tables
def score_table(first, rows, more, cells):
    """A PageTable with a column for each row of scores, and these cells.

    first, more: titles of the columns before and behind the scores.
    """
    return PageTable([first, *(row.title for row in rows), *more], cells)


def tabulate_scores(run, scored):
    """The best and the last epoch, beside the constant answers; scored: the images they are of."""
    named = dict(run.data.baselines)
    if run.records:
        last = run.records[-1]
        named = {f"last epoch, {last['epoch']}": last, **named}
    if run.best:
        named = {f"best epoch{name_chooser(run.best_by)}, {run.best['epoch']}": run.best, **named}
    return score_table(f"mean over {scored}", run.rows, ["training loss"],
                       [[name, *format_cells(scores, run.rows, "train_loss")]
                        for name, scores in named.items()])


def tabulate_test_scores(run):
    """The best model on the test images, beside the constant answers."""
    named = {"best model": run.test_scores, **run.data.test_baselines}
    return score_table("mean over test images, read once", run.rows, [],
                       [[name, *format_cells(scores, run.rows)] for name, scores in named.items()])


def tabulate_epochs(records):
    rows = rows_of(*records)
    cells = [[str(record["epoch"]), *format_cells(record, rows, "train_loss"),
              f"{record['epoch_time']:.2f}", f"{record['throughput']:.4f}"] for record in records]
    return score_table("epoch", rows, ["training loss", "time (s)", "images/s"], cells)


def tabulate_images(predictions, best_by):
    rows = rows_of(*(each.scores for each in predictions.values()))
    return score_table("image", rows, [], [[name, *format_cells(predictions[name].scores, rows)]
                                           for name in rank_images(predictions, best_by)])


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
