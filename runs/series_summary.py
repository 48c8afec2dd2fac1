"""What a series of runs comes to: a table of its runs with mean and standard deviation, and a page.

The standard deviation is that of a sample: its divisor is the number of runs less one.
"""
import csv
import os
import shlex
import statistics
import time
from pathlib import Path
from typing import NamedTuple, Optional

from command.files import atomic_write, make_folder
from datasets.splits import Fold
from masks.score_rows import distinct_rows, rows_of
from runs.log import duration
from runs.page import PageTable, write_rendered
from runs.page_pictures import draw_plot
from runs.recorder import describe_constant


class FinishedRun(NamedTuple):
    """What a run has come to."""
    fold: Optional[Fold]
    seed: int
    epoch: int      # the best one
    held: dict      # its mean scores on the images that were held back, {} where none were
    tested: dict    # on the test images
    baselines: dict  # {name: scores} of constant answers on the test images
    seconds: float  # the run took
    page: Path


class Spread(NamedTuple):
    """A mean over runs, and their standard deviation, None of a single run."""
    mean: float
    deviation: Optional[float]


class Column(NamedTuple):
    """A score of each run."""
    name: str       # in the CSV
    title: str      # for people
    row: object     # of masks.score_rows.ROWS
    is_held: bool   # of the images that were held back, not of the test images
    values: list    # of the runs, in their order


def spread_of(values):
    """The Spread of one number or more."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.mean(values), deviation)


def columns_of(finished):
    """The Columns of the scores that some FinishedRuns have, of the held-back images first."""
    columns = []
    for is_held, name, title in ((True, "held", "held-back"), (False, "test", "test")):
        scores = [run.held if is_held else run.tested for run in finished]
        if all(scores):
            columns += [Column(f"{name}_{row.key}", f"{title} {row.title}", row, is_held,
                               [each[row.key] for each in scores])
                        for row in rows_of(*scores)]
    return columns


def distinct_columns(finished):
    """The Columns of some FinishedRuns without those that repeat another one."""
    columns = columns_of(finished)
    shown = distinct_rows([column.row for column in columns])
    return [column for column in columns if column.row in shown]


class Summary:
    """Writes what a series has come to: summary.csv among results, summary.html among logs.

    settings: the runs.settings.Settings of the series.  names: of all its runs, in their order.
    seeds: of --seeds, () where it is not given.  words: of its command line.
    """

    def __init__(self, settings, names, seeds, words):
        self.settings, self.names = settings, names
        self.command = shlex.join(["python", "Main.py", *(word for word in words
                                                          if word != "--resume")])
        folds = settings.data.fold and settings.data.fold.number is None
        unit = "runs" if folds and seeds else "folds" if folds else "seeds"
        self.all_runs = f"{len(names)} {unit}" if len(names) > 1 else "1 seed"
        self.table_path = settings.run.Result_directory / "summary.csv"
        self.page_path = settings.run.Log_directory / "summary.html"

    def write(self, done):
        """Write both files; done: {name: FinishedRun}, one or more."""
        names = [name for name in self.names if name in done]
        finished = [done[name] for name in names]
        make_folder(self.table_path.parent)
        with atomic_write(self.table_path) as temporary, open(temporary, "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(table_of(names, finished))
        make_folder(self.page_path.parent)
        write_rendered(self.page_path, "summary.html", self.page_content(names, finished))

    def closing_lines(self, done):
        """Yield a line for the scores of each kind of images, and one that says where all lies."""
        finished = list(done.values())
        if not finished:
            return
        columns = distinct_columns(finished)
        for is_held, images in ((True, "Held-back images"), (False, "Test images")):
            scores = [f"{column.row.title} {format_spread(column.values)}"
                      for column in columns if column.is_held == is_held]
            if scores:
                yield f"{images}: {'  '.join(scores)} over {self.count(finished)}"
        if finished[0].baselines:
            yield describe_constant(finished[0].baselines)
        yield f"Summary      {self.page_path} and {self.table_path}"
        if len(self.names) > 1:
            folder = shlex.quote(str(self.settings.run.Checkpoint_directory))
            yield f"Together     python Predict.py --Checkpoint {folder} --Input <images>"

    def count(self, finished):
        """How many runs have finished, in words."""
        if len(finished) < len(self.names):
            return f"{len(finished)} of {self.all_runs}"
        return self.all_runs

    def page_content(self, names, finished):
        """The variables of summary.html."""
        settings, columns = self.settings, distinct_columns(finished)
        folder = settings.run.Log_directory
        data_set = settings.data.Data_directory.resolve().name
        return {
            "title": f"{settings.net.mode} on {data_set}: {self.all_runs}",
            "written": time.strftime("%Y-%m-%d %H:%M"), "command": self.command,
            "count": self.count(finished), "is_complete": len(finished) == len(self.names),
            "baselines": finished[0].baselines,
            "headline": [column.row for column in columns if not column.is_held],
            "spreads": {column.title: format_spread(column.values, "\N{PLUS-MINUS SIGN}")
                        for column in columns},
            "plot": draw_plot(lambda axis: plot_runs(axis, names, columns),
                              "scores of each run", (7.5, 3.9)),
            "runs": tabulate_runs(names, finished, columns),
            "links": {name: Path(os.path.relpath(run.page, folder)).as_posix()
                      for name, run in zip(names, finished)}}


# ------------------------------------------------------------------------------------------- tables
def format_spread(values, sign="+-"):
    """The mean and the standard deviation of numbers: '0.8612 +- 0.0031'."""
    mean, deviation = spread_of(values)
    return f"{mean:.4f}" if deviation is None else f"{mean:.4f} {sign} {deviation:.4f}"


def table_of(names, finished):
    """The CSV's rows of strings: the head, each run, and the mean and deviation over them."""
    columns = columns_of(finished)
    epochs, seconds = ([getattr(each, key) for each in finished] for key in ("epoch", "seconds"))
    values = [epochs, *(column.values for column in columns), seconds]
    rows = [["run", "fold", "seed", "epoch", *(column.name for column in columns), "seconds"]]
    for name, run, numbers in zip(names, finished, zip(*values)):
        fold = "" if run.fold is None else run.fold.number
        rows.append([name, fold, run.seed, *(f"{number:.6g}" for number in numbers)])
    for kind, numbers in zip(("mean", "std"), zip(*map(spread_of, values))):
        rows.append([kind, "", "", *("" if number is None else f"{number:.6g}"
                                     for number in numbers)])
    return rows


