"""The time of a run: how long it has taken, what its budget leaves, how long it will take."""
import math
import statistics
import time

from backend import ranks


class Clock:
    """Seconds; with several ranks as they were when these last agreed, the same for all."""

    def __init__(self):
        self.agreed = 0.0
        self.agree()

    def agree(self, *numbers):
        """The means of numbers over all ranks, a list; brings `now` up to date.

        All ranks have to call it.
        """
        *means, self.agreed = ranks.means(*numbers, time.monotonic())
        return means

    def now(self):
        return self.agreed if ranks.size() > 1 else time.monotonic()


class RunClock:
    """How long a run has taken, parts before it was resumed among them, and what is left.

    budget: seconds after which the run ends, a tenth of them for tests; 0: none.  progress: the
    runs.progress.Progress of the run, which knows how long tests have taken.
    """
    SHARE_OF_TESTS = 0.1

    def __init__(self, budget, progress):
        self.budget, self.progress, self.clock = budget, progress, Clock()
        self.earlier, self.started = 0.0, self.clock.now()

    @property
    def seconds(self):
        """How long this run has taken."""
        return self.earlier + self.clock.now() - self.started

    def go_on_after(self, seconds):
        """Count from `seconds` on: a run that is resumed."""
        self.earlier, self.started = seconds, self.clock.now()

    @property
    def seconds_left(self):
        """Of the budget; infinite without one."""
        return max(0.0, self.budget - self.seconds) if self.budget else math.inf

    @property
    def out_of_time(self):
        """Whether the time that is left is just enough for a test."""
        return 0 < self.budget <= self.seconds + self.progress.test_seconds

    @property
    def affords_test(self):
        """Whether tests, this one among them, have their share of the time at most."""
        tests = self.progress.all_test_seconds + self.progress.test_seconds
        return not self.budget or tests <= self.SHARE_OF_TESTS * self.seconds

    @property
    def share_done(self):
        """The share of the budget that is over, 0 ... 1 and beyond; 0 without a budget."""
        over = self.seconds + self.progress.test_seconds
        return over / self.budget if self.budget else 0.0


class Forecast:
    """Says once, after the first steps, what the run will take, where that is worth a line."""
    STEPS = 4          # timed before it speaks; the first one has compiled
    LONG = 2 * 3600.0  # seconds; a longer run is worth a line

    def __init__(self, settings, steps_per_epoch):
        self.settings, self.steps_per_epoch = settings, steps_per_epoch
        self.durations = []  # seconds of the first steps

    def add_step(self, seconds, progress, elapsed=0.0):
        """The lines to say after a step that took so long.

        progress: runs.progress.Progress, at the next step.  elapsed: seconds of the run until now.
        """
        if len(self.durations) > self.STEPS:
            return []
        self.durations.append(seconds)
        if len(self.durations) <= self.STEPS:
            return []
        return list(self._lines(statistics.median(self.durations[1:]), progress, elapsed))

    def _lines(self, each, progress, elapsed):
        settings, epochs = self.settings, self.settings.Total_epochs
        done = progress.epoch * self.steps_per_epoch + progress.step
        whole = each * (epochs * self.steps_per_epoch - done)
        if not settings.budget:
            if whole > self.LONG:
                faster = "" if settings.protocol == "fast" else "--protocol fast takes minutes, "
                yield (f"At {each:.2g} s a step this run takes about {whole / 3600:.0f} hours on "
                       f"this machine: {faster}--Time_budget MINUTES ends it")
            return
        first_test = each * (settings.Val_epochs * self.steps_per_epoch - done)
        if settings.Val_epochs and first_test > settings.budget - elapsed:
            yield (f"At {each:.2g} s a step --Time_budget {settings.Time_budget:g} ends before "
                   f"epoch --Val_epochs {settings.Val_epochs}: only the last epoch is tested")
