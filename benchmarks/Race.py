"""Contenders in turns (A B C A B C ...), each in a process of its own (`Worker.py`)."""
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from Contenders import CONTENDERS, GPU_CONTENDERS, RACE_KINDS

NAMES = {**GPU_CONTENDERS, **{name: row.title for name, row in CONTENDERS.items()}}


# computes until its parent, whose number is its argument, ends it or ends
BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): sum(range(10 ** 6))"


class WorkerFailed(Exception):
    """A worker cannot go on; the message says why in one line."""


class WorkerProcess:
    """`with WorkerProcess(contender="ours", ...) as worker:` a contender's process.

    It lives until the end of the block.  It has a process group of its own, so a Ctrl-C reaches
    the calling process alone, which then ends the worker with all that this has started.
    """

    def __init__(self, scratch, **task):
        self.started = time.perf_counter()
        answers, theirs = os.pipe()
        command = [sys.executable, str(Path(__file__).with_name("Worker.py")),
                   json.dumps({"answers": theirs, "scratch": str(scratch), **task})]
        # what PyTorch compiles, it compiles here and now, and leaves nothing behind
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(scratch),
                       "TORCHINDUCTOR_COMPILE_THREADS": str(os.cpu_count())}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=2, text=True, pass_fds=(theirs,),
            start_new_session=True, env=environment)
        os.close(theirs)
        self.answers = os.fdopen(answers)
        self.read_answer()
        self.import_s = self.age()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.answers.close()

    def age(self):
        """Seconds since the process was started."""
        return time.perf_counter() - self.started

    def ask(self, command):
        """Send a command; return the worker's answer, a dict.

        Raises WorkerFailed; the worker is gone then.
        """
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        return self.read_answer()

    def read_answer(self):
        """Wait for the worker's next answer, a dict; raises WorkerFailed."""
        try:
            line = self.answers.readline()
        except BaseException:  # Ctrl-C before the `with` is entered
            self.__exit__()
            raise
        answer = json.loads(line) if line else {"error": self.describe_end()}
        if "error" in answer:
            self.__exit__()
            raise WorkerFailed(answer["error"])
        return answer

    def describe_end(self):
        """How the process ended, as a text."""
        code = self.process.wait()
        if code < 0:
            return f"ended by {signal.Signals(-code).name}, probably for lack of memory"
        return f"ended with exit code {code}"


@contextlib.contextmanager
def busy_processes(count):
    """`with busy_processes(count):` so many other processes compute all the time."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            command = [sys.executable, "-c", BUSY, str(os.getpid())]
            process = stack.enter_context(subprocess.Popen(command))
            stack.callback(process.kill)
        yield


def race(kind, contenders, repeats, beside=0, **task):
    """Run contenders in turns, `repeats` times after a first turn; returns a list of rows (dicts).

    beside: the number of busy processes that they run beside.  task: what the workers need:
    scratch, mode, pair, side (px), batch, base_channels.
    """
    rows = make_rows(kind, contenders, **task)
    for row in rows:
        row["beside"] = beside
    with busy_processes(beside), contextlib.ExitStack() as stack:
        workers = {}

        def worker_of(name):
            if name not in workers:
                workers[name] = stack.enter_context(WorkerProcess(contender=name, **task))
            return workers[name]

        for turn in range(repeats + 1):
            for row in rows:
                take_turn(row, turn, repeats, worker_of)
    add_medians(rows)
    return rows


def make_rows(kind, contenders, **task):
    """A row (a dict) for each contender; `take_turn` enters the results.

    A row has the task's mode, side, batch and base_channels, the kind and the contender, and:

        import_s, start_s  seconds from the start of the process to the end of the framework's
                           import, and to the end of its first step
        first_s            seconds of the first step
        seconds, median_s  of the later steps, and their median; None where the worker failed
        losses             of all steps
        peak_bytes         the largest memory of the process so far
        failed             why the worker failed; only where it did

    Those of `race` also have beside: the number of busy processes beside them.
    """
    known = {key: task[key] for key in ("mode", "side", "batch", "base_channels")}
    return [{**known, "kind": kind, "contender": name, "seconds": [], "losses": []}
            for name in contenders]


def take_turn(row, turn, repeats, worker_of):
    """Have a contender take one turn, and enter its answer; where its worker fails, the reason.

    turn: 0 is the first step.  worker_of: a function from a contender's name to its worker.
    """
    if "failed" in row:
        return
    try:
        worker = worker_of(row["contender"])
        enter_answer(row, worker, worker.ask(row["kind"]), turn)
    except WorkerFailed as failure:
        row["failed"] = str(failure)
    print_turn(row, turn, repeats)


def add_medians(rows):
    """Add median_s to rows that have all their turns."""
    for row in rows:
        row["median_s"] = None
        if row["seconds"] and "failed" not in row:
            row["median_s"] = statistics.median(row["seconds"])


def enter_answer(row, worker, answer, turn):
    """Enter a worker's answer into its row; turn: 0 is the first step."""
    if turn == 0:
        row.update(import_s=worker.import_s, first_s=answer["seconds"], start_s=worker.age())
    else:
        row["seconds"].append(answer["seconds"])
    row["losses"].append(answer.get("loss"))
    row["peak_bytes"] = answer["peak_bytes"]


def print_turn(row, turn, repeats):
    """Print how a contender's turn has ended, on standard error."""
    if "failed" in row:
        result = row["failed"]
    else:
        result = f"{(row['seconds'] or [row['first_s']])[-1]:.4f} s"
    which = f"turn {turn} of {repeats}" if turn else "first step"
    print(f"{row['mode']}, {RACE_KINDS[row['kind']]}, {row['side']} px, batch {row['batch']}, "
          f"{which}, {NAMES[row['contender']]}: {result}", file=sys.stderr, flush=True)
