"""Training and testing: an epoch of steps, an epoch of scores, and the run over both.

`Trainer` reads like the algorithm; what is drawn, written or printed is its caller's business (`on_epoch`, `on_best`).
Between two steps its whole state is the Vars of `state()` and the numbers of `progress()`: a run resumed from them goes
on as the unbroken one would, to the last bit on a CPU.  (Where bad batches send it back, its last good state may be the
one that it was resumed from.)
`forward_function` is the forward pass that testing and prediction share; MirrorPadding has the tiles.
"""
import math
import time

import numpy as np
from tqdm import tqdm

from backend import ranks
from backend.start import jt
from command.errors import DataError
from datasets.labels import IGNORED
from images.formats import png_bytes
from Loss import LOSSES, deep_supervision_loss
from masks.answers import Prediction, foreground_probability, mask_pixels
from masks.pixel_scores import mean_scores, scores
from MirrorPadding import crop_logits, overlap_tile, stitch_reference
from nets.checkpoint import OPTIMIZER
from nets.geometry import automatic_tile
from runs.guard import LossGuard
from runs.log import epoch_of
from runs.plan import Plan
from runs.stop import StopSignal


class TrainingFailed(DataError):
    """The loss does not recover; the message says what to try."""


def as_var(array):
    """A NumPy array as a Var of its own dtype: `jt.array` makes float32 of float64."""
    return jt.array64(array) if array.dtype == np.float64 else jt.array(array)


def forward_function(model):
    """A model in eval mode as MirrorPadding calls it: inputs (N, C, h, w) -> logits (N, K, ...), float32 arrays."""
    def forward(inputs):
        with jt.no_grad():
            outputs = model(jt.array(inputs))
            return (outputs[0] if isinstance(outputs, list) else outputs).numpy()
    return forward


def predict_image(model, image, geometry, tile="full"):
    """Logits (K, H, W) float32 of one normalised image (C, H, W) float32, for a model in eval mode."""
    return overlap_tile(image, forward_function(model), geometry, tile)


def batch_loss(model, batch, tile="full", loss="weighted_ce"):
    """The loss (a scalar Var) of a DataLoader.Batch, summed over a list of side outputs.

    tile: 'reference' where the batch holds the four quadrants of one image; loss: one of Loss.LOSSES.
    """
    def on_canvas(logits):
        return stitch_reference(logits, jt.concat) if tile == "reference" else crop_logits(logits, *batch.labels.shape[1:])
    outputs, target = model(as_var(batch.inputs)), (as_var(batch.labels), as_var(batch.weights))
    if isinstance(outputs, list):
        return deep_supervision_loss([on_canvas(logits) for logits in outputs], *target, LOSSES[loss])
    return LOSSES[loss](on_canvas(outputs), *target)


def step_seed(seed, epoch, step, rank=0):
    """The seed of a step's dropout: of its own, so that a step depends on nothing but the weights before it."""
    return int(np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1)[0] >> 1)  # Jittor takes 31 bits


