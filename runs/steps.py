"""When a training step learns its loss, and what follows from a bad one: two rules.

`WaitingSteps`: the host waits for the loss, and then updates or skips.  `LateSteps`: the device
decides by a limit that the host has sent along.  The host reads the loss while the next step runs.
Both have the methods of `Steps`.
"""
import math
from contextlib import contextmanager
from typing import Callable, NamedTuple

from backend.device_optimizer import DeviceOptimizer
from backend.late_statistics import statistics_later
from backend.updates import Limits, Reading
from runs.guard import TrainingFailed
from runs.progress import ACCEPTED, REFUSED, SETTLED


class Steps:
    """What both rules share: they count batches, and after bad ones they go back.

    state: backend.state.TrainingState.  progress: runs.progress.Progress.  guard: LossGuard.
    clip_norm: longer gradients are cut to this; 0: none is.  recorder: as in Process.Trainer.

        with steps.forward():
            loss = ...             # a Var of one value
        number = steps.take(loss)  # the last loss that is known and was good, or None
        steps.settle()             # at the end of an epoch: nothing is left to be read
    """
    BAD_IN_A_ROW = 3  # after so many skipped batches the run goes back to the last good state
    RECOVERED = 20    # after so many accepted batches in a row, going back has helped

    def __init__(self, state, progress, guard, clip_norm, recorder):
        self.state, self.optimizer = state, state.optimizer
        self.progress, self.guard, self.clip_norm = progress, guard, clip_norm
        self.recorder = recorder
        self.last_good, self.snapshot_due = None, True

    def begin_epoch(self):
        """From now on, the state that the next accepted loss proves is the last good one."""
        self.snapshot_due = True

    def settle(self):
        """Read what is left to be read."""

    def store(self, progress):
        """Note in a Progress what the next step depends on."""
        progress.accepted, progress.n_step = list(self.guard.accepted), self.optimizer.n_step
        progress.pending, progress.pending_loss = SETTLED, 0.0

    def resume(self, progress):
        """Go on from a stored Progress.  The state must be set before."""
        self.guard.accepted.extend(progress.accepted)
        self.optimizer.n_step = progress.n_step
        self.last_good = self.state.snapshot(progress.n_step)

    def _judge(self, reading):
        """Count a batch of which the device has decided; returns its loss, None if skipped."""
        if not reading.accepted:
            return self._skip(reading.loss)
        self.guard.remember(reading.loss)
        return self._count(reading.loss)

    def _count(self, loss):
        now = self.progress
        now.losses.append(loss)
        now.bad_in_a_row, now.good_in_a_row = 0, now.good_in_a_row + 1
        now.went_back = now.went_back and now.good_in_a_row < self.RECOVERED
        return loss

    def _skip(self, loss):
        """Count a batch that was skipped.  After several in a row go back."""
        now = self.progress
        now.skipped += 1
        now.bad_in_a_row, now.good_in_a_row = now.bad_in_a_row + 1, 0
        if now.bad_in_a_row >= self.BAD_IN_A_ROW:
            self._go_back(loss)

    def _go_back(self, loss):
        """Go back to the last good state.  Where that does not help, stop."""
        now = self.progress
        if self.last_good is not None:
            self.state.restore(self.last_good)
        if self.last_good is None or now.went_back:
            raise TrainingFailed(f"epoch {now.epoch}: the loss stays at {loss:g}, from the last "
                                 "good state too; lower --Learning_rate, or look for damaged "
                                 "images")
        self.recorder.say(f"epoch {now.epoch}: {now.bad_in_a_row} bad batches in a row "
                          f"(loss {loss:g}): back to the last good state")
        now.bad_in_a_row, now.went_back = 0, True


