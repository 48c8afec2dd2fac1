"""How a command ends: in one line with an exit code, never with a traceback for a mistake.

A command's last line is `sys.exit(run(main))`.  A mistake in a flag ends it with exit code 2, a
mistake in the data with exit code 1, each with one line on stderr.
"""
import io
import os
import signal
import sys
import threading
import traceback
from functools import lru_cache
from pathlib import Path


class DataError(Exception):
    """Something that the user gave is not usable.

    The message is one line that names the file and says what to do.
    """


# A pool ends its workers by SIGTERM.  A handler in Python, which they would inherit, can come too
# late: where the signal arrives just before a worker begins to wait for work, the handler waits
# with it, for ever.  Python itself drops what arrives before a worker's first line.  So the signal
# is held back until the worker has no handler.
def begin_worker():
    """Let SIGTERM end this process, which was forked just now."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


os.register_at_fork(
    before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}),
    after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM}),
    after_in_child=begin_worker)


def mute_output():
    """Send standard output to nowhere: whoever read it, `| head` perhaps, has left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say_line(text):
    """Print a line at once.  Where whoever read it has left, that is no reason to stop."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        mute_output()


def say_stopped():
    """Say that Ctrl-C or SIGTERM ends this command; returns its exit code."""
    print(f"\n{Path(sys.argv[0]).name}: stopped", file=sys.stderr, flush=True)
    return 130


SAYING = threading.Lock()  # threads that read the files of a folder find the same things odd


def say_once(text):
    """Print a remark to stderr the first time that it is made, by whatever thread."""
    with SAYING:
        say_first_time(text)


@lru_cache(maxsize=None)
def say_first_time(text):
    """Print a remark to stderr, unless this was called with it before; for one thread at a time."""
    print(text, file=sys.stderr)


def describe_failure(error, path, folder=None):
    """What an exception says about one file of many, in one line that begins with its path.

    folder: what to name where an error of the disk names no file.  What is a fault of the program
    is told with its type and its place, for whoever mends it.
    """
    if isinstance(error, DataError):
        text = str(error)
    elif isinstance(error, OSError):
        where = str(error.filename or folder or path)
        text = ("" if where == str(path) else f"{where}: ") + (error.strerror or str(error))
    else:
        *_, last = traceback.extract_tb(error.__traceback__)
        text = (f"not expected: {type(error).__name__}: {error} "
                f"({Path(last.filename).name}, line {last.lineno})")
    if not (isinstance(error, DataError) and text.startswith(str(path))):
        text = f"{path}: {text}"
    return " ".join(text.split())


def run(main):
    """Call `main()` as a command; returns the exit code and prints an error in one line."""
    command = Path(sys.argv[0]).name
    # SIGTERM ends a command as Ctrl-C does: nothing half-written stays behind
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a name that the terminal cannot show is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    try:
        return main() or 0
    except DataError as error:
        print(f"{command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        mute_output()
        return 1
    except KeyboardInterrupt:
        return say_stopped()
    except OSError as error:
        advice = "; check its permissions" if isinstance(error, PermissionError) else ""
        print(f"{command}: error: {error.filename or 'file'}: {error.strerror or error}{advice}",
              file=sys.stderr)
        return 1
