"""Bench.py and its workers, in small (needs PyTorch and Jittor).

    pytest benchmarks
"""
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import Bench
import Contenders
import Exported
import Machine
import numpy as np
import Preparation
import pytest
import Race
import Rivals
import Tables
import Worker

from DataLoader import SegmentationSet, TrainingLoader
from datasets.drawn import make_pair
from images.formats import write_png
from images.values import Statistics
from nets.geometry import UNET_BILINEAR
from WeightMap import WeightMaps

COMMAND = [sys.executable, Bench.__file__]
FOLDER = Path(Race.__file__).parent
COMMAND_PATH = f"{FOLDER}:{FOLDER.parent}"


@pytest.fixture(scope="module", autouse=True)
def quiet_processes():
    """The settings that tests/conftest.py makes for the other tests.

    The nets are tiny: threads that wait actively would fight for the cores.  A background job
    begins with Ctrl-C ignored, and so would its commands.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        if "OMP_WAIT_POLICY" not in os.environ:
            patch.setenv("OMP_WAIT_POLICY", "passive")
        yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A small task for workers: U-Net of 2 base channels on a pair of 64 px."""
    folder = tmp_path_factory.mktemp("task")
    image, label = make_pair(0, 0, 0, 64)
    np.savez(folder / "pair.npz", image=image[None] / np.float32(255),
             label=(label > 0).astype(np.int32), weight=np.ones(label.shape, np.float32))
    return {"scratch": str(folder), "pair": str(folder / "pair.npz"), "mode": "Unet", "side": 64,
            "batch": 1, "base_channels": 2}


def alive(pid):
    """Whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def children_of(pid, word=b""):
    """The numbers of the processes that a process has started, with a word in their command."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if word in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


# --------------------------------------------------------------------------------------- a worker
@pytest.mark.parametrize("contender", ["ours", "full", "channels_last", "autocast_full",
                                       "autocast"])
def test_a_worker_trains_and_predicts(task, contender):
    grown = {**task, "batch": 2, "side": 96}
    with Race.WorkerProcess(**grown, contender=contender) as worker:
        losses = [worker.ask("train")["loss"] for _ in range(3)]
        answer = worker.ask("predict")
    assert all(np.isfinite(losses)) and answer["shape"] == [2, 2, 96, 96]
    assert 0 < answer["seconds"] < worker.age() and 0 < worker.import_s < worker.age()
    assert 50e6 < answer["peak_bytes"] < 3e9
    assert not alive(worker.process.pid)


@pytest.fixture
def rivals():
    """Skips where the packages of requirements/rivals.txt are not installed."""
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)


@pytest.mark.parametrize("mode", ["Unet", "U2netS"])
def test_exported_nets_answer_as_the_twin(task, rivals, tmp_path, mode):
    import torch

    from alignment import TorchModel
    grown = {**Worker.TASK, **task, "mode": mode, "scratch": str(tmp_path), "contender": "full"}
    torch.manual_seed(0)
    options = Worker.contender_options(mode, grown["base_channels"])
    model = TorchModel.build_model(mode, 1, 2, **options).eval()
    inputs = Worker.make_batch(grown).inputs
    with torch.no_grad():
        expected = model(torch.from_numpy(inputs))
    expected = (expected[0] if isinstance(expected, list) else expected).numpy()
    for name, limit in (("onnx", 1e-4), ("openvino_f32", 1e-4), ("openvino", 0.05)):
        contender = Exported.ExportedContender({**grown, "contender": name})
        found = contender.run(inputs)
        assert np.abs(found - expected).max() <= limit * np.abs(expected).max()
        assert contender.predict()["shape"] == (1, 2, 64, 64)
    assert len(list(tmp_path.glob("*.onnx"))) == 1


@pytest.mark.parametrize("contender", ["onnx", "openvino_f32", "openvino"])
def test_an_exported_net_races(task, rivals, contender):
    with Race.WorkerProcess(**task, contender=contender) as worker:
        answer = worker.ask("predict")
    assert answer["shape"] == [1, 2, 64, 64] and 20e6 < answer["peak_bytes"] < 1e9


def test_what_takes_long_to_compile_is_left_out(task):
    with pytest.raises(Race.WorkerFailed, match="no first step within 1 s"):
        Race.WorkerProcess(**task, contender="compiled", compile_s=1).ask("train")


