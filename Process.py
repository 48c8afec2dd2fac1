"""Training and testing: an epoch of steps, an epoch of scores, and the run over both.

`Trainer` is the algorithm.  Its recorder draws, writes and prints.  Between two steps its whole
state is the Vars of `state` and the numbers of `progress`.  A run that is resumed from them goes on
as an uninterrupted run would, to the last bit on a CPU.  (After bad batches a run goes back to its
last good state.  In a resumed run that may be the state that it was resumed from.)
`forward_function` is the forward pass that testing and prediction share; MirrorPadding.py has the
tiles.
"""
import time

import numpy as np

from backend import ranks
from backend.start import jt, seed_step
from backend.state import TrainingState
from command.bars import progress_bar
from Loss import LOSSES, deep_supervision_loss
from masks.assess import assess
from masks.pixel_scores import mean_scores
from MirrorPadding import Whole, overlap_tile
from Model import build_model
from nets.checkpoint import AVERAGE, OPTIMIZER, assign_weights
from runs.clock import Forecast, RunClock
from runs.guard import LossGuard
from runs.log import epoch_of
from runs.progress import Progress
from runs.schedule import average_share, learning_rate
from runs.steps import choose_steps
from runs.stop import StopSignal


# ------------------------------------------------------------------------------------- one forward
def as_var(array):
    """A NumPy array as a Var of the same dtype; `jt.array` alone turns float64 into float32."""
    return jt.array64(array) if array.dtype == np.float64 else jt.array(array)


def forward_function(model):
    """A model in eval mode, as MirrorPadding calls it: inputs (N, C, h, w) -> logits, float32."""
    def forward(inputs):
        with jt.no_grad():
            outputs = model(jt.array(inputs))
            return (outputs[0] if isinstance(outputs, list) else outputs).numpy()
    return forward


def trained_forward(net, weights, source, element="float32"):
    """The `forward_function` of a model that is built for trained weights.

    net: nets.trained.TrainedNet.  weights: {name: array}.  source: what an error names.  element:
    the type of what passes from layer to layer, see backend.precision.element_type.  Raises
    DataError as nets.checkpoint.assign_weights.
    """
    model = build_model(net.mode, net.n_channels, net.n_classes, **net.options)
    assign_weights(model, weights, source)
    model.element_type = element
    model.eval()
    return forward_function(model)


def predict_image(model, image, geometry, tile=Whole()):
    """Logits (K, H, W) float32 of a normalised image (C, H, W), for a model in eval mode."""
    return overlap_tile(image, forward_function(model), geometry, tile)


def batch_loss(model, batch, tile, loss):
    """The loss (a scalar Var) of a DataLoader.Batch, summed over a list of side outputs.

    tile: the tiling that the batch was made with.  loss: a function as in Loss.LOSSES.
    """
    height, width = batch.labels.shape[1:]
    outputs = model(as_var(batch.inputs))
    target = as_var(batch.labels), as_var(batch.weights)
    if isinstance(outputs, list):
        on_canvas = [tile.on_canvas(logits, height, width, jt.concat) for logits in outputs]
        return deep_supervision_loss(on_canvas, *target, loss)
    return loss(tile.on_canvas(outputs, height, width, jt.concat), *target)


def step_seed(seed, epoch, step, rank=0):
    """The seed of a step's dropout, so that a step depends only on its number and the weights."""
    words = np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1)
    return int(words[0] >> 1)  # Jittor takes 31 bits


