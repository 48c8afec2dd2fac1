"""What the stress tests share: seeds, moments, and what /proc tells of a running command."""
import os
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

SEED = 20  # of every random moment: a failure can be repeated
MB = 2 ** 20
PAGE = os.sysconf("SC_PAGE_SIZE")


def report(line):
    """Print a measured value."""
    print(f"    {line}", flush=True)


def memory(pid):
    """A process's resident memory, MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / MB


def children(pid):
    """The pids of a process's children."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def wait_until(condition, process, seconds=300):
    """Wait until `condition()` holds; fails where the process ends, or the time is over, before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode}: {process.stdout.read()}"
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.002)


def wait_for_line(process, beginning):
    """Read a command's output up to the first line of this beginning."""
    read = []
    for line in process.stdout:
        read.append(line)
        if line.startswith(beginning):
            return
    raise AssertionError(f"ended with {process.wait()}: {''.join(read)}")


def half_written(folder):
    """The files that a write has begun under `folder`."""
    return [path for path in folder.rglob(".*-*-*.part*")]


def slope(counts, values):
    """The slope of the line through (count, value), per 1000 counts."""
    return 1000 * np.polyfit(counts, values, 1)[0]
