"""What becomes of a run's epochs: log, curves, events, checkpoints, predictions, and in the end the page.

The Trainer calls `on_epoch` and `on_best`, Main.py `save_last` and `finish`.
"""
import gc
import math
import sys
import time

import Runtime
from Checkpoint import save, state_arrays
from Report import EventLog, draw_curves, draw_overview, duration, write_predictions
from Resume import BEST, LAST


class Recorder:
    """Writes a run's files.

    args: Main.py's flags, settings: the same for people; header: of the checkpoints; run: what a resumed run must have
    again (Resume.py); baselines: Metrics.constant_baselines.
    """

    def __init__(self, args, settings, log, model, header, run, loader, test_set, baselines):
        self.args, self.settings, self.log, self.model = args, settings, log, model
        self.header, self.run = header, run
        self.loader, self.test_set, self.baselines = loader, test_set, baselines
        self.events, self.predictions = EventLog(log.events_folder), {}
        self.epoch_started = self.last_saved = self.last_drawn = time.monotonic()
        self.trainer = None  # set once there is one: it takes this recorder's methods

    def on_epoch(self, record):
        now = time.monotonic()
        record["whole_time"], self.epoch_started = now - self.epoch_started, now
        self.log.epoch(record, self.args.Total_epochs)
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
        write_predictions(self.args.Result_directory, {name: each.mask for name, each in predictions.items()})
        self.events.predictions(epoch, self.test_set, predictions)
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
            draw_curves(self.log.records, self.baselines["all foreground"], self.log.curves_path)
            gc.collect()  # a figure is a ring of references, some MB each, that Python would gather up much later

    def finish(self, seconds, outcome):
        """Draw, log what came out and where it lies, write the page; outcome: "", or why the run ended early."""
        self.draw()
        best, say, args = self.log.closing_block(), self.log.say, self.args
        foreground = self.baselines["all foreground"]
        say(f"All foreground would score: IoU {foreground['iou']:.4f}  Dice {foreground['dice']:.4f}")
        say(f"Whole run: {duration(seconds)}")
        say(f"Log          {self.log.text_path} and .csv")
        if self.log.records:
            say(f"Curves       {self.log.curves_path} (live: tensorboard --logdir {args.Log_directory})")
        say(f"Weight maps  {args.Weight_directory}/")
        say(f"Checkpoints  {args.Checkpoint_directory}/")
        if best:
            overview = args.Result_directory / "overview.png"
            try:
                draw_overview(self.test_set, args.Result_directory, overview)
                say(f"Predictions  {args.Result_directory}/ (the best epoch's; {overview.name} shows some)")
            except (FileNotFoundError, ValueError):  # a resumed run's best epoch lies before, its files elsewhere or of other data
                say(f"Predictions  {args.Result_directory}/ has not those of the best epoch, which was before the run was resumed")
        try:
            self.write_page(seconds, outcome)
            say(f"Page         {self.log.page_path} (all of this in one file)")
        except Exception as error:  # noqa: BLE001 - all else is on disk: a page is no reason to end in an error
            say(f"Page         not written: {error}")

    def write_page(self, seconds, outcome):
        import HtmlReport
        from jittorsummary import count_parameters
        HtmlReport.write_page(self.log.page_path, HtmlReport.Run(
            log=self.log, settings=self.settings, outcome=outcome, seconds=seconds,
            command=["python", *sys.argv], device=Runtime.device_name(), parameters=count_parameters(self.model)[0],
            baselines=self.baselines, loader=self.loader, test_set=self.test_set, predictions=self.predictions))
