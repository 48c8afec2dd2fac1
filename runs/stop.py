"""Ctrl-C between two steps."""
import os
import signal
import sys
import threading

from backend import ranks


class StopSignal:
    """Turns the first Ctrl-C or SIGTERM into `requested`, so that the running step ends whole; the second acts at once.

    With several ranks it is `received` until they all know it (`agree`), and stop after the same step.  They are asked by
    SIGUSR1, which mpirun passes on: one second after the other two it kills.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if ranks.size() > 1 else []))
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
        if ranks.size() == 1:
            self.requested = number
        print("\nStopping after this step; once more stops at once, without saving.", file=sys.stderr)
        for each in self.before:
            signal.signal(each, signal.default_int_handler)

    def agree(self, *numbers):
        """The means of numbers over all ranks; from now on a signal that any rank has received is requested of all."""
        *means, received = ranks.agree(*numbers, self.received or 0)
        self.requested = self.requested or received or None
        return means

    def asked(self, ranks):
        """Whether so many ranks, all of which agree, or this one alone, should stop."""
        return bool(self.requested if ranks > 1 else self.received)

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)
