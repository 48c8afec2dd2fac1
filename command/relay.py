"""Child processes that a signal to this process reaches."""
import contextlib
import signal
import subprocess

PASSED_ON = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


class SignalRelay:
    """Runs one child process after the other and passes Ctrl-C and SIGTERM on to it.

        with SignalRelay() as relay:
            code = relay.call(words)

    A child is a process group of its own: a terminal's Ctrl-C reaches this process alone, and the
    child gets it once.  A second one would stop it without saving.
    received: whether there was a signal; a child that starts after it gets it too.
    """

    def __enter__(self):
        self.received, self.waiting, self.child = False, [], None
        # under nohup the end of a terminal is ignored, and stays so
        self.before = {number: signal.signal(number, self._receive) for number in PASSED_ON
                       if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN}
        return self

    def _receive(self, number, _frame):
        self.received = True
        self.waiting.append(number)
        self._pass_on()

    def _pass_on(self):
        with contextlib.suppress(IndexError):  # none is left: a signal may come at any line
            while self.child:
                self.child.send_signal(self.waiting.pop(0))

    def call(self, words):
        """Run a command, given by its words; returns its exit code.

        It is below 0 where a signal ended the command.
        """
        child = subprocess.Popen(words, process_group=0)
        self.child = child
        self._pass_on()
        code = child.wait()
        self.child = None
        return code

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)
