"""Beside other programs: how threads wait, and that no bit depends on when they run."""
import contextlib
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, command, write_set

from backend.preparation import SPINS, WAITING

pytestmark = pytest.mark.jittor
SPUN = re.compile(r"GOMP_SPINCOUNT = '(\d+)'")  # what libgomp says of itself where it is loaded
ENDLESS = 10 ** 9                               # rounds, and more: OMP_WAIT_POLICY=active
TIMES = 20


@pytest.fixture
def undecided(monkeypatch):
    """An environment that does not say how threads wait; libgomp says what it has found there."""
    for name in WAITING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_DISPLAY_ENV", "verbose")


def spin_counts(done):
    """The spin counts of all processes of a command that have loaded libgomp."""
    assert done.returncode == 0, done.stderr
    return {int(count) for count in SPUN.findall(done.stderr)}


def import_jittor(before=""):
    """Import Jittor as all commands do, in a process of its own.  before: what it runs first."""
    code = f"{before}\nfrom backend import start\nstart.import_jittor('cpu')"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True)


# ----------------------------------------------------------------------------- how threads wait
def test_the_setting_is_there_before_libgomp_is_loaded(undecided):
    assert spin_counts(import_jittor()) == {int(SPINS)}


def test_no_module_of_ours_loads_libgomp_before(undecided):
    """NumPy and SciPy have threads of their own, without libgomp."""
    modules = "import Main, Predict, Metrics, DataAugmentation, WeightMap, MakeData, Report"
    assert spin_counts(import_jittor(before=modules)) == {int(SPINS)}


@pytest.mark.parametrize("name, value, least, most", [
    ("OMP_WAIT_POLICY", "passive", 0, 0), ("OMP_WAIT_POLICY", "active", ENDLESS, 2 ** 64),
    ("GOMP_SPINCOUNT", "77", 77, 77)])
def test_what_the_user_has_set_wins(undecided, monkeypatch, name, value, least, most):
    monkeypatch.setenv(name, value)
    (count,) = spin_counts(import_jittor())
    assert least <= count <= most


def test_training_and_prediction_have_it(undecided, tmp_path):
    write_set(tmp_path / "set", [(64, 64)], [(64, 64)])
    trained = command("Main.py", "--Data_directory", "set", "--Total_epochs", 1, "--Val_epochs", 0,
                      "--base_channels", 2, "--padding", 1, "--device", "cpu", cwd=tmp_path)
    predicted = command("Predict.py", "--Input", "set/test/imgs", "--device", "cpu", cwd=tmp_path)
    assert spin_counts(trained) == spin_counts(predicted) == {int(SPINS)}


# ------------------------------------------------------------------------------------- the bits
@contextlib.contextmanager
def busy_process():
    """`with busy_process():` a process beside this one that computes all the time."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("mode, options", [
    ("Unet", {"base_channels": 8, "padding": 1}), ("U2netS", {})])
def test_a_step_beside_a_busy_process_has_the_same_bits(jt, build, mode, options):
    jt.set_global_seed(0)
    model = build(mode, 1, 2, **options)
    model.train()
    weights = [var for var in model.parameters() if not var.is_stop_grad()]
    image = jt.array(np.random.default_rng(0).normal(size=(2, 1, 72, 88)).astype(np.float32))

    def take_step():
        loss = (model(image) ** 2).mean()
        return [var.numpy().tobytes() for var in (loss, *jt.grad(loss, weights))]

    first = take_step()
    with busy_process():
        assert all(take_step() == first for _ in range(TIMES))
