"""The table of a comparison, as lines of text."""
import math

OWN = 10  # times PyTorch's own distance from itself that still count as rounding


class DistanceTable:
    """How far the two sides are apart, beside how far PyTorch is from itself ("PyTorch alone").

    Each line is printed when it is added.  `sound` is True while every judged number is as small
    as wanted, or at most `times` times as large as PyTorch's own.  is_judged: False: every number
    that is finite is small enough.
    """

    def __init__(self, title, is_judged=True):
        self.lines, self.sound, self.is_judged = [], True, is_judged
        self.say(title)

    def say(self, line):
        """Add a line as it is."""
        self.lines.append(line)
        print(line, flush=True)

    def section(self, title, alone="-"):
        """Begin a section; `alone` says what PyTorch's own distance is measured from."""
        self.say("")
        self.say(title)
        self.say(f"  {'':<78}{'Jittor - PyTorch':>17}{'PyTorch alone':>15}{'wanted':>8}")
        self.say(f"  {'':<78}{'':>17}{alone:>15}")

    def add(self, what, measured, own=None, wanted=0.0, times=OWN, judged=True):
        """Add a number, PyTorch's own number (None: there is none) and the wanted limit."""
        most = max(wanted, times * (own or 0)) if self.is_judged else math.inf
        good = not judged or math.isfinite(measured) and measured <= most
        self.sound &= good
        alone = "-" if own is None else f"{own:.1e}"
        limit = f"{wanted:.0e}" if wanted else ""
        verdict = "" if good else "  TOO FAR"
        self.say(f"  {what:<78}{measured:>17.1e}{alone:>15}{limit:>8}{verdict}")