# ---------------------------------------------------------------------------------------- waiting
class WaitingSteps(Steps):
    """The rule of a CPU, and of several ranks: wait for the loss, then update or skip.

    agree: runs.stop.StopSignal.agree.
    """

    def __init__(self, agree, *shared):
        super().__init__(*shared)
        self.agree, self.before = agree, None

    @contextmanager
    def forward(self):
        self.before = self.state.keep_statistics()
        yield

    def take(self, loss):
        optimizer = self.optimizer
        optimizer.zero_grad()
        optimizer.backward(loss)
        value, = self.agree(float(loss.item()))  # only here the step waits for the device
        if not self.guard.accepts(value):
            self.state.put_back(self.before)  # the forward pass has already changed them
            optimizer.zero_grad()
            optimizer.n_step -= 1  # Jittor counts backward passes; Adam's correction needs steps
            return self._skip(value)
        if self.snapshot_due:  # an accepted loss proves the state before this step
            self.last_good = self.state.snapshot(optimizer.n_step - 1, self.before)
            self.snapshot_due = False
        if self.clip_norm:
            optimizer.clip_grad_norm(self.clip_norm)
        optimizer.step()
        return self._count(value)

    def resume(self, progress):
        super().resume(progress)
        for reading in pending_readings(progress):  # the run was on a GPU
            self._judge(reading)


# ------------------------------------------------------------------------------------------- late
class Flight(NamedTuple):
    """A step whose loss the host has not judged."""
    read: Callable       # () -> its Reading; waits for it
    before: object       # the state before it or before an earlier one, which its loss may prove


class LateSteps(Steps):
    """The rule of a GPU: the device decides, and the host reads a loss while the next step runs.

    So a limit knows the losses of all steps but the last one.
    """

    def __init__(self, *shared):
        super().__init__(*shared)
        self.flight, self.candidate, self.batches = None, None, None

    @contextmanager
    def forward(self):
        with statistics_later() as self.batches:
            yield

    def take(self, loss):
        if self.snapshot_due:
            if self.flight:
                self.flight.read()  # then the optimiser knows its number of steps
            self.candidate = self.state.snapshot(self.optimizer.n_step)
            self.snapshot_due = False
        limits = Limits(self.guard.limit(), self.clip_norm)
        verdict = self.optimizer.step(loss, limits, self.batches)
        before, self.batches = self.flight, None
        self.flight = Flight(lambda: self.optimizer.read(verdict), self.candidate)
        return self._land(before) if before else None

    def settle(self):
        before, self.flight = self.flight, None
        if before:
            self._land(before)

    def _land(self, flight):
        """Judge a step by its loss."""
        reading = flight.read()
        if reading.accepted and self.candidate is not None and flight.before is self.candidate:
            self.last_good, self.candidate = self.candidate, None
        return self._judge(reading)

    def _go_back(self, loss):
        if self.flight:  # with the rest, its update is undone
            self.progress.skipped += 1
            self.flight = None
        if self.last_good is None:
            self.state.restore(self.candidate)
        self.candidate, self.snapshot_due = None, True
        super()._go_back(loss)

    def store(self, progress):
        super().store(progress)
        if self.flight:
            reading = self.flight.read()
            progress.n_step = reading.steps
            progress.pending = ACCEPTED if reading.accepted else REFUSED
            progress.pending_loss = reading.loss if math.isfinite(reading.loss) else -1.0

    def resume(self, progress):
        super().resume(progress)
        for reading in pending_readings(progress):
            self.flight = Flight(lambda: reading, None)


def pending_readings(progress):
    """The Reading of the step that a stored Progress has not judged, in a list; or an empty one."""
    if not progress.pending:
        return []
    accepted = progress.pending == ACCEPTED
    loss = progress.pending_loss if accepted or progress.pending_loss >= 0 else math.nan
    return [Reading(loss, accepted, progress.n_step)]


def choose_steps(agree, state, *others):
    """The Steps that suit a state's optimiser.

    agree: of runs.stop.StopSignal.  others: the other parameters of Steps.
    """
    if isinstance(state.optimizer, DeviceOptimizer):
        return LateSteps(state, *others)
    return WaitingSteps(agree, state, *others)
