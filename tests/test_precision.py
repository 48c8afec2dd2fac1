"""--precision: chosen by the device, kept by the run, refused where the device lacks it."""
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import command, settings_of, write_set

import Main
import Predict
from backend import start
from command.errors import DataError
from datasets.survey import SetFacts
from nets import checkpoint
from runs.choices import Device, complete
from runs.progress import Progress
from runs.request import read_request
from runs.resume import as_texts

FACTS = SetFacts(((64, 64),), ((64, 64),), 64, 64, 1, 2, 2)
CPU, OLD_GPU = Device(False, 2 ** 33), Device(True, 2 ** 33)
GPU = Device(True, 2 ** 33, has_tf32=True)


def chosen(device, *flags):
    """(the precision of a run, why)."""
    choice = complete(settings_of("--tile", 64, *flags), FACTS, device, Main.CROP)
    return choice.settings.training.precision, choice.reasons.get("precision", "")


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A function that stores a new run on a device, or what `change` makes of its settings."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()

    def store(device, change=lambda settings: None):
        settings = as_texts(complete(settings_of("--tile", 64), FACTS, device,
                                     Main.CROP).settings.flags())
        change(settings)
        run = {"settings": settings, "log": "Unet_2026-01-01_00-00-00", "data": "", "records": [],
               "progress": dataclasses.asdict(Progress())}
        checkpoint.save("checkpoints/last_model.safetensors", {"a": np.zeros(3, np.float32)},
                        {"run": run})
    return store


# --------------------------------------------------------------------------------------- the choice
@pytest.mark.parametrize("device, expected", [
    (CPU, ("float32", "")), (OLD_GPU, ("float32", "a GPU without TF32")), (GPU, ("tf32", "a GPU"))])
def test_auto_is_the_devices(device, expected):
    assert chosen(device) == chosen(device, "--precision", "auto") == expected


@pytest.mark.parametrize("device", [CPU, OLD_GPU, GPU])
def test_a_flag_is_not_overruled(device):
    assert chosen(device, "--precision", "float32") == ("float32", "")
    if device.has_tf32:
        assert chosen(device, "--precision", "tf32") == ("tf32", "")
    else:
        with pytest.raises(DataError, match="^--precision tf32: there is no GPU with TF32 here; "):
            chosen(device, "--precision", "tf32")


# --------------------------------------------------------------------------------- the command line
@pytest.mark.parametrize("script, flags, code, words", [
    ("Main.py", ("--device", "cpu"), 2,
     "--precision tf32: only a GPU has it; with --device cpu leave it out (see"),
    ("Main.py", ("--Data_directory", "set"), 1,
     "--precision tf32: there is no GPU with TF32 here; leave it out"),
    ("Predict.py", ("--Input", ".", "--device", "cpu"), 2, "--precision tf32: only a GPU has it"),
    ("Predict.py", ("--Input", "."), 1, "--precision tf32: there is no GPU with TF32 here")])
def test_a_cpu_refuses_tf32_in_one_line(tmp_path, machine, no_jittor, script, flags, code, words):
    write_set(tmp_path / "set", [(64, 72)] * 2, [(48, 48)])
    done = command(script, "--precision", "tf32", *flags, cwd=tmp_path, nvcc_path="", **no_jittor)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert words in done.stderr.splitlines()[-1] and "Jittor was imported" not in done.stderr


def test_there_is_no_other(capsys):
    with pytest.raises(SystemExit) as end:
        settings_of("--precision", "bf16")
    assert end.value.code == 2 and "invalid choice: 'bf16'" in capsys.readouterr().err


@pytest.fixture
def imported(monkeypatch):
    """Ends a command where it imports Jittor; with what it was called, later: [device, exact]."""
    calls = []

    def import_jittor(*arguments):
        calls.extend(arguments)
        raise DataError("imported")
    monkeypatch.setattr(start, "import_jittor", import_jittor)
    return calls


PRECISIONS = pytest.mark.parametrize("precision", ["auto", "float32", "tf32"])


@PRECISIONS
def test_main_imports_jittor_for_it(imported, precision):
    """Before CUDA is loaded: later it would have no effect."""
    request = read_request(["--precision", precision], Main.build_parser, Main.PROTOCOLS,
                           Main.CROP)
    with pytest.raises(DataError, match="^imported$"):
        Main.start_jittor(request)
    assert imported == ["auto", precision == "float32"]


@PRECISIONS
def test_predict_imports_jittor_for_it(imported, precision, monkeypatch, tmp_path):
    plan = SimpleNamespace(jobs=["a job"], done=0, errors=[])
    for module, name, answer in (
            (start, "check_machine", ("nvcc", "")), (Predict, "has_tf32", True),
            (Predict, "read_net", (None, None)), (Predict, "plan_outputs", plan)):
        monkeypatch.setattr(module, name, lambda *_, answer=answer: answer)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["Predict.py", "--Input", "a.png", "--precision", precision])
    with pytest.raises(DataError, match="^imported$"):
        Predict.main()
    assert imported == ["auto", precision == "float32"]


# ------------------------------------------------------------------------------------------- resume
def test_a_run_keeps_what_auto_chose(stored):
    stored(CPU)
    assert chosen(GPU, "--resume") == chosen(GPU, "--resume", "--precision", "auto")
    assert chosen(GPU, "--resume") == ("float32", "")
    stored(GPU)
    assert chosen(GPU, "--resume") == ("tf32", "")


def test_another_precision_contradicts_the_run(stored, capsys):
    stored(GPU)
    with pytest.raises(SystemExit) as end:
        settings_of("--resume", "--precision", "float32")
    assert end.value.code == 2
    assert "--precision float32 (was tf32); leave them out, or add --force" in (
        capsys.readouterr().err)
    assert chosen(GPU, "--resume", "--force", "--precision", "float32") == ("float32", "")


@pytest.mark.parametrize("device, flags", [
    (CPU, ()), (CPU, ("--device", "cpu")), (OLD_GPU, ())])
def test_a_machine_without_tf32_goes_on_by_force_alone(stored, device, flags):
    stored(GPU)
    with pytest.raises(DataError, match="^--resume: the run has --precision tf32, but there is no "
                                        "GPU with TF32 here; .* add --force"):
        chosen(device, "--resume", *flags)
    assert chosen(device, "--resume", "--force", *flags)[0] == "float32"


def test_runs_of_before_are_in_float32(stored):
    stored(GPU, lambda settings: settings.pop("precision"))
    assert chosen(GPU, "--resume") == ("float32", "")
