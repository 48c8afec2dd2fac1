"""Training and testing: an epoch of steps, an epoch of scores, and the run over both.

`Trainer` reads like the algorithm; what is drawn, written or printed is its caller's business (`on_epoch`, `on_best`).
Between two steps its whole state is the Vars of `state()` and the numbers of `progress()`: a run resumed from them goes
on as the unbroken one would, to the last bit on a CPU.  (Where bad batches send it back, its last good state may be the
one that it was resumed from.)
`forward_function` is the forward pass that testing and prediction share; MirrorPadding has the tiles.
"""
import math
import os
import signal
import sys
import threading
import time
from collections import deque
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import Ranks
from Checkpoint import OPTIMIZER
from Common import IGNORED, DataError, epoch_of, png_bytes
from Loss import LOSSES, deep_supervision_loss
from Metrics import mean_scores, scores
from MirrorPadding import automatic_tile, crop_logits, overlap_tile, stitch_reference
from Postprocess import mask_pixels, probabilities
from Runtime import jt


class TrainingFailed(DataError):
    """The loss does not recover; the message says what to try."""


class Prediction(NamedTuple):
    """A tested image's result, small enough to keep that of every image."""
    mask: bytes         # PNG of the predicted classes, as `mask_pixels` shows them
    probability: bytes  # PNG of `foreground_probability`
    scores: dict        # Metrics.scores


class Adam(jt.optim.Adam):
    """Adam with epsilon after the bias correction (Kingma and Ba 2015, algorithm 1), as in PyTorch; Jittor has it before."""
    EPSILON = 1e-8

    def step(self, loss=None, retain_graph=False):
        steps = self.n_step + (loss is not None)
        self.eps = self.EPSILON * math.sqrt(1 - self.betas[1] ** steps)  # Jittor divides by sqrt(v) + eps, uncorrected
        super().step(loss, retain_graph)


def build_optimizer(name, model, learning_rate):
    """'adam': betas (0.99, 0.999), weight decay 1e-4; 'adamw': betas (0.9, 0.999), decoupled weight decay 0.01 (Loshchilov
    and Hutter, ICLR 2019); 'sgd': momentum 0.99, as in the U-Net paper (section 3)."""
    trainable = [parameter for parameter in model.parameters() if not parameter.is_stop_grad()]
    if name == "sgd":
        return jt.optim.SGD(trainable, learning_rate, momentum=0.99)
    if name == "adamw":
        return jt.optim.AdamW(trainable, learning_rate, betas=(0.9, 0.999), weight_decay=0.01)
    return Adam(trainable, learning_rate, betas=(0.99, 0.999), weight_decay=1e-4)


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


def foreground_probability(logits):
    """How probably a pixel is no background: (K, H, W) float32 -> (H, W) uint8, 255 means 1."""
    return np.rint(255 * (1 - probabilities(logits)[0])).astype(np.uint8)


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


class Plan(NamedTuple):
    """How the steps of a run differ from the optimiser's plain ones."""
    loss: str = "weighted_ce"
    schedule: str = "constant"
    warm_up: float = 0.0      # the share of the run over which the learning rate rises
    clip_norm: float = 0.0    # the largest norm of all gradients together; 0: any
    time_budget: float = 0.0  # seconds after which the run ends, a tenth of them for tests; 0: none

    def rate(self, done):
        """The learning rate, as a share of its highest, once the share `done` (0 ... 1) of the run is over.

        'cosine': Loshchilov and Hutter, "SGDR", ICLR 2017, eq. 5, without restarts.
        """
        falling = (1 + math.cos(math.pi * done)) / 2 if self.schedule == "cosine" else 1.0
        return falling * min(1.0, done / self.warm_up) if self.warm_up else falling


class LossGuard:
    """Tells a batch to learn from by its loss: finite, and after `warm_up` steps no outlier.

    An outlier is over 20 times the running median, and over twice the largest of the last accepted losses: where most
    images are empty, and soon cost next to nothing, those with objects are no outliers.  So the `window` of these losses
    holds every image: two epochs, but 10,000 losses at most, for their median is taken at each step.  A loss of 0, of pixels
    that nobody labelled, says nothing and is not among them.
    """

    def __init__(self, warm_up=20, factor=20.0, window=100):
        self.warm_up, self.factor = warm_up, factor
        self.accepted = deque(maxlen=window)

    def accepts(self, loss):
        good = math.isfinite(loss) and (len(self.accepted) < self.warm_up
                                        or loss <= self.factor * float(np.median(self.accepted))
                                        or loss <= 2 * max(self.accepted))
        if good and loss:
            self.accepted.append(loss)
        return good


class StopSignal:
    """Turns the first Ctrl-C or SIGTERM into `requested`, so that the running step ends whole; the second acts at once.

    With several ranks it is `received` until they all know it (`agree`), and stop after the same step.  They are asked by
    SIGUSR1, which mpirun passes on: one second after the other two it kills.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if Ranks.size > 1 else []))
    received = requested = None

    def __enter__(self):
        self.received, self.requested, self.before, self.process = None, None, {}, os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                self.before[number] = signal.signal(number, self._request)
        return self

    def _request(self, number, _frame):
        if os.getpid() != self.process:  # one that compiles for this one
            return
        self.received = number
        if Ranks.size == 1:
            self.requested = number
        print("\nStopping after this step; once more stops at once, without saving.", file=sys.stderr)
        for each in self.before:
            signal.signal(each, signal.default_int_handler)

    def agree(self, *numbers):
        """The means of numbers over all ranks; from now on a signal that any rank has received is requested of all."""
        *means, received = Ranks.agree(*numbers, self.received or 0)
        self.requested = self.requested or received or None
        return means

    def asked(self, ranks):
        """Whether so many ranks, all of which agree, or this one alone, should stop."""
        return bool(self.requested if ranks > 1 else self.received)

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)


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
        Ranks.begin(model)
        self.bad_in_a_row = self.good_in_a_row = 0
        self._begin_epoch(0)
        self.last_good, self.snapshot_due, self.went_back = None, True, False
        self.earlier_seconds, self.started = 0.0, Ranks.monotonic()
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
        return self.earlier_seconds + Ranks.monotonic() - self.started

    @seconds.setter
    def seconds(self, earlier):
        self.earlier_seconds, self.started = earlier, Ranks.monotonic()

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
        jt.set_seed(step_seed(self.loader.seed, self.epoch, self.step, Ranks.rank))  # of dropout, whatever was drawn before
        before = {name: var.detach() for name, var in self.statistics.items()}
        self.optimizer.lr = self.highest_rate * self.plan.rate(self.done())
        Ranks.begin_step(self.loader.images(self.step))
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

    def test(self, dataset, ranks=Ranks.size):
        """The predictions of a SegmentationSet, {name: Prediction}; None when asked to stop.

        ranks: how many call this, each for its share of the images (and get the predictions of all): all, or 1.
        """
        self.model.eval()
        predictions, times = {}, [Ranks.monotonic()]
        for start in tqdm(range(0, len(dataset), ranks), "testing", unit="image", leave=False, disable=None):
            index = start + Ranks.rank
            if index < len(dataset):
                predictions[dataset.name(index)] = self.predict(dataset, index)
            if ranks > 1:
                self.stop.agree()
            if self.stop.asked(ranks):
                return None
            times.append(Ranks.monotonic())
        first, *others = np.diff(times)
        self.test_seconds = float(min(first, np.median([first, *others])) + sum(others))  # the first one may have compiled
        if ranks > 1:
            every = {name: each for share in Ranks.gathered(predictions) for name, each in share.items()}
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
