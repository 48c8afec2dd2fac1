"""datasets/decoded.py: what is kept decoded, for how long, and what never stops a training."""
import errno
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from command import bars
from datasets import decoded
from datasets.decoded import DecodedFiles, decoding_tasks
from datasets.survey import Survey
from images.formats import write_png


def make_pairs(folder, count=2, channels=3, seed=0, side=40):
    rng, pairs = np.random.default_rng(seed), []
    for kind in ("imgs", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for k in range(count):
        shape = (side, side + 10) if channels == 1 else (side, side + 10, channels)
        paths = folder / "imgs" / f"{k}.png", folder / "labels" / f"{k}.png"
        for path, pixels in zip(paths, (rng.integers(0, 256, shape, np.uint8),
                                        rng.integers(0, 3, shape[:2], np.uint8))):
            write_png(path, pixels)
        pairs.append(paths)
    return pairs


def keep(folder, pairs, limit=1.0, n_channels=3):
    """(the DecodedFiles of pairs, the lines that it said)."""
    files = DecodedFiles(folder / "decoded", limit)
    return files, files.keep(decoding_tasks(Survey(folder), pairs, n_channels))


@pytest.fixture(autouse=True)
def enough_room(monkeypatch):
    monkeypatch.setattr(decoded, "SPARE", 0)


def names_in(folder):
    return {path.name for path in (folder / "decoded").iterdir()} - {".lock"}


# ------------------------------------------------------------------------------------ what is kept
@pytest.mark.parametrize("n_channels", [1, 3])
def test_values_are_those_of_the_files(tmp_path, n_channels):
    pairs = make_pairs(tmp_path)
    files, (line,) = keep(tmp_path, pairs, n_channels=n_channels)
    assert line.startswith(f"Large images are kept decoded in {tmp_path}/decoded/: 0.00 GB, ")
    for image, label in pairs:
        found, expected = files.open(image), Image.open(image)
        assert isinstance(found.base, np.memmap) and not found.flags.writeable
        assert found.dtype == np.uint8
        assert np.array_equal(found, np.asarray(expected.convert("L") if n_channels == 1
                                                else expected))
        assert np.array_equal(files.open(label), np.asarray(Image.open(label)))
    assert files.open(tmp_path / "imgs" / "other.png") is None


def test_sizes_are_known_before_anything_is_decoded(tmp_path):
    pairs = make_pairs(tmp_path)
    deep = (np.arange(600).reshape(20, 30) * 100).astype(np.uint16)
    for path in pairs[1]:
        write_png(path, deep)
    tasks = decoding_tasks(Survey(tmp_path), pairs[:1], 3) + decoding_tasks(Survey(tmp_path),
                                                                      pairs[1:], 1)
    keep(tmp_path, pairs[:1])
    DecodedFiles(tmp_path / "deep", 1).keep(tasks)
    for task, size in zip(tasks, (40 * 50 * 3, 40 * 50, 1200, 1200)):
        assert task.size == size + 128 == (tmp_path / "deep" / task.name).stat().st_size


def test_label_values_need_no_more_than_they_have(tmp_path):
    pairs = make_pairs(tmp_path, 1)
    write_png(pairs[0][1], np.full((40, 50), 200, np.uint16))
    files, _ = keep(tmp_path, pairs)
    assert files.open(pairs[0][1]).dtype == np.uint8 and (files.open(pairs[0][1]) == 200).all()


def test_the_second_run_decodes_nothing(tmp_path, monkeypatch):
    pairs = make_pairs(tmp_path)
    keep(tmp_path, pairs)
    before = {name: (tmp_path / "decoded" / name).stat().st_mtime_ns for name in names_in(tmp_path)}
    for name in ("read_image", "read_label"):
        monkeypatch.setattr(decoded, name, None)
    files, (line,) = keep(tmp_path, pairs)
    assert "0.00 GB of them written now" in line
    assert before == {name: (tmp_path / "decoded" / name).stat().st_mtime_ns
                      for name in names_in(tmp_path)}
    assert files.open(pairs[1][0]).shape == (40, 50, 3)


def test_other_ranks_read_the_same_files_and_the_lock_stays(tmp_path):
    pairs = make_pairs(tmp_path)
    files, _ = keep(tmp_path, pairs)
    other = pickle.loads(pickle.dumps(files))
    assert other.lock is None and files.lock is not None
    assert np.array_equal(other.open(pairs[0][0]), files.open(pairs[0][0]))


# ------------------------------------------------------------------------------- what is removed
def test_an_image_that_was_changed_is_decoded_again_and_the_old_file_goes(tmp_path):
    pairs = make_pairs(tmp_path)
    keep(tmp_path, pairs)
    before = names_in(tmp_path)
    changed = 255 - np.asarray(Image.open(pairs[0][0]))
    write_png(pairs[0][0], changed)
    files, _ = keep(tmp_path, pairs)
    assert len(names_in(tmp_path)) == 4 and len(names_in(tmp_path) - before) == 1
    assert np.array_equal(files.open(pairs[0][0]), changed)


def test_what_no_run_needs_is_removed(tmp_path):
    pairs = make_pairs(tmp_path, 3)
    keep(tmp_path, pairs)
    (tmp_path / "decoded" / ".cut-1-1.part.npy").write_bytes(b"half")
    (tmp_path / "decoded" / "mine.txt").write_text("not ours")
    keep(tmp_path, pairs[:1])
    assert len(names_in(tmp_path)) == 3 and "mine.txt" in names_in(tmp_path)
    assert keep(tmp_path, pairs, limit=0)[1] == [] and names_in(tmp_path) == {"mine.txt"}


@pytest.mark.parametrize("limit, pairs", [(0, True), (1, False)])
def test_nothing_to_keep_makes_no_folder(tmp_path, limit, pairs):
    files, lines = keep(tmp_path, make_pairs(tmp_path) if pairs else [], limit)
    assert lines == [] and not files.folder.exists()


def start_python(*lines):
    """A process that runs these lines, with the names of this file."""
    paths = [str(ROOT), str(ROOT / "tests")]
    code = "\n".join([f"import sys; sys.path[:0] = {paths!r}", "from pathlib import Path",
                      "from datasets import decoded", "from test_decoded import keep, make_pairs",
                      "decoded.SPARE = 0", *lines])
    return subprocess.Popen([sys.executable, "-c", code], text=True, stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_running_process_keeps_its_files(tmp_path):
    pairs = make_pairs(tmp_path / "a", seed=1)
    with start_python(f"pairs = make_pairs(Path({str(tmp_path / 'b')!r}), seed=2)",
                      f"files, _ = keep(Path({str(tmp_path)!r}), pairs)",
                      "print(flush=True)", "sys.stdin.read()") as running:
        running.stdout.readline()
        theirs = names_in(tmp_path)
        files, _ = keep(tmp_path, pairs)
        assert len(theirs) == 4 and names_in(tmp_path) > theirs and len(names_in(tmp_path)) == 8
        assert files.open(pairs[0][0]) is not None
        del files
        running.kill()
    keep(tmp_path, pairs)
    assert len(names_in(tmp_path)) == 4 and not names_in(tmp_path) & theirs


def test_two_processes_at_once(tmp_path):
    """Both begin with nothing there.  Each has all files, and none of them is cut off."""
    pairs = make_pairs(tmp_path, 6, side=400)
    started = [start_python(f"from datasets.pairs import pair_by_name; folder = {str(tmp_path)!r}",
                            "pairs = pair_by_name(Path(folder, 'imgs'), Path(folder, 'labels'))",
                            "sys.stdin.readline()", "files, _ = keep(Path(folder), pairs)",
                            "print(*(files.open(path).sum() for pair in pairs for path in pair))")
               for _ in range(2)]
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    expected = [str(np.asarray(Image.open(path)).sum()) for pair in pairs for path in pair]
    for process in started:
        printed, _ = process.communicate(timeout=60)
        assert printed.split() == expected
    assert len(names_in(tmp_path)) == 12


def test_a_killed_process_leaves_nothing_that_is_trusted(tmp_path):
    pairs = make_pairs(tmp_path)
    with start_python(f"pairs = make_pairs(Path({str(tmp_path)!r}))",
                      "import numpy, time",
                      "def half(path, values, **_):",
                      "    path.write_bytes(b'half'); print(flush=True); time.sleep(60)",
                      "decoded.np.save = half",
                      f"keep(Path({str(tmp_path)!r}), pairs)") as running:
        running.stdout.readline()
        running.kill()
    left = names_in(tmp_path)
    assert left and all(name.endswith(".part.npy") for name in left)
    files, _ = keep(tmp_path, pairs)
    assert not names_in(tmp_path) & left and len(names_in(tmp_path)) == 4
    for path in (path for pair in pairs for path in pair):
        assert np.array_equal(files.open(path), np.asarray(Image.open(path)))


# ---------------------------------------------------------------------------------------- trouble
def test_the_bound(tmp_path):
    """Of two images of 6,128 bytes and labels of 2,128 one pair fits into 10,000 bytes."""
    pairs = make_pairs(tmp_path)
    files, (line,) = keep(tmp_path, pairs, limit=1e-5)
    assert "2 of 4 files are not (--cache_size): each of their crops decodes" in line
    assert files.open(pairs[0][0]) is not None and files.open(pairs[0][1]) is not None
    assert files.open(pairs[1][0]) is None and files.open(pairs[1][1]) is None
    assert sum(path.stat().st_size for path in (tmp_path / "decoded").iterdir()) < 1e4
    assert keep(tmp_path, pairs, limit=1e-5)[0].names == files.names


def test_a_smaller_bound_removes_what_is_beyond_it(tmp_path):
    pairs = make_pairs(tmp_path)
    before = keep(tmp_path, pairs)[0].names
    files, _ = keep(tmp_path, pairs, limit=1e-5)
    assert names_in(tmp_path) == {before[path] for path in pairs[0]} == set(files.names.values())
    files, (line,) = keep(tmp_path, pairs)
    assert files.names == before and len(names_in(tmp_path)) == 4


def test_two_files_of_one_content_are_kept_once(tmp_path):
    pairs = make_pairs(tmp_path, 1)
    copies = [tuple(path.with_stem("copy") for path in pairs[0])]
    for path, copy in zip(pairs[0], copies[0]):
        copy.write_bytes(path.read_bytes())
    files, _ = keep(tmp_path, pairs + copies, limit=1e-5)
    assert len(files.names) == 4 and len(names_in(tmp_path)) == 2


def test_files_of_others_count_for_the_bound(tmp_path):
    (tmp_path / "decoded").mkdir()
    (tmp_path / "decoded" / "mine.bin").write_bytes(bytes(9000))
    assert not keep(tmp_path, make_pairs(tmp_path), limit=1e-5)[0].names


def test_room_stays_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "SPARE", 10 ** 18)
    files, (line,) = keep(tmp_path, make_pairs(tmp_path))
    assert not files.names and "4 of 4 files are not (the disk is full): " in line


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
                                   OSError("2000 requested and 128 written")])
