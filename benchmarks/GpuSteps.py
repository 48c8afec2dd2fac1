"""Steps on a device: each is a process with a time limit, and leaves a record of how it ended.

A folder holds the records of all steps, gpu.json, and what they printed, gpu.log.  A step that has
passed on a card is not repeated on that card.
"""
import contextlib
import json
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Callable, NamedTuple

from command.files import atomic_write, parse_json

REPOSITORY = Path(__file__).resolve().parent.parent
PASSED, FAILED, CUT_OFF = "passed", "failed", "cut off"  # the states of a record


class DeviceStep(NamedTuple):
    """What is run, and how its result is read."""
    name: str        # of its record
    title: str       # for people
    command: list    # the words of a process, started in REPOSITORY
    limit: float     # seconds after which it is killed
    read: Callable   # a function: its output (a text) -> what JSON can hold


class Ended(NamedTuple):
    """How a process has ended."""
    code: int        # its exit code; None where it was killed at its limit
    output: str
    seconds: float


class Records:
    """The records of all steps in a folder: {name of a step: record}.

    A record (a dict) has the keys state (PASSED, FAILED, CUT_OFF), reason (a line where it has not
    passed), seconds, card, when, title, command, values (what DeviceStep.read returns; None where
    it could not).
    """

    def __init__(self, folder):
        self.folder = folder
        self.path, self.log = folder / "gpu.json", folder / "gpu.log"
        self.summary = folder / "summary.md"
        self.rows = parse_json(self.path.read_text("utf-8")) if self.path.exists() else {}

    def enter(self, name, record):
        self.rows[name] = record
        with atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps(self.rows, indent=1) + "\n", encoding="utf-8")

    def state(self, name, card):
        """The state of a step on a card; None where it was not run there."""
        record = self.rows.get(name, {})
        return record.get("state") if record.get("card") == card else None


def run_process(command, log, limit):
    """Run a process, and add what it prints to a file: an Ended.

    At its limit (seconds), and after an exception here, all that it has started is killed.
    """
    started = time.monotonic()
    with open(log, "ab+") as file:
        file.write(f"\n===== {time.strftime('%H:%M:%S')} {shlex.join(command)}\n".encode())
        file.flush()
        begin, code = file.tell(), None
        process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=file,
                                   stderr=subprocess.STDOUT, start_new_session=True)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(limit)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        file.seek(begin)
        return Ended(code, file.read().decode(errors="replace"), time.monotonic() - started)


def last_line(text):
    """The last line of a text that is not empty, or ""."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def json_line(output):
    """What the last line of an output says in JSON; ValueError where it says nothing."""
    return json.loads(last_line(output))


def run_step(step, log, limit, card):
    """Run a step for `limit` seconds at most: its record."""
    ended = run_process(step.command, log, limit)
    values, reason = None, ""
    with contextlib.suppress(ValueError, OSError):
        values = step.read(ended.output)
    state = PASSED
    if ended.code is None:
        state, reason = CUT_OFF, f"not done after {limit:.0f} s"
    elif ended.code or values is None:
        state, reason = FAILED, f"exit code {ended.code}: {last_line(ended.output)[:300]}"
    return {"state": state, "reason": reason, "seconds": round(ended.seconds, 1), "card": card,
            "when": time.strftime("%Y-%m-%d %H:%M"), "title": step.title,
            "command": shlex.join(step.command), "values": values}


def in_order(steps, records, card):
    """The steps that have not passed on this card.  Those that were tried before come last."""
    states = {step.name: records.state(step.name, card) for step in steps}
    waiting = [step for step in steps if states[step.name] != PASSED]
    return sorted(waiting, key=lambda step: states[step.name] is not None)


def run_in_time(step, records, card, deadline):
    """Run a step and enter its record, where half of its limit is left until the deadline."""
    left = deadline - time.monotonic()
    if left < step.limit / 2:
        print(f"{step.title}: waits for the next call, since {max(left, 0):.0f} s are left")
        return
    print(f"{step.title} ...", flush=True)
    record = run_step(step, records.log, min(step.limit, left), card)
    records.enter(step.name, record)
    print(f"{step.title}: {record['state']}, {record['seconds']:.0f} s  {record['reason']}",
          flush=True)