def test_what_is_missing_is_left_out_with_a_reason(monkeypatch):
    monkeypatch.setattr(Contenders, "has_bf16", lambda: True)
    monkeypatch.setattr(Contenders.importlib.util, "find_spec", lambda name: name != "openvino")
    missing = "openvino is not installed; pip install -r requirements/rivals.txt"
    left_out = Contenders.find_left_out()
    assert left_out == {"openvino_f32": missing, "openvino": missing}
    assert Contenders.contenders_of("predict", Contenders.CONTENDERS, left_out)[-1] == "onnx"
    assert "onnx" not in Contenders.contenders_of("train", Contenders.CONTENDERS, left_out)
    monkeypatch.setattr(Contenders, "has_bf16", lambda: False)
    left_out = Contenders.find_left_out()
    assert left_out["autocast"] == "this processor has no avx512_bf16"
    assert not {"ours", "full", "compiled", "onnx"} & {*left_out}


def test_busy_processes_end_with_the_block_and_with_their_parent():
    script = "import Race\nwith Race.busy_processes(2): print('on', flush=True); input()"
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True,
                              env={**os.environ, "PYTHONPATH": COMMAND_PATH})
    parent.stdout.readline()
    assert wait_until(lambda: len(children_of(parent.pid, b"getppid")) == 2)
    busy = children_of(parent.pid, b"getppid")
    parent.kill()
    parent.communicate(timeout=60)
    assert wait_until(lambda: not any(map(alive, busy)), 20)
    with Race.busy_processes(1):
        assert wait_until(lambda: children_of(os.getpid(), b"getppid"))
        (own,) = children_of(os.getpid(), b"getppid")
    assert not alive(own)


def test_a_worker_makes_several_steps_a_command_of_a_padded_net(task):
    losses = []
    for steps in (1, 3):
        grown = {**task, "padding": 1, "steps": steps}
        with Race.WorkerProcess(**grown, contender="full") as worker:
            losses.append([worker.ask("train")["loss"] for _ in range(4 - steps)])
            assert worker.ask("predict")["shape"] == [1, 2, 64, 64]
    assert losses[1] == pytest.approx(losses[0][2:], rel=1e-4)  # the third step's


def test_pytorch_without_a_gpu_is_told_in_one_line(task):
    with pytest.raises(Race.WorkerFailed, match="finds no GPU here"):
        Race.WorkerProcess(**task, contender="full", device="cuda")


def test_the_reference_protocol_stitches_four_blocks(task):
    with Race.WorkerProcess(**{**task, "side": 512}, contender="reference") as worker:
        assert np.isfinite(worker.ask("train")["loss"])
        assert worker.ask("predict")["shape"] == [1, 2, 512, 512]


def test_the_workers_batch_is_the_loaders(tmp_path, task):
    pairs = []
    for folder, pixels in zip(("imgs", "labels"), make_pair(0, 0, 0, 64)):
        (tmp_path / folder).mkdir()
        write_png(tmp_path / folder / "a.png", pixels)
        pairs.append(tmp_path / folder / "a.png")
    dataset = SegmentationSet([pairs], 1, 2, Statistics((0.0,), (1.0,)))
    loader = TrainingLoader(dataset, UNET_BILINEAR, maps=WeightMaps(tmp_path))
    expected = loader.batch([0], 0)
    found = Worker.make_batch({**Worker.TASK, **task, "contender": "ours"})
    assert np.allclose(found.inputs, expected.inputs, atol=1e-6)
    assert np.array_equal(found.labels, expected.labels)
    assert found.weights.shape == expected.weights.shape


@pytest.mark.parametrize("wrong, word", [({"mode": "Unit"}, "Unit"),
                                         ({"pair": "/nowhere.npz"}, "nowhere")])
def test_a_mistake_in_a_worker_is_told_in_one_line(task, wrong, word):
    with (pytest.raises(Race.WorkerFailed, match=word) as failure,
          Race.WorkerProcess(**{**task, **wrong}, contender="full") as worker):
        worker.ask("train")
    assert "\n" not in str(failure.value)


def test_a_worker_that_is_killed_becomes_a_failed_row_and_the_others_go_on(task, monkeypatch):
    ask = Race.WorkerProcess.ask

    def kill_and_ask(worker, command):
        if "channels_last" in worker.process.args[-1]:
            os.kill(worker.process.pid, signal.SIGKILL)
        return ask(worker, command)

    monkeypatch.setattr(Race.WorkerProcess, "ask", kill_and_ask)
    good, dead = Race.race("train", ("full", "channels_last"), 2, **task)
    assert len(good["seconds"]) == 2 and len(good["losses"]) == 3 and "failed" not in good
    assert 0 < good["import_s"] < good["start_s"] and good["first_s"] < good["start_s"]
    assert "SIGKILL" in dead["failed"] and dead["median_s"] is None and good["median_s"] > 0


