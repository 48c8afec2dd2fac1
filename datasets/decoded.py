"""Decoded images and labels on disk, so that a crop of a large image reads its own pixels alone.

Each is an uncompressed .npy file in `<Datatxt_directory>/decoded/`, which is memory-mapped.  Its
name is a digest of the file's content and of how that was read: what has changed has another name.
It is written whole or not at all.  What does not fit is decoded again for each crop.

A process that uses the folder holds a shared lock on it until it ends, however it ends.  At its
start it removes the files that are none of its own, but only where no other process has the lock.
"""
import fcntl
import hashlib
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np

from command.bars import map_in_threads
from command.files import atomic_write, open_lock
from images.reading import read_image, read_label
from images.windows import open_array

WORTH_KEEPING = 8       # crops' areas: of a larger image a crop is read at least 3 times as fast
                        # as the image is decoded (measured: 1.6 times at 4, 3 at 9, 90 at 244)
DECODED_VERSION = 1     # part of the names: raise it when reading a file gives other values
GIGABYTE = 10 ** 9      # bytes
SPARE = GIGABYTE        # bytes that stay free on the disk, for checkpoints and results
HEADER = 128            # bytes before the values in an .npy file
DISK_IS_FULL = "the disk is full"
SLOW = "each of their crops decodes the whole file, which is slow"


class DecodingTask(NamedTuple):
    """A file to decode."""
    path: Path
    name: str       # of its decoded file
    size: int       # bytes of that
    read: Callable  # a function without arguments that decodes it: an array


def decoding_tasks(survey, pairs, n_channels):
    """The DecodingTasks of [(image path, label path)], with images as `read_image` gives them."""
    tasks = []
    for image, label in pairs:
        facts, label_facts = survey.image(image), survey.label(label)
        pixels = facts.height * facts.width
        size = HEADER + pixels * n_channels * np.dtype(facts.dtype).itemsize
        name = _name_of(f"image of {n_channels} channels", image, facts.content)
        tasks.append(DecodingTask(image, name, size, lambda path=image: read_image(
            path, n_channels)))
        dtype = np.min_scalar_type(max(label_facts.values))  # the smallest that holds all values
        tasks.append(DecodingTask(
            label, _name_of("label", label, label_facts.content), HEADER + pixels * dtype.itemsize,
            lambda path=label, dtype=dtype: read_label(path).astype(dtype)))
    return tasks


def _name_of(kind, path, content):
    text = f"{DECODED_VERSION} {kind} {path.suffix.lower()} {content}"
    return f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npy"


class Fitting(NamedTuple):
    """Which files there is room for."""
    tasks: list  # of them, DecodingTasks
    reason: str  # why others do not fit


def find_fitting(tasks, there, room, free):
    """The Fitting of tasks, the first ones first.

    there: names of decoded files that are there already.  room: bytes that all may take.  free:
    bytes that new ones may take.
    """
    fitting, names, reason = [], set(), ""
    for task in tasks:
        size = 0 if task.name in names else task.size  # two files of one content are kept once
        new = 0 if task.name in there else size
        if size <= room and new <= free:
            fitting.append(task)
            names.add(task.name)
            room, free = room - size, free - new
        else:
            reason = reason or (DISK_IS_FULL if size <= room else "--cache_size")
    return Fitting(fitting, reason)


class DecodedFiles:
    """The decoded files of a data set; `open(path)` gives the values of one that is kept."""

    def __init__(self, folder, limit):
        """folder: where they lie.  limit: GB of all files there; 0: none is kept."""
        self.folder, self.limit, self.names = Path(folder), limit, {}
        self.lock = None  # an open file: the lock ends with it

    def __getstate__(self):
        return {**vars(self), "lock": None}  # for other ranks; this process keeps the lock

    def open(self, path):
        """The values of a decoded file, a read-only array of which parts are read when used.

        None where they are not kept.
        """
        if path in self.names:
            with suppress(OSError, ValueError):  # removed or cut off by somebody
                return open_array(self.folder / self.names[path])
        return None

    def keep(self, tasks):
        """Decode and write what is not there yet, with progress; returns what to say of it.

        tasks: DecodingTasks.  Returns a list of lines: none where there is nothing to keep.  What
        cannot be written is named there.  Raises what a task's `read` raises.
        """
        if not self.limit:
            tasks = []
        if not tasks and not self.folder.exists():
            return []
        try:
            there, fitting = self._take_folder(tasks)
        except OSError as error:
            return [f"{self.folder}: {error.strerror or error}; large images are not kept decoded "
                    "there"] if tasks else []
        missing = {task.name: task for task in fitting.tasks if task.name not in there}
        written, failures = self._write(missing.values())
        self.names = {task.path: task.name for task in fitting.tasks
                      if task.name in there or task.name in written}
        return self._describe(tasks, written, [*failures, fitting.reason]) if tasks else []

    # ------------------------------------------------------------------------------- step by step
    def _take_folder(self, tasks):
        """Lock the folder: (names of the decoded files that are there, the Fitting).

        Where nobody else uses it, files that are not needed are removed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = open_lock(self.folder)
        is_alone = False
        with suppress(BlockingIOError):
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_alone = True
        wanted = {task.name: task.size for task in tasks}
        if is_alone:
            self._remove_all_but({name for name, size in self._sizes().items()
                                  if wanted.get(name) == size})
        sizes = self._sizes()
        there = {name for name, size in wanted.items() if sizes.get(name) == size}
        others = sum(size for name, size in sizes.items() if name not in wanted)
        fitting = find_fitting(tasks, there, self.limit * GIGABYTE - others,
                               shutil.disk_usage(self.folder).free - SPARE)
        if is_alone:
            self._remove_all_but({task.name for task in fitting.tasks})
        fcntl.flock(self.lock, fcntl.LOCK_SH)
        return there & set(self._sizes()), fitting  # another process may have been alone just now

    def _remove_all_but(self, names):
        for path in self.folder.glob("*.npy"):  # those that were cut off among them
            if path.name not in names:
                path.unlink()

    def _sizes(self):
        """{name: bytes} of all files in the folder."""
        sizes = {}
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # another process has just renamed it
                sizes[path.name] = path.stat().st_size
        return sizes

    def _write(self, tasks):
        """Decode and write tasks: ({the names that were written}, texts of what went wrong)."""
        written, failures = set(), []

        def write(task):
            if failures:
                return
            values = task.read()
            try:
                with atomic_write(self.folder / task.name) as temporary:
                    np.save(temporary, values, allow_pickle=False)
                written.add(task.name)
            except OSError as error:
                failures.append(error.strerror or DISK_IS_FULL)

        list(map_in_threads(write, tasks, "decoding large images", unit="file", leave=True))
        return written, failures

    def _describe(self, tasks, written, reasons):
        """The line that says what is kept and what is not."""
        sizes = {task.name: task.size for task in tasks if task.path in self.names}
        new = sum(sizes[name] for name in written)
        line = (f"Large images are kept decoded in {self.folder}/: "
                f"{sum(sizes.values()) / GIGABYTE:.2f} GB, {new / GIGABYTE:.2f} GB of them "
                "written now")
        left = sum(task.path not in self.names for task in tasks)
        if left:
            line += f"; {left} of {len(tasks)} files are not ({reasons[0]}): {SLOW}"
        return [line]
