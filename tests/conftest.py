"""Lets the tests import the root's modules from wherever pytest is started; the fixtures that several files use."""
import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# the tests' nets are tiny: threads that wait actively for the next piece would fight other processes for the cores
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


# a shell's background job begins with Ctrl-C ignored, and so would the commands that the tests start
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def make_data(monkeypatch, capsys):
    """`python MakeData.py FLAGS` within this process, as a function: (exit code, standard output, standard error)."""
    import MakeData
    from command.errors import run

    def command(*flags):
        monkeypatch.setattr(sys, "argv", ["MakeData.py", *map(str, flags)])
        capsys.readouterr()
        try:
            code = run(MakeData.main)
        except SystemExit as stop:
            code = stop.code
        return (code, *capsys.readouterr())
    return command


@pytest.fixture
def snapshot():
    """A function: content and time of every file of a folder, which may not change where nothing is to be written."""
    return lambda folder: {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
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
