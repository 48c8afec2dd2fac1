"""The import of Jittor itself: signals, the bar of a first compilation, errors in one line."""
import atexit
import contextlib
import os
import re
import signal
import sys
import threading
import time
import warnings
from importlib.machinery import PathFinder
from pathlib import Path

from tqdm import tqdm

from command.errors import DataError, say_stopped

PATIENCE = 20      # seconds of Jittor's import, after which a line is said
CORE_FILES = 157   # object files of Jittor's core
CUDA_FILES = 194   # the same with CUDA
RERUN = "UNET_JITTOR_RERUN"  # set once this process has started itself again
CAUSE = re.compile(r"[Ee]rror: |nvcc fatal|undefined symbol|cannot (find|open)|not found|what\(")


def import_raw(with_cuda):
    """Import Jittor and return it; its environment is prepared.  Raises DataError in one line."""
    try:
        with _own_handlers(), warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # Jittor's own, in Python 3.12
            import jittor_utils
            if with_cuda:  # Jittor would first see to its own bundle: download it, start again
                from jittor_utils import install_cuda
                install_cuda.has_installation = lambda: False
                sys.meta_path.insert(0, CoreOfCuda)
            with compile_progress(Path(jittor_utils.cache_path), with_cuda):
                import jittor
                import jittor.nn  # noqa: F401 - `jt.nn`
            _end_compile_pool(jittor_utils)
    except KeyboardInterrupt:
        raise
    except SystemExit:  # Jittor has compiled its own compiler's cache and asks to be run again
        if os.environ.get(RERUN):
            raise DataError("Jittor asks to be run again and again; remove ~/.cache/jittor and "
                            "try once more") from None
        os.environ[RERUN] = "1"
        start_again()
    except BaseException as error:  # noqa: BLE001 - its installer raises everything
        cause = first_cause(str(error)) or type(error).__name__
        raise DataError(f"Jittor does not start here: {cause}; "
                        "for its own log set log_silent=0 log_v=1") from None
    return jittor


class CoreOfCuda:
    """Finds Jittor's core in the last folder of sys.path that has one: that for CUDA.

    Jittor puts its folder for the CPU before it, so that a core that was compiled for the CPU would
    be imported instead.
    """

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "jittor_core":
            return PathFinder.find_spec(name, sys.path[::-1])
        return None


def start_again():
    """Replace this process by one with the same command line and today's environment variables."""
    _, *command, _ = Path("/proc/self/cmdline").read_bytes().decode().split("\0")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *command])


def jittor_cache():
    """The folder into which Jittor compiles here.  Its environment is prepared."""
    import jittor_utils
    return Path(jittor_utils.cache_path)


def first_cause(text, or_first=True):
    """The line of a long error message that says why: a compiler's, else the first; "" if none.

    Jittor's own first line is a command of several hundred characters.  or_first: whether the first
    line is taken where no line looks like an error.
    """
    text = re.sub(r"\x1b\[[0-9;]*[mK]", "", text)  # colours
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    causes = [line for line in lines if CAUSE.search(line)]
    if or_first:
        causes += lines[:1]
    return causes[0][:300] if causes else ""


@contextlib.contextmanager
def _own_handlers():
    """Keep this process's handlers after Jittor's import.

    During the import Ctrl-C and SIGTERM end the process at once: Jittor would swallow a
    KeyboardInterrupt and go on.  Nothing of ours is half-written then.
    """
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)}
    ours = importing = threading.current_thread() is threading.main_thread()

    def end_without_handlers():  # a compiling process: for it a handler in Python can come too late
        for number in (signal.SIGINT, signal.SIGTERM) if importing else ():
            signal.signal(number, signal.SIG_DFL)

    os.register_at_fork(after_in_child=end_without_handlers)
    for number in (signal.SIGINT, signal.SIGTERM) if ours else ():
        signal.signal(number, lambda *_: os._exit(say_stopped()))
    try:
        yield
    finally:
        importing = False
        for number, handler in handlers.items() if ours else ():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _end_compile_pool(jittor_utils):
    """End the processes that compiled.

    Idle, they would get a later Ctrl-C too, and keep the program from ending.
    """
    if getattr(jittor_utils, "pool_size", 0):
        atexit.unregister(jittor_utils.pool_cleanup)
        jittor_utils.pool_cleanup()
        jittor_utils.pool_size = 0  # Jittor makes a new one when it has to


@contextlib.contextmanager
def compile_progress(cache, with_cuda):
    """Announce the compilation of Jittor's core and count its object files; else a long wait."""
    if is_compiled(cache, with_cuda):
        waits = threading.Timer(PATIENCE, _say_wait)
        waits.daemon = True
        waits.start()
        try:
            yield
        finally:
            waits.cancel()
        return
    print("Compiling Jittor's core: about 5 minutes on 2 cores, once for this environment.",
          file=sys.stderr, flush=True)
    with counted_files(cache, CUDA_FILES if with_cuda else CORE_FILES):
        yield


def is_compiled(cache, with_cuda):
    """Whether Jittor's core is in the cache."""
    return any(cache.glob("cu*/jittor_core*.so" if with_cuda else "jittor_core*.so"))


@contextlib.contextmanager
def counted_files(cache, total):
    """`with counted_files(cache, total):` a bar counts the object files that come into a folder."""
    done = threading.Event()
    thread = threading.Thread(target=_count_object_files, args=(cache, total, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(5)


def _say_wait():
    print("Jittor takes long to start: another process compiles, perhaps, and this one waits for "
          "it.", file=sys.stderr, flush=True)


def _count_object_files(cache, total, done):
    """A progress bar over the object files that are newer than now, until the Event `done`."""
    form = "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} files [{elapsed}<{remaining}]"
    every = 2 if sys.stderr.isatty() else 20
    with tqdm(total=total, desc="compiling", bar_format=form, mininterval=every) as bar:
        started = time.time()
        while not done.wait(1):
            fresh = sum(path.stat().st_mtime >= started - 2
                        for path in cache.rglob("obj_files/*.o"))
            bar.total = max(total, fresh)
            bar.update(fresh - bar.n)