def tabulate_runs(names, finished, columns):
    """The page's table of the runs, their mean and their standard deviation: a PageTable."""
    rows = [[name, str(run.epoch), *(f"{column.values[place]:.4f}" for column in columns),
             duration(run.seconds)]
            for place, (name, run) in enumerate(zip(names, finished))]
    spreads = [spread_of(column.values) for column in columns]
    rows.append(["mean", "", *(f"{spread.mean:.4f}" for spread in spreads),
                 duration(statistics.mean(run.seconds for run in finished))])
    if len(finished) > 1:
        rows.append(["standard deviation", "",
                     *(f"{spread.deviation:.4f}" for spread in spreads), ""])
    return PageTable(["run", "best epoch", *(column.title for column in columns), "time"], rows)


# ---------------------------------------------------------------------------------------- a picture
def plot_runs(axis, names, columns):
    """Draw the scores of each run, and their mean as a line.

    Marks of images that were held back are hollow.
    """
    places = range(len(names))
    for column in columns:
        face = "none" if column.is_held else column.row.colour
        axis.plot(places, column.values, "o", color=column.row.colour, markerfacecolor=face,
                  label=column.title)
        axis.axhline(statistics.mean(column.values), color=column.row.colour, linewidth=1,
                     linestyle=":" if column.is_held else "-", alpha=0.6)
    axis.set(title="Scores of each run (lines: their means)", ylabel="score (0 to 1)")
    axis.set_xticks(places, [name.replace("/", "\n") for name in names],
                    rotation=90 if len(names) > 8 else 0)
    axis.margins(x=0.1)
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
