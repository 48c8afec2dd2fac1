"""The fixtures that several test files use."""
import os
import signal
import sys

import numpy as np
import pytest
from helpers import FLAGS, command, write_set
from PIL import Image

# The nets of these tests are tiny.  Threads that wait actively for the next piece of work would
# take the cores from other processes.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A shell's background job begins with Ctrl-C ignored, and so would the commands of the tests.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def in_process(monkeypatch, capsys):
    """A function that runs a root module as a command in this process.

    It returns (exit code, standard output, standard error).
    """
    from command.errors import run

    def command(module, *flags):
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, flags)])
        capsys.readouterr()
        try:
            code = run(module.main)
        except SystemExit as stop:
            code = stop.code
        return (code, *capsys.readouterr())
    return command


@pytest.fixture
def make_data(monkeypatch, in_process, tmp_path):
    """A function that runs `python MakeData.py FLAGS` as `in_process` does."""
    import MakeData
    monkeypatch.chdir(tmp_path)  # ./DataTxt comes to lie there
    return lambda *flags: in_process(MakeData, *flags)


@pytest.fixture
def snapshot():
    """A function: content and time of every file of a folder, to see that nothing is written."""
    return lambda folder: {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def jt():
    from backend.start import jt
    jt.set_global_seed(0)
    return jt


@pytest.fixture(scope="module")
def build(jt):
    from Model import build_model
    return build_model


@pytest.fixture
def no_jittor(tmp_path):
    """Environment variables with which `import jittor` says so and ends the process."""
    for name in ("jittor", "jittor_utils"):
        (tmp_path / "traps" / name).mkdir(parents=True)
        (tmp_path / "traps" / name / "__init__.py").write_text(
            "import os\nos.write(2, b'Jittor was imported\\n')\nraise SystemExit")
    return {"PYTHONPATH": str(tmp_path / "traps")}


@pytest.fixture(scope="session")
def machine():
    """Skips where Jittor could not run: Main.py says that before it looks at the data."""
    from backend.start import check_machine
    from command.errors import DataError
    try:
        check_machine("cpu")
    except DataError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A folder with a data set and a complete run on it."""
    folder = tmp_path_factory.mktemp("unbroken")
    write_set(folder / "data", [(64, 72)] * 5, [(48, 48)] * 2)
    # as a notebook starts it, where the package of its pictures is not installed
    done = command("Main.py", *FLAGS, cwd=folder,
                   MPLBACKEND="module://matplotlib_inline.backend_inline")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert list(folder.glob("logs/*.png"))
    return folder


@pytest.fixture
def folder(unbroken, tmp_path):
    """A folder with the data of the unbroken run."""
    (tmp_path / "data").symlink_to(unbroken / "data")
    return tmp_path


@pytest.fixture
def dataset(tmp_path):
    """A function that writes pairs of given sizes and returns their SegmentationSet.

    Each image shows a bright square on a noisy ground.
    """
    from DataLoader import SegmentationSet
    from images.values import Statistics

    def write(*sizes):
        rng, pairs = np.random.default_rng(3), []
        for k, (height, width) in enumerate(sizes):
            label = np.zeros((height, width), np.uint8)
            label[4:14, 5:16] = 255
            paths = tmp_path / f"image{k}.png", tmp_path / f"label{k}.png"
            for path, pixels in zip(paths, (
                    label // 2 + rng.integers(0, 60, label.shape, np.uint8), label)):
                Image.fromarray(pixels).save(path)
            pairs.append(paths)
        return SegmentationSet(pairs, 1, 2, Statistics((0.3,), (0.2,)))
    return write


@pytest.fixture
def poisoned(jt):
    """A TrainingLoader whose batches are NaN where `bad(epoch, k)` says so."""
    from DataLoader import TrainingLoader

    def loader_class(bad):
        class Poisoned(TrainingLoader):
            def epoch(self, epoch, start=0):
                for k, batch in enumerate(super().epoch(epoch, start), start):
                    yield batch._replace(inputs=batch.inputs * np.nan) if bad(epoch, k) else batch
        return Poisoned
    return loader_class