class Trainer:
    """Trains a model and keeps count; see `run`.

    loader: TrainingLoader; test_set: SegmentationSet; on_epoch(record) is called after each epoch with {epoch, train_loss,
    iou, dice, f1, epoch_time (s, training alone), throughput (images/s), skipped}; on_best(epoch, scores, predictions) after
    each epoch of a new best mean IoU, predictions: {name: Prediction}; say(text) receives what the user should know.
    """
    BAD_IN_A_ROW = 3  # skipped batches, after which the run goes back to the last good state
    RECOVERED = 20    # accepted batches in a row, after which going back has helped
    PROGRESS = ("epoch", "step", "losses", "images", "epoch_seconds", "skipped", "tested", "best_iou", "bad_in_a_row",
                "good_in_a_row", "went_back", "seconds", "test_seconds", "all_test_seconds")

    def __init__(self, model, optimizer, loader, test_set, total_epochs, val_epochs, on_epoch, on_best, say=print,
                 plan=Plan()):
        self.model, self.optimizer, self.loader, self.test_set = model, optimizer, loader, test_set
        self.total_epochs, self.val_epochs, self.plan = total_epochs, val_epochs, plan
        self.highest_rate = optimizer.lr
        self.on_epoch, self.on_best, self.say = on_epoch, on_best, say
        self.statistics = {name: var for name, var in model.state_dict().items()
                           if name.endswith(("running_mean", "running_var"))}
        self.guard, self.stop = LossGuard(window=min(max(100, 2 * len(loader)), 10_000)), StopSignal()
        self.tested, self.best_iou = 0, -1.0  # epochs that were done at the last test
        ranks.begin(model)
        self.bad_in_a_row = self.good_in_a_row = 0
        self._begin_epoch(0)
        self.last_good, self.snapshot_due, self.went_back = None, True, False
        self.earlier_seconds, self.started = 0.0, ranks.monotonic()
        self.test_seconds = self.all_test_seconds = 0.0  # of the last test, of all

    def run(self):
        """Train for `total_epochs`, or for as long as the time of its plan lasts, and test from epoch `val_epochs` on (counted
        from 0), and in the last; True unless stopped before."""
        with self.stop:
            while not self.finished and not self.stop.requested:
                record = self.train_epoch()
                if self.test_is_due() and not self.stop.requested:
                    record.update(self.validate_epoch())
                if not self.stop.requested:
                    self._begin_epoch(self.epoch + 1)
                    self.on_epoch(record)
        return self.finished

    def _begin_epoch(self, epoch):
        self.epoch, self.step, self.losses, self.skipped = epoch, 0, [], 0  # skipped: batches that were left out
        self.images, self.epoch_seconds = 0, 0.0  # trained on in this epoch, and how long that took

    @property
    def seconds(self):
        """How long this run has taken, the parts before it was resumed among them."""
        return self.earlier_seconds + ranks.monotonic() - self.started

    @seconds.setter
    def seconds(self, earlier):
        self.earlier_seconds, self.started = earlier, ranks.monotonic()

    @property
    def seconds_left(self):
        """Of the plan's time; infinite without one."""
        return max(0.0, self.plan.time_budget - self.seconds) if self.plan.time_budget else math.inf

    @property
    def out_of_time(self):
        """Whether the time that is left is just enough for a test."""
        return 0 < self.plan.time_budget <= self.seconds + self.test_seconds

    @property
    def finished(self):
        """Whether all epochs are done, or the time is up and the last of them was tested."""
        return self.epoch >= self.total_epochs or self.out_of_time and self.step == 0 and 0 < self.tested == self.epoch

    def test_is_due(self):
        """After every epoch from `val_epochs` on; where time is short, once (which shows how long a test takes), then as often
        as a tenth of it allows, and in the end."""
        affordable = not self.plan.time_budget or self.all_test_seconds + self.test_seconds <= self.seconds / 10
        is_last = self.epoch + 1 >= self.total_epochs or self.out_of_time
        return is_last or self.epoch >= self.val_epochs and affordable

    def done(self):
        """The share of the run, 0 ... 1, that is over in the middle of the step at hand: of its steps or, where that is more,
        of its time."""
        steps = (self.epoch * len(self.loader) + self.step + 0.5) / (self.total_epochs * len(self.loader))
        budget = self.plan.time_budget
        return min(1.0, max(steps, (self.seconds + self.test_seconds) / budget if budget else 0.0))

    def progress(self):
        """Everything but `state()` that the next step depends on, for `resume`; JSON can hold it."""
        return {**{name: getattr(self, name) for name in self.PROGRESS}, "accepted": list(self.guard.accepted),
                "n_step": self.optimizer.n_step}

    def resume(self, progress):
        """Go on where `progress()` was taken; `state()` is set by then."""
        for name in self.PROGRESS:
            setattr(self, name, progress[name])
        self.guard.accepted.extend(progress["accepted"])
        self.optimizer.n_step = progress["n_step"]
        self.last_good = self._snapshot(self.optimizer.n_step)

    # ------------------------------------------------------------------------------------------------------------ training
    def train_epoch(self):
        """One pass over the training set: {epoch, train_loss, epoch_time, throughput, skipped}."""
        self.model.train()
        self.snapshot_due = True
        started = time.perf_counter() - self.epoch_seconds
        with tqdm(total=len(self.loader), initial=self.step, desc=f"epoch {epoch_of(self.epoch, self.total_epochs)}",
                  unit="step", leave=False, disable=None) as bar:
            for batch in self.loader.epoch(self.epoch, self.step):
                loss = self.train_step(batch)
                if loss is not None:
                    self.losses.append(loss)
                    bar.set_postfix_str(f"loss {loss:.4f}")
                self.images += self.loader.images(self.step)
                self.step += 1
                bar.update()
                if self.stop.requested or self.out_of_time:
                    break
        jt.sync_all(True)
        self.epoch_seconds = time.perf_counter() - started
        return {"epoch": self.epoch, "train_loss": float(np.mean(self.losses)) if self.losses else float("nan"),
                "epoch_time": self.epoch_seconds, "throughput": self.images / self.epoch_seconds, "skipped": self.skipped}

    def train_step(self, batch):
        """One optimiser step; returns the loss, or None for a batch that was skipped."""
        jt.set_seed(step_seed(self.loader.seed, self.epoch, self.step, ranks.rank()))  # of dropout, whatever was drawn before
        before = {name: var.detach() for name, var in self.statistics.items()}
        self.optimizer.lr = self.highest_rate * self.plan.rate(self.done())
        ranks.begin_step(self.loader.images(self.step))
        loss = batch_loss(self.model, batch, self.loader.tile, self.plan.loss)
        self.optimizer.zero_grad()
        self.optimizer.backward(loss)
        value, = self.stop.agree(float(loss.item()))  # the step's only wait for the device; the progress bar shows it
        if not self.guard.accepts(value):
            for name, var in self.statistics.items():
                var.assign(before[name])  # the forward pass has already moved them
            self._skip(value)
            return None
        if self.snapshot_due:  # an accepted loss proves the state before this step, and with it the epoch's start
            self.last_good, self.snapshot_due = self._snapshot(self.optimizer.n_step - 1, before), False
        if self.plan.clip_norm:
            self.optimizer.clip_grad_norm(self.plan.clip_norm)
        self.optimizer.step()
        self.bad_in_a_row, self.good_in_a_row = 0, self.good_in_a_row + 1
        self.went_back = self.went_back and self.good_in_a_row < self.RECOVERED
        return value

    def _skip(self, loss):
        """Leave a batch out; after several in a row go back to the last good state, and if that was no help, stop."""
        self.skipped += 1
        self.bad_in_a_row, self.good_in_a_row = self.bad_in_a_row + 1, 0
        self.optimizer.zero_grad()
        self.optimizer.n_step -= 1  # Jittor counts backward passes, Adam's bias correction means steps
        if self.bad_in_a_row < self.BAD_IN_A_ROW:
            return
        if self.last_good is not None:
            self._restore(self.last_good)
        if self.last_good is None or self.went_back:
            raise TrainingFailed(f"epoch {self.epoch}: the loss stays at {loss:g}, from the last good state too; "
                                 "lower --Learning_rate, or look for damaged images")
        self.say(f"epoch {self.epoch}: {self.bad_in_a_row} bad batches in a row (loss {loss:g}): "
                 "back to the last good state")
        self.bad_in_a_row, self.went_back = 0, True

    def state(self):
        """Every Var that a step changes, by name: the model's state and the optimiser's moments."""
        state = dict(self.model.state_dict())
        for kind in ("values", "m"):
            for k, var in enumerate(self.optimizer.param_groups[0].get(kind, ())):
                state[f"{OPTIMIZER}{kind}.{k}"] = var
        return state

    def _snapshot(self, n_step, statistics={}):
        """The state after `n_step` steps, on the host; statistics: those of then, where the forward pass has moved on."""
        state = {name: var.numpy().copy() for name, var in {**self.state(), **statistics}.items()}
        return {**state, "n_step": n_step}

    def _restore(self, snapshot):
        for name, var in self.state().items():
            var.assign(snapshot[name])
        self.optimizer.n_step = snapshot["n_step"]

    # ------------------------------------------------------------------------------------------------------------- testing
    def validate_epoch(self):
        """Mean scores over the test set: {iou, dice, f1}, {} when asked to stop; a new best goes to `on_best`."""
        predictions = self.test(self.test_set)
        if predictions is None:
            return {}
        self.all_test_seconds += self.test_seconds
        mean = mean_scores([prediction.scores for prediction in predictions.values()])
        if mean["iou"] > self.best_iou:
            self.on_best(self.epoch, mean, predictions)  # first: an epoch whose files are not on disk is no best one
            self.best_iou = mean["iou"]
        self.tested = self.epoch + 1
        return mean

    def test(self, dataset, ranks=ranks.size()):
        """The predictions of a SegmentationSet, {name: Prediction}; None when asked to stop.

        ranks: how many call this, each for its share of the images (and get the predictions of all): all, or 1.
        """
        self.model.eval()
        predictions, times = {}, [ranks.monotonic()]
        for start in tqdm(range(0, len(dataset), ranks), "testing", unit="image", leave=False, disable=None):
            index = start + ranks.rank()
            if index < len(dataset):
                predictions[dataset.name(index)] = self.predict(dataset, index)
            if ranks > 1:
                self.stop.agree()
            if self.stop.asked(ranks):
                return None
            times.append(ranks.monotonic())
        first, *others = np.diff(times)
        self.test_seconds = float(min(first, np.median([first, *others])) + sum(others))  # the first one may have compiled
        if ranks > 1:
            every = {name: each for share in ranks.gathered(predictions) for name, each in share.items()}
            predictions = {name: every[name] for name in map(dataset.name, range(len(dataset)))}
        return predictions

    def predict(self, dataset, index):
        """The Prediction of one image of a SegmentationSet."""
        image, geometry, tile = dataset.image(index), self.loader.geometry, self.loader.tile
        if isinstance(tile, int):  # crops are for training
            tile = automatic_tile(geometry, *image.shape[1:])
        logits = predict_image(self.model, image, geometry, tile)
        classes, n_classes = logits.argmax(axis=0), dataset.n_classes
        return Prediction(png_bytes(mask_pixels(classes, n_classes)), png_bytes(foreground_probability(logits)),
                          scores(classes, dataset.label(index), n_classes, IGNORED))