# ------------------------------------------------------------------------------------------ testing
class Tester:
    """Tests a model with the tiling that suits its training.

    loader: DataLoader.TrainingLoader.  budget: seconds, see runs.clock.RunClock.
    """

    def __init__(self, model, loader, budget):
        self.model, self.loader, self.progress = model, loader, Progress()
        self.clock = RunClock(budget, self.progress)
        self.stop = StopSignal(self.clock.clock)

    def test(self, dataset, together=True, judge=assess):
        """The predictions of a SegmentationSet, {name: Prediction}; None when asked to stop.

        together: True where all ranks call this.  Then each predicts its share of the images and
        gets the predictions of all.  False where this rank alone calls it.
        judge: makes a Prediction, or what it likes, of logits, dataset and index.
        """
        self.model.eval()
        count = ranks.size() if together else 1
        predictions, times = {}, [self.clock.clock.now()]
        for start in progress_bar(range(0, len(dataset), count), "testing", unit="image"):
            index = start + ranks.rank()
            if index < len(dataset):
                logits = self.predict(dataset, index)
                predictions[dataset.name(index)] = judge(logits, dataset, index)
            if count > 1:
                self.stop.agree()
            if self.stop.asked(count > 1):
                return None
            times.append(self.clock.clock.now())
        first, *others = np.diff(times)
        usual = min(first, np.median([first, *others]))  # the first one may have compiled
        self.progress.test_seconds = float(usual + sum(others))
        if count > 1:
            every = {name: each for share in ranks.gathered(predictions)
                     for name, each in share.items()}
            predictions = {name: every[name] for name in map(dataset.name, range(len(dataset)))}
        return predictions

    def predict(self, dataset, index):
        """The logits of one image of a SegmentationSet, (K, H, W) float32."""
        image, geometry = dataset.image(index), self.loader.geometry
        tile = self.loader.tile.for_testing(geometry, *image.shape[1:])
        return predict_image(self.model, image, geometry, tile)