def test_a_disk_that_becomes_full(tmp_path, monkeypatch, error):
    pairs, save, written = make_pairs(tmp_path, 3), np.save, []

    def save_some(path, values, **options):
        written.append(path)
        if len(written) > 1:
            path.write_bytes(bytes(100))
            raise error
        save(path, values, **options)
    monkeypatch.setattr(bars, "WORKERS", 1)
    monkeypatch.setattr(decoded.np, "save", save_some)
    files, (line,) = keep(tmp_path, pairs)
    assert len(written) == 2, "no further file is tried"
    assert "5 of 6 files are not (" in line
    assert "(No space left on device)" in line or "(the disk is full)" in line
    assert list(files.names) == [pairs[0][0]] and len(names_in(tmp_path)) == 1
    assert files.open(pairs[0][0]) is not None and files.open(pairs[1][0]) is None


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "decoded").write_text("a file")
    files, (line,) = keep(tmp_path, make_pairs(tmp_path))
    assert line.endswith("decoded: File exists; large images are not kept decoded there")
    assert not files.names


def test_a_lock_is_no_way_to_another_file(tmp_path):
    (tmp_path / "decoded").mkdir()
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "decoded" / ".lock").symlink_to("../mine")
    files, (line,) = keep(tmp_path, make_pairs(tmp_path))
    assert not files.names and "large images are not kept decoded there" in line
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("damage", [lambda path: path.unlink(),
                                    lambda path: path.write_bytes(path.read_bytes()[:200]),
                                    lambda path: path.write_bytes(b"")])
def test_a_file_that_somebody_damages_is_not_used(tmp_path, damage):
    pairs = make_pairs(tmp_path)
    files, _ = keep(tmp_path, pairs)
    damage(tmp_path / "decoded" / files.names[pairs[0][0]])
    assert files.open(pairs[0][0]) is None and files.open(pairs[1][0]) is not None
    del files
    files, _ = keep(tmp_path, pairs)
    assert np.array_equal(files.open(pairs[0][0]), np.asarray(Image.open(pairs[0][0])))
