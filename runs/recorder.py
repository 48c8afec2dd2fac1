"""What becomes of a run's epochs: log, curves, events, checkpoints, predictions, and in the end the page.

The Trainer calls `on_epoch` and `on_best`, Main.py `save_last` and `finish`.
"""
import gc
import math
import sys
import time

from backend import ranks, start
from command.errors import DataError
from masks.colours import draw_overview
from masks.pixel_scores import best_constant, mean_scores
from masks.prediction_files import write_predictions
from nets.checkpoint import assign_weights, load, save, state_arrays
from runs.curves import draw_curves
from runs.events import EventLog
from runs.log import best_of, duration
from runs.resume import BEST, LAST, OUTPUT_FOLDERS, as_flags


class Recorder:
    """Writes a run's files.

    args: Main.py's flags, settings: the same for people; header: of the checkpoints; run: what a resumed run must have
    again (Resume.py); data: Main.Data.
    """

    def __init__(self, args, settings, log, model, header, run, data):
        self.args, self.settings, self.log, self.model = args, settings, log, model
        self.header, self.run, self.data = header, run, data
        self.events, self.predictions = EventLog(log.events_folder), {}
        self.test_scores = {}  # of the best model, where the test images have not chosen it
        self.epoch_started = self.last_saved = time.monotonic()
        self.last_drawn = -math.inf  # there are curves to look at from the first epoch on
        self.trainer = None  # set once there is one: it takes this recorder's methods

    def on_epoch(self, record):
        now = time.monotonic()
        record["whole_time"], self.epoch_started = now - self.epoch_started, now
        self.log.epoch(record, self.args.Total_epochs, self.args.Val_epochs, self.trainer.seconds_left)
        self.events.epoch(record)
        amount, unit = self.args.save_every
        if now - self.last_saved >= 60 * amount if unit == "m" else (record["epoch"] + 1) % amount == 0:
            self.save_last()
            self.last_saved = now
        if now - self.last_drawn > 60:
            self.draw()
            self.last_drawn = now

    def on_best(self, epoch, scores, predictions):
        save(self.args.Checkpoint_directory / BEST, state_arrays(self.model),
             {**self.header, "epoch": epoch, "scores": scores})
        if not self.data.holds_back:
            self.show(epoch, predictions)

    def test_once(self):
        """Score the best model on the test images, which have had no part in choosing it; False when asked to stop."""
        weights, header = self.load_best()
        with self.trainer.stop:
            predictions = self.trainer.test(self.data.test_set, ranks=1)
        if predictions is None:
            return False
        self.test_scores = mean_scores([prediction.scores for prediction in predictions.values()])
        save(self.args.Checkpoint_directory / BEST, weights, {**header, "test_scores": self.test_scores})
        self.show(header["epoch"], predictions)
        return True

    def load_best(self):
        """Put the best model's weights into the net; (weights, header) of its checkpoint."""
        path = self.args.Checkpoint_directory / BEST
        weights, header = load(path)
        assign_weights(self.model, weights, path)
        return weights, header

    def show(self, epoch, predictions):
        """Write predictions of the test images, those of `epoch`."""
        write_predictions(self.args.Result_directory, {name: each.mask for name, each in predictions.items()})
        self.events.predictions(epoch, self.data.test_set, predictions)
        self.predictions = predictions

    def save_last(self):
        """Write all that --resume needs."""
        arrays = {name: var.numpy() for name, var in self.trainer.state().items()}
        records = [{name: value for name, value in record.items() if math.isfinite(value)} for record in self.log.records]
        run = {**self.run, "progress": self.trainer.progress(), "records": records}
        epoch = self.trainer.epoch - (self.trainer.step == 0)  # the last one that was trained in
        save(self.args.Checkpoint_directory / LAST, arrays, {**self.header, "epoch": epoch, "run": run})

    def draw(self):
        if self.log.records:
            draw_curves(self.log.records, best_constant(self.data.baselines), self.log.curves_path)
            gc.collect()  # a figure is a ring of references, some MB each, that Python would gather up much later

    def finish(self, seconds, outcome):
        """Draw, log what came out and where it lies, write the page; outcome: "", or why the run ended early."""
        self.draw()
        best, say, args = self.log.closing_block(), self.log.say, self.args
        name, constant = best_constant(self.data.baselines)
        say(f"{name.capitalize()} would score: IoU {constant['iou']:.4f}  Dice {constant['dice']:.4f}")
        if self.test_scores:
            scores, (name, constant) = self.test_scores, best_constant(self.data.test_baselines)
            say(f"Test images, read once: IoU {scores['iou']:.4f}  Dice {scores['dice']:.4f}  F1 {scores['f1']:.4f}  "
                f"({name}: {constant['iou']:.4f}, {constant['dice']:.4f})")
        say(f"Whole run: {duration(seconds)}")
        say(f"Log          {self.log.text_path} and .csv")
        if self.log.records:
            say(f"Curves       {self.log.curves_path} (live: tensorboard --logdir {args.Log_directory})")
        if self.data.loader.w0 is not None:
            say(f"Weight maps  {args.Weight_directory}/")
        say(f"Checkpoints  {args.Checkpoint_directory}/")
        if best and (self.test_scores or not self.data.holds_back):
            overview = args.Result_directory / "overview.png"
            try:
                draw_overview(self.data.test_set, args.Result_directory, overview)
                say(f"Predictions  {args.Result_directory}/ (the best epoch's; {overview.name} shows some)")
            except (FileNotFoundError, ValueError):  # a resumed run's best epoch: its files are elsewhere, or of other data
                say(f"Predictions  {args.Result_directory}/ has not those of the best epoch, which was before the run was "
                    "resumed")
        try:
            self.write_page(seconds, outcome)
            say(f"Page         {self.log.page_path} (all of this in one file)")
        except Exception as error:  # noqa: BLE001 - all else is on disk: a page is no reason to end in an error
            say(f"Page         not written: {error}")

    def command(self):
        """The words of the command that makes this run from its start, also of one that was resumed."""
        if not self.args.resume:
            return [*ranks.launcher(), "python", *sys.argv]
        folders = {name: [str(getattr(self.args, name))] for name in OUTPUT_FOLDERS}
        return [*ranks.launcher(), "python", sys.argv[0], *as_flags({**self.run["settings"], **folders})]

    def repeat_best(self):
        """The best model's predictions, where they were made before the run was resumed: {} where that model is gone."""
        best = best_of(self.log.records)
        try:
            _, header = self.load_best()
        except DataError:
            return {}
        if best is None or header.get("epoch") != best["epoch"]:
            return {}
        return self.trainer.test(self.data.test_set, ranks=1) or {}

    def write_page(self, seconds, outcome):
        from backend.summary import count_parameters
        from runs import page
        if not self.predictions and not outcome:
            self.predictions = self.repeat_best()
        page.write_page(self.log.page_path, page.Run(
            log=self.log, settings=self.settings, outcome=outcome, seconds=seconds,
            command=self.command(), device=start.device_name(), parameters=count_parameters(self.model)[0],
            data=self.data, predictions=self.predictions, test_scores=self.test_scores))
