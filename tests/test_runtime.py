"""backend/start.py and backend/machine.py: one line says what is missing.

Jittor starts once, offline, and leaves Python its signal handlers.
"""
import ctypes
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from backend import machine, preparation, raw_import, start
from command.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
NEEDS_JITTOR = {"Model", "Process", "runs.steps", *(f"backend.{name}" for name in (
    "adam", "channels_last", "cpu_convolution", "cpu_operators", "cpu_planes", "cuda_operators",
    "cuda_updates", "device_optimizer", "kernel_check", "operators", "state", "updates"))}
WITHOUT_JITTOR = sorted({
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for room in (".", "command", "images", "datasets", "nets", "backend", "masks", "runs")
    for path in (ROOT / room).glob("*.py")} - NEEDS_JITTOR)


def python(code, **environment):
    """Run code in a fresh process; the last line that it prints is JSON, and comes back decoded."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment},
                          text=True, capture_output=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def refused(call, *arguments):
    """Call something that raises a DataError: its message, which is one line."""
    with pytest.raises(DataError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def executable(path, content="#!/bin/sh\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)
    return path


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A writable home of the test's own, and a compiler that is there."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("cc_path", sys.executable)
    monkeypatch.delenv("JITTOR_HOME", raising=False)
    if not (Path(machine.sysconfig.get_path("include")) / "Python.h").is_file():
        pytest.skip("Python's headers are missing")
    return tmp_path / "home"


# --------------------------------------------------------------------------------------- the checks
def test_importing_the_modules_does_not_import_jittor():
    code = f"import json, sys, {', '.join(WITHOUT_JITTOR)}; print(json.dumps([*sys.modules]))"
    assert len(WITHOUT_JITTOR) > 40
    assert [name for name in python(code) if "jittor" in name] == []


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'torch'"):
        _ = start.torch


def test_a_sound_machine_passes_and_its_home_stays_clean(home, monkeypatch):
    monkeypatch.setenv("nvcc_path", "")
    assert start.check_machine("cpu") == ("", "")
    assert start.check_machine("auto") == ("", "the environment variable nvcc_path is empty")
    assert [path.relative_to(home).as_posix() for path in sorted(home.rglob("*"))] == [
        ".cache", ".cache/jittor"]


def test_cpu_does_not_look_for_cuda(home, monkeypatch):
    monkeypatch.setenv("nvcc_path", str(executable(home / "bin" / "nvcc")))
    assert start.check_machine("cpu") == ("", "")


def test_missing_compiler(home, monkeypatch):
    monkeypatch.setenv("cc_path", "no-such-compiler")
    assert refused(start.check_machine, "cpu").startswith("no-such-compiler: no such compiler")
    monkeypatch.delenv("cc_path")
    monkeypatch.setenv("PATH", str(home))
    message = refused(start.check_machine, "cpu")
    assert message.startswith("g++: no such compiler") and "apt install g++" in message


def test_missing_python_headers(home, monkeypatch):
    monkeypatch.setattr(machine.sysconfig, "get_path", lambda name: str(home / "include"))
    message = refused(start.check_machine, "cpu")
    assert message.startswith(f"{home / 'include' / 'Python.h'}: ")
    assert f"python{sys.version_info.major}.{sys.version_info.minor}-dev" in message


@pytest.mark.parametrize("variable", ["HOME", "JITTOR_HOME"])
def test_unwritable_home(home, monkeypatch, tmp_path, variable):
    (tmp_path / "file").touch()
    monkeypatch.setenv(variable, str(tmp_path / "file" / "home"))
    message = refused(start.check_machine, "cpu")
    assert message.startswith(f"{tmp_path / 'file' / 'home' / '.cache' / 'jittor'}: not writable")
    assert "set HOME to a writable folder" in message


@pytest.mark.parametrize("seconds, said", [(0.05, 1), (60, 0)])
def test_a_start_that_waits_for_another_says_so(tmp_path, monkeypatch, capsys, seconds, said):
    (tmp_path / "jittor_core.so").touch()  # compiled already
    monkeypatch.setattr(raw_import, "PATIENCE", seconds)
    with raw_import.compile_progress(tmp_path, with_cuda=False):
        time.sleep(0.5)
    assert capsys.readouterr().err.count("another process compiles, perhaps") == said


@pytest.mark.parametrize("end, code, spoken", [
    ("os.kill(os.getpid(), signal.SIGKILL)", -9, "killed\n"),
    ("os.kill(os.getpid(), signal.SIGSEGV)", -11, "killed\n"),
    ("sys.exit(3)", 3, ""), ("pass", 0, "")])
def test_last_words_are_said_only_by_a_killed_process(end, code, spoken):
    program = ("import os, signal, sys\nfrom command.last_words import last_words\n"
               f"with last_words('killed'): {end}")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True,
                          text=True, timeout=60)
    assert (done.returncode, done.stderr) == (code, spoken)


# --------------------------------------------------------------------------------------------- CUDA
def test_no_cuda_where_the_environment_forbids_it(home, monkeypatch):
    monkeypatch.setenv("nvcc_path", "")
    assert start.find_cuda() == ((), "the environment variable nvcc_path is empty")
    assert refused(start.check_machine, "cuda") == (
        "--device cuda: the environment variable nvcc_path is empty; use --device cpu or auto")


def test_no_cuda_without_a_driver(monkeypatch, tmp_path):
    try:
        ctypes.CDLL("libcuda.so.1")
        pytest.skip("this machine has an NVIDIA driver")
    except OSError:
        pass
    monkeypatch.setenv("nvcc_path", str(executable(tmp_path / "bin" / "nvcc")))
    assert start.find_cuda() == ((), "no NVIDIA driver (libcuda.so.1) found")


def test_a_long_error_is_cut_to_its_cause():
    long = "Run cmd failed: g++ a.cc\nIn file included\n\x1b[31m a.h(3): error: no field\x1b[0m\nb"
    assert raw_import.first_cause(long) == "a.h(3): error: no field"
    assert raw_import.first_cause("one\ntwo") == "one" and raw_import.first_cause("\n") == ""
    assert raw_import.first_cause("one\ntwo", or_first=False) == ""
    assert raw_import.first_cause("one\n  what():  two", or_first=False) == "what():  two"


# -------------------------------------------------------------- a package that stands in for Jittor
def stand_in(folder, body):
    """The environment of a process whose `import jittor` runs `body`; its home is folder/home."""
    for name, content in (("jittor_utils", f"cache_path = {str(folder / 'cache')!r}"),
                          ("jittor", body)):
        executable(folder / name / "__init__.py", content)
    (folder / "jittor" / "nn.py").touch()
    return {"PYTHONPATH": str(folder), "HOME": str(folder / "home")}


def start_stand_in(home, body, code="start.import_jittor('cpu')"):
    environment = {**os.environ, **stand_in(home.parent, body)}
    code = ("import sys\nfrom backend import start\nfrom command.errors import run\n"
            f"def main(): {code}\nsys.exit(run(main))")
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, text=True,
                          capture_output=True, timeout=60)


def test_whatever_the_import_raises_becomes_one_line(home):
    done = start_stand_in(home, "raise OSError('no download\\nand a long log')")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "-c: error: Jittor does not start here: no download; ")
    assert "Traceback" not in done.stderr and "long log" not in done.stderr


def test_the_process_starts_again_once_when_jittor_asks_for_it(home):
    done = start_stand_in(home, "print('import', flush=True)\nraise SystemExit(0)")
    assert (done.returncode, done.stdout) == (1, "import\nimport\n")
    assert "asks to be run again and again" in done.stderr.splitlines()[-1]


def test_ctrl_c_during_the_import_stays_one(home):
    done = start_stand_in(home, "raise KeyboardInterrupt")
    assert done.returncode == 130 and done.stderr.endswith("-c: stopped\n")


FORKS = """
import os, signal
def in_a_child():
    process = os.fork()
    if not process:
        os._exit(10 * (signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
                 + (signal.getsignal(signal.SIGINT) is signal.SIG_DFL))
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
"""


def test_compiling_processes_have_no_handlers_in_python(home):
    """A signal that comes just before such a process waits for a lock would never be handled."""
    done = start_stand_in(home, f"{FORKS}print(in_a_child())\n"
                                "class flags: use_cuda = 0\ncudnn = cublas = None")
    assert done.returncode == 0 and done.stdout == "11\n", done.stderr


def test_half_of_onednn_is_none(tmp_path):
    """Its package of headers alone has a libmkldnn.so that points to no library."""
    for name in preparation.ONEDNN_FILES:
        assert not preparation.has_onednn(tmp_path)
        executable(tmp_path / name)
    assert preparation.has_onednn(tmp_path)


def test_python_3_12s_warnings_of_jittors_files_are_silent(home):
    done = start_stand_in(home, "import warnings\nwarnings.warn('invalid escape', SyntaxWarning)\n"
                                "class flags: pass")
    assert done.returncode == 0 and "invalid escape" not in done.stderr


def test_onednn_of_the_environment_is_shown_to_jittor(home):
    """It replaces links into an environment that is gone.  Else Jittor would download oneDNN."""
    if not (Path(sys.prefix) / "lib" / "libmkldnn.so").is_file():
        pytest.skip("oneDNN is not installed from PyPI")
    target = home / ".cache" / "jittor" / "mkl" / preparation.ONEDNN_FOLDER
    target.mkdir(parents=True)
    for name in ("lib", "include"):
        (target / name).symlink_to(home / "gone")
    done = start_stand_in(home, "class flags: pass")
    assert done.returncode == 0, done.stderr
    assert ((target / "lib" / "libmkldnn.so").is_file()
            and (target / "include" / "mkldnn.hpp").is_file())


# ------------------------------------------------------------------------------------------- Jittor
@pytest.mark.jittor
def test_start_offline_keeps_handlers_and_seeds_after_the_import():
    dead = "http://127.0.0.1:9"
    found = python("""
import json, os, signal, subprocess
from backend import start
numbers = signal.SIGINT, signal.SIGTERM, signal.SIGCHLD
before = [signal.getsignal(number) for number in numbers]
jt = start.import_jittor("cpu")
kept = [signal.getsignal(number) for number in numbers] == before
child = subprocess.run(["sh", "-c", "kill -SEGV $$"], stderr=subprocess.DEVNULL).returncode
try:
    os.kill(os.getpid(), signal.SIGINT)
    interrupted = False
except KeyboardInterrupt:
    interrupted = True
again = start.import_jittor(), start.jt
import jittor, numpy
start.seed_everything(5)
print(json.dumps({"kept": kept, "child": child, "interrupted": interrupted,
                  "cuda": jt.flags.use_cuda, "onednn": jt.mkl_ops is not None,
                  "name": start.device_name(), "sum": jt.ones(3).sum().item(),
                  "same": all(module is jittor for module in (jt, *again)),
                  "nn": start.nn is jittor.nn, "draw": float(numpy.random.uniform())}))
""", HTTP_PROXY=dead, HTTPS_PROXY=dead, http_proxy=dead, https_proxy=dead)
    assert re.fullmatch(r".+, \d+ cores? \(CPU\)", found.pop("name"))
    assert found == {"kept": True, "child": -11, "interrupted": True, "cuda": 0, "onednn": True,
                     "sum": 3.0, "same": True, "nn": True,
                     "draw": np.random.RandomState(5).uniform()}


@pytest.mark.jittor
def test_numpy_warns_of_no_subnormals():
    """Jittor's -Ofast makes subnormals 0 in the whole process.  NumPy would warn of it once."""
    assert python("""
import json, sys, warnings
import numpy as np
from backend import start
start.import_jittor("cpu")
warnings.simplefilter("error")
print(json.dumps([float(np.finfo(kind).eps) for kind in (np.float32, np.float64)]))
""") == [2.0 ** -23, 2.0 ** -52]


@pytest.mark.jittor
def test_a_seed_gives_the_same_draws():
    from backend.start import jt

    def draws(seed):
        start.seed_everything(seed)
        return [random.random(), *np.random.uniform(size=3), *jt.randn(4).numpy().tolist()]

    first, again, other = draws(1), draws(1), draws(2)
    assert first == again
    assert all(a != b for a, b in zip(first, other))


@pytest.mark.jittor
def test_seeding_comes_after_the_import_which_seeds_from_the_clock():
    """Jittor's import seeds from the clock.  Device 'auto' says why it runs on the CPU."""
    code = ("import numpy; from backend import start; start.seed_everything(5); "
            "print(numpy.random.uniform())")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT,
                          env={**os.environ, "nvcc_path": ""}, text=True, capture_output=True,
                          timeout=900)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == np.random.RandomState(5).uniform()
    assert "Running on the CPU: the environment variable nvcc_path is empty\n" in done.stderr


