"""--precision: chosen by the device, kept by the run, refused where the device lacks it."""
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import SMALL, command, settings_of, write_set

import Main
import Predict
from backend import precision, start
from command.errors import DataError
from datasets.survey import SetFacts
from nets import checkpoint
from runs.choices import Device, complete
from runs.progress import Progress
from runs.request import read_request
from runs.resume import as_texts

FACTS = SetFacts(((64, 64),), ((64, 64),), 64, 64, 1, 2, 2)
CPU, OLD_GPU = Device(False, 2 ** 33), Device(True, 2 ** 33)
GPU = Device(True, 2 ** 33, precisions=("float32", "tf32"))
NEW_CPU = Device(False, 2 ** 33, precisions=("float32", "bf16"))
MISSING = {word: need.missing for word, need in precision.NEEDS.items()}


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
    (CPU, ("float32", "")), (NEW_CPU, ("float32", "")), (GPU, ("tf32", "a GPU")),
    (OLD_GPU, ("float32", "a GPU without TF32"))])
def test_auto_is_the_devices(device, expected):
    assert chosen(device) == chosen(device, "--precision", "auto") == expected


@pytest.mark.parametrize("word", ["float32", "tf32", "bf16"])
@pytest.mark.parametrize("device", [CPU, NEW_CPU, OLD_GPU, GPU])
def test_a_flag_is_not_overruled(device, word):
    if word in device.precisions:
        assert chosen(device, "--precision", word) == (word, "")
    else:
        with pytest.raises(DataError, match=f"^--precision {word}: {MISSING[word]}; leave it out$"):
            chosen(device, "--precision", word)


@pytest.mark.parametrize("flags, expected", [
    ("fma avx512_bf16 amx_tile", True), ("fma avx512f", False), ("", False)])
def test_the_processor_says_whether_it_has_bf16(tmp_path, monkeypatch, flags, expected):
    monkeypatch.setattr(precision, "PROCESSORS", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    assert precision.has_bf16() is expected
    assert precision.find_precisions(is_gpu=False) == ("float32", "bf16")[:1 + expected]
    (tmp_path / "cpuinfo").unlink()
    assert not precision.has_bf16()


# --------------------------------------------------------------------------------- the command line
@pytest.mark.parametrize("script, flags, code, words", [
    ("Main.py", ("--device", "cpu"), 2,
     "--precision tf32: only a GPU has it; with --device cpu leave it out (see"),
    ("Main.py", ("--Data_directory", "set"), 1,
     "--precision tf32: there is no GPU with TF32 here; leave it out"),
    ("Predict.py", ("--Input", ".", "--device", "cpu"), 2, "--precision tf32: only a GPU has it"),
    ("Predict.py", ("--Input", "."), 1, "--precision tf32: there is no GPU with TF32 here"),
    ("Main.py", ("--device", "cuda"), 2,
     "--precision bf16: only a CPU has it; with --device cuda leave it out (see"),
    ("Predict.py", ("--Input", ".", "--device", "cuda"), 2, "--precision bf16: only a CPU has it")])
def test_a_device_refuses_anothers_in_one_line(tmp_path, machine, no_jittor, script, flags, code,
                                               words):
    write_set(tmp_path / "set", [(64, 72)] * 2, [(48, 48)])
    flag, word = words.split(":")[0].split()
    done = command(script, flag, word, *flags, cwd=tmp_path, nvcc_path="", **no_jittor)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert words in done.stderr.splitlines()[-1] and "Jittor was imported" not in done.stderr


def test_there_is_no_other(capsys):
    with pytest.raises(SystemExit) as end:
        settings_of("--precision", "fp16")
    assert end.value.code == 2 and "invalid choice: 'fp16'" in capsys.readouterr().err


@pytest.fixture
def imported(monkeypatch):
    """Ends a command where it imports Jittor; with what it was called, later: [device, exact]."""
    calls = []

    def import_jittor(*arguments):
        calls.extend(arguments)
        raise DataError("imported")
    monkeypatch.setattr(start, "import_jittor", import_jittor)
    return calls


EACH = pytest.mark.parametrize("word", ["auto", *precision.PRECISIONS])


@EACH
def test_main_imports_jittor_for_it(imported, word):
    """Before CUDA is loaded: later it would have no effect."""
    request = read_request(["--precision", word], Main.build_parser, Main.PROTOCOLS,
                           Main.CROP)
    with pytest.raises(DataError, match="^imported$"):
        Main.start_jittor(request)
    assert imported == ["auto", word == "float32"]


@EACH
def test_predict_imports_jittor_for_it(imported, word, monkeypatch, tmp_path):
    plan = SimpleNamespace(jobs=["a job"], done=0, errors=[])
    for module, name, answer in (
            (start, "check_machine", ("nvcc", "")),
            (Predict, "find_precisions", precision.PRECISIONS),
            (Predict, "read_nets", ()), (Predict, "plan_outputs", plan)):
        monkeypatch.setattr(module, name, lambda *_, answer=answer: answer)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["Predict.py", "--Input", "a.png", "--precision", word])
    with pytest.raises(DataError, match="^imported$"):
        Predict.main()
    assert imported == ["auto", word == "float32"]


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


@pytest.mark.parametrize("began, precision, device, flags", [
    (GPU, "tf32", CPU, ()), (GPU, "tf32", CPU, ("--device", "cpu")), (GPU, "tf32", OLD_GPU, ()),
    (NEW_CPU, "bf16", CPU, ()), (NEW_CPU, "bf16", GPU, ("--device", "cuda"))])
def test_a_machine_without_it_goes_on_by_force_alone(stored, began, precision, device, flags):
    stored(began, lambda settings: settings.update(precision=[precision]))
    with pytest.raises(DataError, match=f"^--resume: the run has --precision {precision}, but "
                                        f"{MISSING[precision]}; .* add --force"):
        chosen(device, "--resume", *flags)
    expected = "tf32" if device is GPU else "float32"
    assert chosen(device, "--resume", "--force", *flags)[0] == expected


def test_runs_of_before_are_in_float32(stored):
    stored(GPU, lambda settings: settings.pop("precision"))
    assert chosen(GPU, "--resume") == ("float32", "")


# -------------------------------------------------------------------------------------- a real run
@pytest.mark.jittor
@pytest.mark.skipif(not precision.has_bf16(), reason="this processor has no avx512_bf16")
def test_a_run_and_a_prediction_in_bf16(tmp_path):
    write_set(tmp_path / "set", [(64, 72)] * 2, [(48, 48)])
    flags = ("--Data_directory", "set", *SMALL, "--Total_epochs", 2, "--Val_epochs", 0)
    trained = command("Main.py", *flags, "--precision", "bf16", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "precision=bf16" in trained.stdout
    resumed = command("Main.py", "--resume", "--Total_epochs", 3, cwd=tmp_path)
    assert resumed.returncode == 0 and "precision=bf16" in resumed.stdout
    _, header = checkpoint.load(tmp_path / "checkpoints/last_model.safetensors")
    assert header["run"]["settings"]["precision"] == ["bf16"]
    probabilities = []
    for word in ("float32", "bf16"):
        done = command("Predict.py", "--Input", "set/test/imgs", "--probabilities", "--precision",
                       word, "--device", "cpu", "--Result_directory", word, cwd=tmp_path)
        assert done.returncode == 0 and (word == "float32" or "(CPU), bf16" in done.stdout)
        (path,) = (tmp_path / word).glob("*_prob.npy")
        probabilities.append(np.load(path))
    exact, rounded = probabilities
    assert 0 < np.abs(exact - rounded).mean() < 0.03
