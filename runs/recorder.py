"""What becomes of a run's epochs: log, curves, events, checkpoints, predictions, the page.

The Trainer calls `on_epoch` and `on_best`; Main.py calls `save_last` and `finish`.
"""
import dataclasses
import gc
import math
import sys
import time
from functools import partial

from backend import ranks, start
from command.errors import DataError
from command.version import VERSION
from datasets.objects import BORDER
from masks.colours import draw_overview
from masks.pixel_scores import best_constant
from masks.prediction_files import write_predictions
from masks.score_rows import distinct_rows, format_scores, rows_of, rows_of_kind
from nets.checkpoint import assign, load, read_vars, save
from runs.curves import draw_curves
from runs.events import EventLog
from runs.final_test import test_once
from runs.log import RunLog, best_of, duration, run_name
from runs.resume import BEST, EARLIER, LAST, NO_FLAGS, OUTPUT_FOLDERS, as_texts, as_words


class Listener:
    """What another rank than the first has for a recorder: nothing is said or written twice."""

    def say(self, text):
        pass

    def on_epoch(self, record):
        pass

    def on_best(self, epoch, scores, predictions):
        pass


class Recorder:
    """Writes a run's files.

    settings: runs.settings.Settings.  data: DataLoader.Data.  stored: the resume.StoredRun that
    the run goes on with, or None.  loss_title: the loss, for people, with its unit.
    weights_from: as runs.request.Request has it.
    """

    def __init__(self, settings, data, model, stored, loss_title, weights_from):
        self.settings, self.data, self.model = settings, data, model
        self.folders, self.loss_title = settings.folders, loss_title
        self.weights_from = weights_from
        name = stored.log if stored else run_name(settings.net.mode, self.folders.Log_directory)
        records = stored.records if stored else []
        self.log = RunLog(self.folders.Log_directory, name,
                          [{"train_loss": float("nan"), **record} for record in records],
                          rows_of_kind(data.test_set.label_kind), settings.training.best_by)
        self.events, self.predictions = EventLog(self.log.events_folder), {}
        self.test_scores = {}  # of the best model, where the test images have not chosen it
        self.cut = None  # the best model's, of two classes, where held-out images choose it
        self.epoch_started = self.last_saved = time.monotonic()
        self.last_drawn = -math.inf  # there are curves to look at from the first epoch on
        self.is_resumed = stored is not None
        self.trainer = None  # set by `begin`: it takes this recorder

    @property
    def say(self):
        return self.log.say

    # ---------------------------------------------------------------------------- while it trains
    def on_epoch(self, record):
        now = time.monotonic()
        record["whole_time"], self.epoch_started = now - self.epoch_started, now
        training = self.settings.training
        self.log.epoch(record, training.Total_epochs, training.Val_epochs,
                       self.trainer.clock.seconds_left)
        self.events.epoch(record)
        if self._save_is_due(record["epoch"], now):
            self.save_last()
            self.last_saved = now
        if now - self.last_drawn > 60:
            self.draw()
            self.last_drawn = now

    def _save_is_due(self, epoch, now):
        amount, unit = self.settings.run.save_every
        if unit == "m":
            return now - self.last_saved >= 60 * amount
        return (epoch + 1) % amount == 0

    def on_best(self, epoch, scores, predictions):
        save(self.folders.Checkpoint_directory / BEST, read_vars(self.trainer.state.tested_vars()),
             {**self.header(), "epoch": epoch, "scores": scores})
        if not self.data.holds_back:
            self.show(epoch, predictions)

    def header(self):
        """What a checkpoint says of the net: all that prediction needs."""
        settings, statistics = self.settings, self.data.statistics
        header = {"mode": settings.net.mode, "n_channels": settings.data.n_channels,
                  "n_classes": settings.data.n_classes, "options": settings.net.options,
                  "mean": statistics.mean, "std": statistics.std, "dtype": statistics.dtype,
                  "tile": settings.training.tile.for_prediction, "version": VERSION}
        if settings.data.label_kind == "objects":
            header |= {"label_kind": "objects", "border": BORDER}
        if self.weights_from:
            header["weights_from"] = self.weights_from
        return header

    def save_last(self):
        """Write all that --resume needs."""
        arrays = read_vars(self.trainer.state.vars())
        records = [{name: value for name, value in record.items() if math.isfinite(value)}
                   for record in self.log.records]  # JSON has no NaN
        progress = self.trainer.stored_progress()
        run = {"settings": as_texts(self.settings.flags()), "data": self.data.digest,
               "log": self.log.name, "progress": dataclasses.asdict(progress),
               "records": records, "test_baselines": self.data.test_baselines}
        epoch = progress.epoch - (progress.step == 0)  # the last one that was trained in
        save(self.folders.Checkpoint_directory / LAST, arrays,
             {**self.header(), "epoch": epoch, "run": run})

    def show(self, epoch, predictions):
        """Write predictions of the test images, those of `epoch`."""
        write_predictions(self.folders.Result_directory, predictions)
        self.events.predictions(epoch, self.data.test_set, predictions)
        self.predictions = predictions

    def draw(self):
        if self.log.records:
            draw_curves(self.log.records, best_constant(self.data.baselines),
                        self.log.curves_path, self.loss_title)
            gc.collect()  # a figure is a ring of references, some MB each

    # ----------------------------------------------------------------------------------- before it
    def begin(self, trainer):
        """Begin to record a trainer's run, or go on with it."""
        self.trainer = trainer
        if self.is_resumed:
            line = f"Resumed at epoch {trainer.progress.epoch}, step {trainer.progress.step}"
            if trainer.finished:
                line += ": all is done; a larger --Total_epochs or --Time_budget goes further"
            self.say(line)
        else:
            self.set_earlier_aside()
            self.save_last()  # from now on --resume means this run, however soon it is killed

    def set_earlier_aside(self):
        """Rename an earlier run's checkpoints: this run has no best model yet.

        Each takes the place of one that was set aside before.
        """
        folder = self.folders.Checkpoint_directory
        earlier = [folder / name for name in (LAST, BEST) if (folder / name).exists()]
        for path in earlier:
            path.replace(path.with_name(EARLIER + path.name))
        if earlier:
            names = " and ".join(path.stem for path in earlier)
            begin = "begins" if len(earlier) == 1 else "begin"
            self.say(f"An earlier run's {names} now {begin} with {EARLIER} in {folder}/")

    # ------------------------------------------------------------------------------------ after it
    def test_once(self):
        """Score the best model on the test images, which have had no part in choosing it.

        Before that the held-out images choose its Cut.  False when asked to stop.
        """
        weights, header = self.load_best()
        with self.trainer.stop:
            found = test_once(partial(self.trainer.test, together=False, weights=weights),
                              self.data, self.settings.training.best_by, self.say)
        if found is None:
            return False
        self.test_scores, self.cut = found.scores, found.cut
        save(self.folders.Checkpoint_directory / BEST, read_vars(weights),
             {**header, **found.header})
        self.show(header["epoch"], found.predictions)
        return True

    def load_best(self):
        """The best model's checkpoint: ({name: Var} of its weights, header).

        The net keeps its own: a later `save_last` has to find them there.
        """
        path = self.folders.Checkpoint_directory / BEST
        arrays, header = load(path)
        weights = {name: var.detach() for name, var in self.model.state_dict().items()}
        assign(weights, arrays, path)
        return weights, header

    def finish(self, seconds, outcome):
        """Draw, log what came out and where it lies, write the page.

        outcome: "", or why the run ended early.
        """
        self.draw()
        best = self.log.closing_block()
        self.say(describe_constant(self.data.baselines))
        if self.test_scores:
            scores, (name, constant) = self.test_scores, best_constant(self.data.test_baselines)
            compared = ", ".join(f"{constant[row.key]:.4f}"
                                 for row in distinct_rows(rows_of(constant)))
            self.say(f"Test images, read once: {format_scores(scores)}  ({name}: {compared})")
        self.say(f"Whole run: {duration(seconds)}")
        self.say(f"Log          {self.log.text_path} and .csv")
        if self.log.records:
            self.say(f"Curves       {self.log.curves_path} "
                     f"(live: tensorboard --logdir {self.folders.Log_directory})")
        if self.data.loader.keeps_maps:
            self.say(f"Weight maps  {self.folders.Weight_directory}/")
        self.say(f"Checkpoints  {self.folders.Checkpoint_directory}/")
        try:
            self.write_page(seconds, outcome)
            page = f"{self.log.page_path} (all of this in one file)"
        except Exception as error:  # noqa: BLE001 - all else is on disk: no reason to fail
            page = f"not written: {error}"
        if best and (self.test_scores or not self.data.holds_back):
            self.say(f"Predictions  {self.folders.Result_directory}/ {self._draw_overview()}")
        self.say(f"Page         {page}")

    def _draw_overview(self):
        """Draw some predictions; returns what to say of them."""
        folder = self.folders.Result_directory
        try:
            draw_overview(self.data.test_set, folder, folder / "overview.png",
                          predictions=self.predictions)
        except (FileNotFoundError, ValueError):  # its files are elsewhere, or of other data
            return "has not those of the best epoch, which was before the run was resumed"
        return "(the best epoch's; overview.png shows some)"

    def command(self):
        """The words of the command that makes this run from its start."""
        if not self.settings.run.resume:
            return [*ranks.launcher(), "python", *sys.argv]
        folders = {name: [str(getattr(self.settings.run, name))] for name in OUTPUT_FOLDERS}
        flags = {name: texts for name, texts in as_texts(self.settings.flags()).items()
                 if name not in NO_FLAGS}
        words = as_words({**flags, **folders})
        return [*ranks.launcher(), "python", sys.argv[0], *words]

    def repeat_best(self):
        """The best model's predictions, where they were made before the run was resumed.

        {} where that model is gone.
        """
        best = best_of(self.log.records, self.log.best_by)
        try:
            weights, header = self.load_best()
        except DataError:
            return {}
        if best is None or header.get("epoch") != best["epoch"]:
            return {}
        return self.trainer.test(self.data.test_set, together=False, weights=weights) or {}

    def count_parameters(self):
        """How many numbers of the net are trained."""
        from backend.summary import count_parameters
        frozen = (getattr(self.model, name) for name in self.settings.frozen)
        return count_parameters(self.model)[0] - sum(count_parameters(each)[0] for each in frozen)

    def write_page(self, seconds, outcome):
        from runs.page import Run, write_page
        if not self.predictions and not outcome:
            self.predictions = self.repeat_best()
        settings = self.settings
        data_set = settings.data.Data_directory.resolve().name
        write_page(self.log.page_path, Run(
            name=self.log.name, title=f"{settings.net.mode} on {data_set}",
            records=self.log.records, settings=settings.flags(),
            total_epochs=settings.training.Total_epochs, loss_title=self.loss_title,
            parameters=self.count_parameters(), device=start.device_name(),
            command=self.command(), seconds=seconds, outcome=outcome, data=self.data,
            predictions=self.predictions, test_scores=self.test_scores, cut=self.cut,
            best_by=settings.training.best_by, weights_from=self.weights_from))


def describe_constant(baselines):
    """What the best constant answer would score, in one line."""
    name, constant = best_constant(baselines)
    rows = distinct_rows(rows_of(constant))
    return f"{name.capitalize()} would score: {format_scores(constant, rows)}"