def test_what_is_a_lack_of_memory():
    assert all(map(machine.is_out_of_memory, (
        MemoryError(), RuntimeError("cudaMalloc failed: Out of Memory"),
        RuntimeError("Unable to alloc 3 GB"))))
    assert not machine.is_out_of_memory(RuntimeError("shapes do not match"))


def test_a_new_seed_goes_back_to_the_beginning_of_curands_sequence(tmp_path, monkeypatch):
    """cuRAND itself goes on where it was, so that a step would depend on all before it."""
    (tmp_path / "curand.c").write_text(
        "void *_ZN6jittor3genE = (void *)7;\nint wrong, calls;\n"
        "int curandSetGeneratorOffset(void *generator, unsigned long long offset) {\n"
        "    calls += generator == (void *)7 && offset == 0;\n    return wrong;\n}\n")
    subprocess.run(["g++", "-x", "c", "-shared", "-fPIC", tmp_path / "curand.c", "-o",
                    tmp_path / "curand.so"], check=True)
    library, seeds = ctypes.CDLL(str(tmp_path / "curand.so")), []
    jittor = SimpleNamespace(flags=SimpleNamespace(use_cuda=0), set_seed=seeds.append)
    monkeypatch.setattr(start, "_jittor", jittor)
    monkeypatch.setattr(start.ctypes, "CDLL", lambda name: library)
    calls = ctypes.c_int.in_dll(library, "calls")
    start.seed_step(3)
    assert (seeds, calls.value) == ([3], 0), "a CPU has no cuRAND"
    jittor.flags.use_cuda = 1
    start.seed_step(4)
    assert (seeds, calls.value) == ([3, 4], 1)
    ctypes.c_int.in_dll(library, "wrong").value = 101
    with pytest.raises(RuntimeError, match="cuRAND's error 101"):
        start.seed_step(5)
