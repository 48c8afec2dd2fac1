"""The progress of what takes long: a bar in a terminal, now and then a line in a file."""
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

WORKERS = min(4, os.cpu_count() or 1)  # threads that read files
IN_A_TERMINAL = 1.0  # seconds without a bar: what is over sooner needs none
IN_A_FILE = 60.0     # seconds between two lines, where nobody watches


def progress_bar(*args, **options):
    """`tqdm(*args, **options)`, which vanishes at its end and is not shown for what is short."""
    every = {"delay": IN_A_TERMINAL}
    if not sys.stderr.isatty():
        every = {"delay": IN_A_FILE, "mininterval": IN_A_FILE, "maxinterval": IN_A_FILE}
    return tqdm(*args, **{"leave": False, **every, **options})


def map_in_threads(function, items, words, **options):
    """Yield `function(item)` of each item of a list, in order, with progress under these `words`.

    Threads compute it.  After an error, or where nobody wants more, no further item is begun.
    options: of `tqdm`.
    """
    pool = ThreadPoolExecutor(WORKERS)
    try:
        yield from progress_bar(pool.map(function, items), words, len(items), **options)
    finally:
        pool.shutdown(cancel_futures=True)


def say_beside_bars(line):
    """Print a line to stderr; bars that are shown there move below it."""
    if sys.stderr.isatty():
        tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr)
