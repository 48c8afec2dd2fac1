"""Ctrl-C and SIGTERM between two steps: the running step ends whole."""
import os
import signal
import sys
import threading

from backend import ranks


class StopSignal:
    """Turns the first Ctrl-C or SIGTERM into `requested`; the second acts at once.

    With several ranks it is `received` until they all know it (`agree`): they stop after the same
    step.  They are asked by SIGUSR1, which mpirun passes on.  Ctrl-C and SIGTERM let mpirun kill
    them one second later.

    clock: the clock.Clock by which the ranks agree.
    """
    received = requested = None

    def __init__(self, clock):
        self.clock = clock

    def __enter__(self):
        self.received, self.requested, self.before = None, None, {}
        self.process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in self._signals():
                self.before[number] = signal.signal(number, self._request)
        return self

    def _signals(self):
        numbers = [signal.SIGINT, signal.SIGTERM]
        return numbers if ranks.size() == 1 else [*numbers, signal.SIGUSR1]

    def _request(self, number, _frame):
        if os.getpid() != self.process:  # one that compiles for this one
            return
        self.received = number
        if ranks.size() == 1:
            self.requested = number
        print("\nStopping after this step; once more stops at once, without saving.",
              file=sys.stderr)
        for each in self.before:
            signal.signal(each, signal.default_int_handler)

    def agree(self, *numbers):
        """The means of numbers over all ranks.

        From now on a signal that any rank has received is requested of all.
        """
        *means, received = self.clock.agree(*numbers, self.received or 0)
        self.requested = self.requested or received or None
        return means

    def asked(self, together):
        """Whether to stop: all ranks, where they work `together`, or this one alone."""
        return bool(self.requested if together else self.received)

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)
