"""Files that are written whole or not at all; folders that one process at a time writes into."""
import contextlib
import fcntl
import json
import os
import threading
from pathlib import Path

from command.errors import DataError


def parse_json(text):
    """`json.loads(text)`; ValueError for whatever it cannot take, endless nesting included."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


@contextlib.contextmanager
def atomic_write(path):
    """`with atomic_write(path) as temporary:` write there.

    On success the temporary file replaces `path` whole, on error it vanishes.  It lies hidden
    beside `path`, keeps its suffix, and is on disk (fsync) before it takes the name.
    """
    path = Path(path)
    # a name that is known before the file exists: a Ctrl-C at any moment leaves nothing behind
    writer = f"{os.getpid()}-{threading.get_ident():x}"
    temporary = path.with_name(f".{path.stem[:40]}-{writer}.part{path.suffix}")
    try:
        temporary.touch()
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def open_lock(folder):
    """The open file `.lock` of a folder; a lock on it ends with it."""
    def open_itself(name, flags):  # a link would lead to another's file
        return os.open(name, flags | os.O_NOFOLLOW, 0o666)
    return open(Path(folder) / ".lock", "a+", opener=open_itself)


@contextlib.contextmanager
def lock_folder(path):
    """`with lock_folder(path):` no other process that locks it may write there.

    The lock ends with the process, however that ends.  What writes that were cut off have left
    behind is removed.  Raises DataError where a process has the lock already.
    """
    with open_lock(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "of somebody"
            raise DataError(f"{path}: process {owner} writes here already; "
                            "wait for its end, or choose another folder") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        for left in Path(path).glob(".*-*-*.part*"):
            left.unlink()
        yield


@contextlib.contextmanager
def take_turns(path):
    """`with take_turns(path):` other processes that do so wait until this one is done there.

    Where the file system knows no locks, nobody waits.
    """
    folder = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def make_folder(path):
    """Create a folder (and its parents) if it is not there; DataError where that cannot be."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path}: cannot make this folder ({error.strerror}); "
                        "choose another") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise DataError(f"{path}: this folder is not writable; choose another")
    return path
