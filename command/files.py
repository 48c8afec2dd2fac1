"""Files that are written whole or not at all, folders that one process writes into at a time."""
import contextlib
import fcntl
import json
import os
import threading
from pathlib import Path

from command.errors import DataError


def parse_json(text):
    """`json.loads(text)`; a ValueError for whatever it cannot take, lists in lists without end among it."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


@contextlib.contextmanager
def atomic_write(path):
    """`with atomic_write(path) as temporary:` write there; on success it replaces `path` whole, on error it vanishes.

    The temporary file lies hidden beside `path`, keeps its suffix, and is on disk (fsync) before it takes the name.
    """
    path = Path(path)
    # a name that is known before the file exists: a Ctrl-C at any moment leaves nothing behind
    temporary = path.with_name(f".{path.stem[:40]}-{os.getpid()}-{threading.get_ident():x}.part{path.suffix}")
    try:
        temporary.touch()
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def lock_folder(path):
    """`with lock_folder(path):` no other process that locks it may write there; DataError where one does already.

    The lock ends with the process, however that ends.  What writes that were cut off have left behind is removed.
    """
    def itself(name, flags):  # a link would lead to another's file
        return os.open(name, flags | os.O_NOFOLLOW, 0o666)

    with open(Path(path) / ".lock", "a+", opener=itself) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise DataError(f"{path}: process {file.read().strip() or 'of somebody'} writes here already; "
                            "wait for its end, or choose another folder") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        for left in Path(path).glob(".*-*-*.part*"):
            left.unlink()
        yield


def make_folder(path):
    """Create a folder (and its parents) if it is not there; a DataError where that cannot be."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path}: cannot make this folder ({error.strerror}); choose another") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise DataError(f"{path}: this folder is not writable; choose another")
    return path