def test_no_worker_outlives_a_parent_that_is_killed(task):
    script = ("import sys, json, Race\n"
              "worker = Race.WorkerProcess(**json.loads(sys.argv[1]), contender='full')\n"
              "print(worker.process.pid, flush=True)\n"
              "while True: worker.ask('train')")
    parent = subprocess.Popen(
        [sys.executable, "-c", script, json.dumps(task)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": COMMAND_PATH})
    worker = int(parent.stdout.readline())
    assert alive(worker)
    parent.kill()
    parent.communicate()
    assert wait_until(lambda: not alive(worker), 10)


# ------------------------------------------------------------------------------------ the command
def test_ctrl_c_ends_the_command_and_its_workers(tmp_path):
    with open(tmp_path / "stderr", "w") as stderr:
        process = subprocess.Popen(
            [*COMMAND, "--quick", "--modes", "Unet", "--Result_directory", str(tmp_path / "out")],
            stdout=subprocess.PIPE, stderr=stderr, text=True)
        try:
            assert wait_until(lambda: children_of(process.pid, b"Worker.py"), 120)
            workers = children_of(process.pid, b"Worker.py")
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130 and output == ""
    assert "Traceback" not in (tmp_path / "stderr").read_text()
    assert not any(map(alive, workers))
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("flags", [["--repeats", "0"], ["--modes", "Vnet"], ["--quik"],
                                   ["--modes"]])
def test_a_wrong_flag_is_answered_in_one_line(flags):
    done = subprocess.run([*COMMAND, *flags], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1


def test_flags():
    def settings(*flags):
        return Bench.bench_settings(Bench.build_parser().parse_args(flags))
    assert settings() == (["Unet", "U2netS", "U2net"], False, 3, 60)
    assert settings("--quick") == (["Unet", "U2netS"], True, 1, 60)
    found = settings("--quick", "--repeats", "5", "--modes", "U2net", "U2net", "--compile_s", "9")
    assert found == (["U2net"], True, 5, 9)


# --------------------------------------------------------------------------------- the arithmetic
def test_multiply_adds_are_those_of_the_paper():
    """By hand: valid 3x3 convolutions with skips, 252 px in, 2 base channels.

    The side falls by 2 with each convolution.
    """
    def double(side, channels_in, middle, out):
        return 9 * ((side - 2) ** 2 * channels_in * middle + (side - 4) ** 2 * middle * out)
    expected = (double(252, 1, 2, 2) + double(124, 2, 4, 4) + double(60, 4, 8, 8)
                + double(28, 8, 16, 16) + double(12, 16, 16, 16) + double(16, 32, 16, 8)
                + double(24, 16, 8, 4) + double(40, 8, 4, 2) + double(72, 4, 2, 2)
                + 68 ** 2 * 2 * 2)
    count = Machine.count_multiply_adds
    assert count("Unet", "ours", 64, 2) == count("Unet", "full", 68, 2) == expected
    assert count("U2netS", "full", 512, 64) == 4 * count("U2netS", "full", 256, 64)
    assert count("Unet", "reference", 512, 4) > count("Unet", "full", 512, 4)


def test_the_ceiling(monkeypatch):
    monkeypatch.setattr(Machine, "SGEMM_SIDE", 256)
    monkeypatch.setattr(Machine, "COPY_FLOATS", 1_000_000)
    found = Machine.measure_ceiling()
    assert 0.1 < found["sgemm_gflops"] < 1e5 and 0.1 < found["copy_gbs"] < 1e4


# -------------------------------------------------------------------------------- the whole of it
def made_row(contender, seconds, kind="train", mode="Unet", **more):
    median = float(np.median(seconds)) if seconds else None
    return {"mode": mode, "kind": kind, "contender": contender, "side": 512, "batch": 1,
            "base_channels": 64, "seconds": seconds, "median_s": median, "losses": [],
            "first_s": 9.0, "import_s": 1.0, "start_s": 11.0, "peak_bytes": 2e9,
            "multiply_adds": 10 ** 11, **more}


def test_the_table_and_the_picture_tell_ratios_shares_and_failures(tmp_path):
    rows = [made_row("ours", [2.0, 1.0, 9.0]), made_row("reference", [6.0, 6.0, 6.0]),
            made_row("full", [4.0, 3.0, 5.0]),
            made_row("compiled", [], failed="RuntimeError: no compiler"),
            made_row("ours", [], "predict", failed="ended by SIGKILL"),
            made_row("full", [0.5], "predict"), made_row("ours", [0.5], mode="U2netS"),
            made_row("autocast", [0.3], mode="U2netS"), made_row("full", [0.4], mode="U2netS")]
    crowd = [made_row("ours", [1.0], beside=0), made_row("full", [2.0], beside=0),
             made_row("ours", [2.5], beside=2), made_row("full", [], beside=2, failed="gone")]
    ceiling = {"sgemm_gflops": 150.0, "copy_gbs": 20.0}
    results = {"settings": {"repeats": 3, "quick": True, "modes": ["Unet"]}, "races": rows,
               "versions": {f"package {k}": "1.2.3" for k in range(12)},
               "left_out": {"onnx": "onnx is not installed"}, "crowd": crowd,
               "machine": {"name": "CPU", "load": 0.0, "ceiling": [ceiling] * 2},
               "starts": [made_row("ours", []), made_row("full", [], failed="gone")],
               "data": {"weight map": [0.25, 0.5, 0.1]},
               "growth": [made_row("ours", [1.5], batch=2)]}
    text = "\n".join(Tables.result_lines(results))
    assert "ours, float32 is 3.00 times as fast as the reference protocol" in text
    assert "ours, float32 is 2.00 times as fast as the best of its rivals (PyTorch, eager)" in text
    assert "\nLeft out: ONNX Runtime: onnx is not installed\n" in text
    assert "| Unet, training | ours, float32 | 2.000 | 2.0 GB | PyTorch, eager | 4.000 |" in text
    assert ("Where ours is behind:\n  U2netS, training: ours, float32 is 0.80 times as fast as the "
            "best of its rivals (PyTorch, eager)") in text
    (line,) = [line for line in text.splitlines() if "Unet, training, ours, float32" in line]
    assert line.split()[-4:] == ["1.000", "1.00", "2.500", "0.40"]
    assert "300      2.00" in text  # 2 x 3 x 1e11 operations in 2 s, of 150 GFLOP/s
    assert "failed: RuntimeError: no compiler" in text
    assert "failed: ended by SIGKILL" in text
    assert max(map(len, text.splitlines())) <= 121
    Rivals.draw_races(tmp_path / "bench.png", rows, "CPU")
    assert [path.name for path in tmp_path.iterdir()] == ["bench.png"]


def test_a_small_benchmark_from_end_to_end(tmp_path, monkeypatch, capsys):
    """Everything but the sizes and torch.compile: U-Net of 2 base channels."""
    contenders = ("ours", "reference", "full")
    sizes = (Bench.Size("train", 64, 2), Bench.Size("predict", 64, 1))
    monkeypatch.setattr(Preparation, "SAMPLE_PAIRS", 2)
    monkeypatch.setattr(Machine, "SGEMM_SIDE", 256)
    monkeypatch.setattr(Machine, "COPY_FLOATS", 1_000_000)
    monkeypatch.setattr(Bench, "RACE_CHANNELS", 2)
    chosen = {name: Contenders.CONTENDERS[name] for name in contenders}
    for module in (Contenders, Bench):
        monkeypatch.setattr(module, "CONTENDERS", chosen)
    monkeypatch.setattr(Bench, "CROWD_MODES", ("Unet",))
    monkeypatch.setattr(Bench, "CROWD_CHANNELS", 2)
    monkeypatch.setattr(Bench, "CROWD_REPEATS", 1)
    monkeypatch.setattr(Bench, "CROWD", ("ours", "full"))
    monkeypatch.setattr(Bench, "GROWTH_MODES", ("Unet",))
    monkeypatch.setattr(Bench, "GROWTH_CHANNELS", 2)
    monkeypatch.setattr(Bench, "GROWTH", sizes)
    monkeypatch.setattr(Bench, "STARTS", 1)
    flags = ["--modes", "Unet", "--repeats", "1", "--Result_directory", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["Bench.py", *flags])
    assert Bench.main() == 0
    output = capsys.readouterr().out
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["bench.json", "bench.png", "bench.txt"]
    assert (tmp_path / "bench.txt").read_text() in output and "failed" not in output
    results = json.loads((tmp_path / "bench.json").read_text())
    assert [(row["kind"], row["contender"]) for row in results["races"]] == [
        (kind, name) for kind in ("train", "predict") for name in contenders]
    assert len(results["data"]) == 5 and len(results["growth"]) == 2
    assert len(results["starts"]) == 2
    assert [(row["beside"], row["contender"]) for row in results["crowd"]] == [
        (0, "ours"), (0, "full"), (2, "ours"), (2, "full")]
