"""A pool of worker processes that Ctrl-C and a kill end cleanly."""
import contextlib
import os
import signal
import threading
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from command.errors import DataError


def start_worker(parent):
    """Leave Ctrl-C to the parent process, and end with it should it be killed."""
    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def process_pool(workers):
    """A function like `map` that computes in `workers` processes, in order and only a few results ahead."""
    pool = ProcessPoolExecutor(workers, initializer=start_worker, initargs=(os.getpid(),))

    def ordered(function, tasks):
        waiting = deque()
        for task in tasks:
            waiting.append(pool.submit(function, task))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield ordered
    except BrokenProcessPool:
        raise DataError("a worker process was killed, probably for lack of memory; try --workers 1") from None
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C: waits only for the few copies that are being computed
