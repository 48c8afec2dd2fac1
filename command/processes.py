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
    """What a worker process does first: it leaves Ctrl-C to its parent and ends when that ends.

    parent: the number of the parent process.
    """
    def watch_parent():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch_parent, daemon=True).start()


@contextlib.contextmanager
def process_pool(workers):
    """`with process_pool(workers) as pool_map:` gives a function like `map`.

    It computes in `workers` processes and yields the results in the order of the tasks.  At most
    2 * workers tasks are ahead of the last result that was yielded: results do not fill the memory.
    Raises DataError where a worker is killed.
    """
    pool = ProcessPoolExecutor(workers, initializer=start_worker, initargs=(os.getpid(),))

    def pool_map(function, tasks):
        waiting = deque()
        for task in tasks:
            waiting.append(pool.submit(function, task))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield pool_map
    except BrokenProcessPool:
        raise DataError("a worker process was killed, probably for lack of memory; "
                        "try --workers 1") from None
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C it waits for the running tasks alone