# ---------------------------------------------------------------------------------------- the run
class Trainer(Tester):
    """Trains a model, tests it and counts its progress; see `run`.

    loader: DataLoader.TrainingLoader.  test_set: SegmentationSet.  settings:
    runs.settings.TrainingSettings.  recorder has three methods:
        say(text)       tells the user something
        on_epoch(record)  after each epoch: {epoch, train_loss, scores where it was tested,
                        epoch_time (s, training alone), throughput (images/s), skipped (batches)}
        on_best(epoch, scores, predictions)  after each epoch whose mean score is a new best;
                        predictions: {name: masks.answers.Prediction}
    """
    def __init__(self, model, optimizer, loader, test_set, settings, recorder):
        ranks.share_model(model)
        super().__init__(model, loader, settings.budget)
        self.optimizer, self.test_set = optimizer, test_set
        self.settings, self.recorder = settings, recorder
        self.state = TrainingState(model, optimizer, OPTIMIZER, AVERAGE if settings.ema else "")
        self.guard = LossGuard(window=min(max(100, 2 * len(loader)), 10_000))
        self.steps = choose_steps(self.stop.agree, self.state, self.progress, self.guard,
                                  settings.clip_norm, recorder)
        self.forecast = Forecast(settings, len(loader))

    def run(self):
        """Train and test until the epochs or the time are over; True unless stopped before.

        Tests come from epoch `Val_epochs` on (counted from 0), and after the last epoch.
        """
        with self.stop:
            while not self.finished and not self.stop.requested:
                record = self.train_epoch()
                if self.test_is_due() and not self.stop.requested:
                    record.update(self.validate_epoch())
                if not self.stop.requested:
                    self.progress.begin_epoch(self.progress.epoch + 1)
                    self.recorder.on_epoch(record)
        return self.finished

    @property
    def finished(self):
        """Whether the run is over, see `Progress.ends_run`."""
        return self.progress.ends_run(self.settings.Total_epochs, self.clock.out_of_time)

    def test_is_due(self):
        """Whether to test after this epoch: from `Val_epochs` on, and after the last one.

        With a time budget: the first test is always made, and shows how long a test takes.  Then
        tests are made as often as their share of the time allows.
        """
        epoch = self.progress.epoch
        is_last = epoch + 1 >= self.settings.Total_epochs or self.clock.out_of_time
        return is_last or epoch >= self.settings.Val_epochs and self.clock.affords_test

    @property
    def steps_done(self):
        """How many steps of the run are over, batches that were skipped among them."""
        return self.progress.epoch * len(self.loader) + self.progress.step

    def share_done(self):
        """The share of the run, 0 ... 1, that is over in the middle of the present step.

        It is the share of the steps or of the time, whichever is larger.
        """
        of_steps = (self.steps_done + 0.5) / (self.settings.Total_epochs * len(self.loader))
        return min(1.0, max(of_steps, self.clock.share_done))

    # ----------------------------------------------------------------------------------- training
    def train_epoch(self):
        """One pass over the training set; returns its record, without scores."""
        now = self.progress
        self.model.train()
        self.steps.begin_epoch()
        started = time.perf_counter() - now.epoch_seconds
        title = f"epoch {epoch_of(now.epoch, self.settings.Total_epochs)}"
        with progress_bar(total=len(self.loader), initial=now.step, desc=title, unit="step") as bar:
            step_started = time.perf_counter()
            for batch in self.loader.epoch(now.epoch, now.step):
                loss = self.train_step(batch)
                if loss is not None:
                    bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
                now.images += self.loader.images(now.step)
                now.step += 1
                bar.update()
                seconds, step_started = time.perf_counter() - step_started, time.perf_counter()
                for line in self.forecast.add_step(seconds, now, self.clock.seconds):
                    self.recorder.say(line)
                if self.stop.requested or self.clock.out_of_time:
                    break
        if not self.stop.requested:  # else the run goes on within this epoch
            self.steps.settle()
        jt.sync_all(True)
        now.epoch_seconds = time.perf_counter() - started
        return {"epoch": now.epoch,
                "train_loss": float(np.mean(now.losses)) if now.losses else float("nan"),
                "epoch_time": now.epoch_seconds, "throughput": now.images / now.epoch_seconds,
                "skipped": now.skipped}

    def train_step(self, batch):
        """One optimiser step; returns the last loss that is known and was good, or None."""
        now = self.progress
        seed_step(step_seed(self.loader.seed, now.epoch, now.step, ranks.rank()))  # of dropout
        with self.steps.forward(), ranks.step(self.loader.images(now.step)):
            self.optimizer.lr = learning_rate(self.settings, self.share_done())
            loss = batch_loss(self.model, batch, self.loader.tile,
                              LOSSES[self.settings.loss].compute)
        known = self.steps.take(loss)
        self.state.average(average_share(self.settings.ema, self.steps_done + 1))
        return known

    # ------------------------------------------------------------------------------------ testing
    def test(self, dataset, together=True, judge=assess, weights=None):
        """`Tester.test` of `weights`, {name: Var}; None: the averages, where there are any."""
        self.model.eval()  # first: it notes which of the model's own Vars are trained
        with self.state.in_model(weights or self.state.tested_vars()):
            return super().test(dataset, together, judge)

    def validate_epoch(self):
        """Test: mean scores of the test set, {} when asked to stop; a new best calls `on_best`."""
        predictions = self.test(self.test_set)
        if predictions is None:
            return {}
        self.progress.all_test_seconds += self.progress.test_seconds
        mean = mean_scores([prediction.scores for prediction in predictions.values()])
        score = mean[self.settings.best_by]
        if score > self.progress.best_score:
            # the files first: only an epoch whose files are on disk is the best one
            self.recorder.on_best(self.progress.epoch, mean, predictions)
            self.progress.best_score = score
        self.progress.tested = self.progress.epoch + 1
        return mean

    # ------------------------------------------------------------------------------------- resume
    def stored_progress(self):
        """The Progress to store: the next step depends on it and on `state`."""
        now = self.progress
        now.seconds = self.clock.seconds
        self.steps.store(now)
        return now

    def resume(self, progress):
        """Go on from a `stored_progress`.  `state` must be set before."""
        self.progress.take_over(progress)
        self.clock.go_on_after(progress.seconds)
        self.steps.resume(progress)
