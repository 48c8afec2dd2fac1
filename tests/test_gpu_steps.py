"""The steps on a device, their records and the page; small processes stand for the real ones."""
import json
import os
import sys
import time
from types import SimpleNamespace

import GpuPlan
import GpuProbe
import GpuRace
import GpuSteps
import GpuSummary
import pytest
from GpuSteps import CUT_OFF, FAILED, PASSED, DeviceStep, Records, in_order, run_in_time
from helpers import command
from Contenders import GPU_CONTENDERS, RACE_KINDS

ENDLESS_CHILD = ("import os, subprocess, sys, time\n"
                 "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])\n"
                 "print(child.pid, flush=True)\n"
                 "time.sleep(600)")


@pytest.fixture
def records(tmp_path):
    return Records(tmp_path)


def made_step(script, name="a", limit=60):
    command_words = [sys.executable, "-c", script]
    return DeviceStep(name, f"step {name}", command_words, limit, GpuSteps.json_line)


def run_now(step, records, card="A", seconds=600):
    """Run a step with so many seconds left; its record."""
    run_in_time(step, records, card, time.monotonic() + seconds)
    return records.rows.get(step.name)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# ----------------------------------------------------------------------------------------- one step
def test_a_step_that_passes_leaves_its_values_on_disk(records):
    record = run_now(made_step("print('words'); print('[1, 2]')"), records)
    assert (record["state"], record["values"], record["reason"]) == (PASSED, [1, 2], "")
    assert Records(records.folder).rows == records.rows
    assert "words\n[1, 2]\n" in records.log.read_text()


@pytest.mark.parametrize("script, word", [
    ("import sys; sys.exit('no such card')", "exit code 1: no such card"),
    ("print('all is well')", "exit code 0: all is well"),
    ("import os; os.abort()", "exit code -6")])
def test_a_step_that_fails_says_why_in_one_line(records, script, word):
    record = run_now(made_step(script), records)
    assert record["state"] == FAILED and word in record["reason"] and "\n" not in record["reason"]


def test_a_step_is_killed_at_its_limit_with_all_that_it_has_started(records):
    record = run_now(made_step(ENDLESS_CHILD, limit=1), records)
    assert record["state"] == CUT_OFF and record["reason"] == "not done after 1 s"
    child = int(records.log.read_text().split()[-1])
    for _ in range(100):
        if not is_alive(child):
            break
        time.sleep(0.05)
    assert not is_alive(child)


def test_the_output_of_a_step_is_its_own(records):
    run_now(made_step("print('[1]')"), records)
    run_now(made_step("pass", name="b"), records)
    assert records.rows["b"]["reason"] == "exit code 0: "


# ------------------------------------------------------------------------------------ several calls
def test_a_call_goes_on_where_the_last_one_stopped(records):
    good, bad, new = (made_step("print(1)", "good"), made_step("raise SystemExit(3)", "bad"),
                      made_step("print(1)", "new"))
    for step in (good, bad):
        run_now(step, records)
    again = Records(records.folder)
    assert in_order([good, bad, new], again, "A") == [new, bad]  # what was tried comes last
    assert in_order([good, bad, new], again, "B") == [good, bad, new]  # another card


def test_a_step_waits_where_less_than_half_of_its_limit_is_left(records, capsys):
    step = made_step("print(1)", limit=60)
    assert run_now(step, records, seconds=25) is None
    assert "waits for the next call" in capsys.readouterr().out
    assert run_now(step, records, seconds=35)["state"] == PASSED


def test_a_step_that_the_deadline_cuts_off_waits_for_those_that_are_new(records):
    step, new = made_step("import time; time.sleep(60)", limit=2), made_step("", "new")
    assert run_now(step, records, seconds=1.5)["state"] == CUT_OFF
    assert in_order([step, new], records, "A") == [new, step]


# ---------------------------------------------------------------------------------------- the plan
def test_the_tests_on_a_gpu_must_have_run():
    assert GpuPlan.tests_line("...\n===== 5 passed in 3.1s =====\n") == "5 passed in 3.1s"
    for line in ("3 passed, 2 skipped in 1s", "no tests ran in 0.1s", ""):
        with pytest.raises(ValueError):
            GpuPlan.tests_line(line)


def planned(records, **changed):
    """The words of a training's command, and its step."""
    known = {"data": records.folder / "set", "mode": "Unet", "minutes": 8, "is_default": False,
             "left": 570}
    step = GpuPlan.train_step(records, **{**known, **changed})
    return step, [str(word) for word in step.command]


def test_a_training_goes_on_where_it_was_cut_off_and_only_there(records):
    step, words = planned(records)
    assert step.name == "train_set_Unet" and "--resume" not in words and "fast" in words
    last = records.folder / step.name / "checkpoints" / "last_model.safetensors"
    last.parent.mkdir(parents=True)
    last.touch()
    assert "--resume" in planned(records)[1] and last.exists()  # the machine went away
    records.enter(step.name, {"state": CUT_OFF})
    assert "--resume" in planned(records)[1] and last.exists()
    records.enter(step.name, {"state": PASSED})  # on another card
    assert "--resume" not in planned(records)[1] and not last.exists()


def test_a_training_fits_into_the_time_that_is_left(records):
    step, words = planned(records, left=300)
    minutes = float(words[words.index("--Time_budget") + 1])
    assert 3 < minutes < 4 and step.limit / 2 < 300
    step, words = planned(records, is_default=True, minutes=3)
    assert step.name == "default_set_Unet" and "--protocol" not in words and "3" in words


def test_each_file_of_tests_is_a_step_of_the_check(tmp_path):
    names = [step.name for step in GpuPlan.check_steps(tmp_path)]
    assert names[:-6] == ["doctor", "test_golden_on_gpu", "test_nets", "test_own_kernels",
                          "test_runs"]
    assert names[-6:] == [f"align_{mode}_{precision}" for precision in ("float32", "tf32")
                          for mode in ("Unet", "U2netS", "U2net")]


def test_the_flags_of_a_training_are_those_of_main(records):
    import Main
    _, words = planned(records)
    args = Main.build_parser().parse_args(words[2:])
    assert args.device == "cuda" and records.folder in args.Log_directory.parents


def test_a_training_is_read_from_its_csv(records):
    logs = records.folder / "logs"
    logs.mkdir()
    (logs / "a.csv").write_text("epoch,train_loss,iou,dice,f1,epoch_time,throughput\n"
                                "0,1.5,,,,2.0,10\n"
                                "1,1.2,0.8,0.9,0.9,1.0,30\n2,1.1,0.7,0.85,0.85,1,20\n")
    found = GpuPlan.training_values(logs, "")
    assert (found["epochs"], found["seconds"], found["images_per_s"]) == (3, 4.0, 20)
    assert found["best"]["dice"] == 0.9 and found["last"]["dice"] == 0.85
    (logs / "a.csv").write_text("epoch,train_loss,iou\n0,1.5,\n")
    with pytest.raises(ValueError):
        GpuPlan.training_values(logs, "")


# ---------------------------------------------------------------------------------------- the page
def raced(contender, milliseconds, **more):
    return {"mode": "Unet", "batch": 1, "kind": "train", "contender": contender,
            "median_s": milliseconds and milliseconds / 1e3, **more}


def filled(records, card="NVIDIA H100"):
    """Records of a start, a check, a race and a training."""
    def enter(name, values, state=PASSED, reason="", card=card):
        records.enter(name, {"state": state, "reason": reason, "seconds": 12.3, "card": card,
                             "title": f"the {name}", "values": values})
    enter("start", {"card": card, "driver": "580", "versions": {"Jittor": "1.3"},
                    "kernels": ["resize"]})
    enter("doctor", ["many", "lines"])
    enter("tests", None, FAILED, "1 failed | 2 passed")
    enter("align_Unet_tf32", ["a table"])
    lost = {name: raced(name, None, failed="RuntimeError: no GPU") for name in GPU_CONTENDERS}
    enter("bench_Unet_1", [*{**lost, "ours": raced("ours", 10, peak_bytes=2 ** 31),
                             "full": raced("full", 17, peak_bytes=2 ** 30)}.values()])
    scores = {"iou": 0.87, "dice": 0.93}
    enter("train_set_Unet", {"epochs": 9, "best": scores, "last": scores, "seconds": 470.0,
                             "images_per_s": 50.0})
    enter("bench_Unet_8", [], card="another")
    GpuSummary.write_summary(records)
    return records.summary.read_text()


def test_the_page_has_the_results_of_its_card(records):
    page = filled(records)
    assert page.startswith("# On NVIDIA H100\n") and "stand-in" not in page
    assert "Own CUDA kernels in use: resize." in page
    assert "| Unet | 1 | training | 10.0 | 17.0 (1.70) | - | - | - |" in page
    assert "- PyTorch, compiled, TF32: RuntimeError: no GPU" in page
    assert "| Unet | 1 | training | 2.0 | 1.0 | - | - | - |" in page
    assert "| the tests | failed | 12 | 1 failed \\| 2 passed |" in page
    assert "| 9 | 7.8 | 50.0 | 0.8700, 0.9300 | 0.8700, 0.9300 |" in page
    assert page.index("```text\nmany\nlines\n```") < page.index("```text\na table\n```")
    assert "left out: 1." in page


def test_the_page_of_a_stand_in_says_that_its_numbers_mean_nothing(records):
    assert "No number on this page means anything" in filled(records, GpuProbe.STAND_IN)


# ------------------------------------------------------------------------------------ the command
def test_a_machine_without_a_gpu_is_told_in_one_line(tmp_path):
    done = command("benchmarks/Gpu.py", "bench", "--Result_directory", tmp_path / "out",
                   cwd=tmp_path, nvcc_path="")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "does not start on a GPU" in done.stderr and "nvcc_path" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".lock", "gpu.log"]


@pytest.mark.parametrize("batch, together", [(1, 5), (8, 2)])
def test_a_gpu_holds_the_contenders_of_a_large_batch_two_by_two(monkeypatch, batch, together):
    alive, most = set(), []

    class Worker:
        import_s, age = 1.0, staticmethod(lambda: 2.0)

        def __init__(self, contender, **_task):
            alive.add(contender)
            most.append(len(alive))
            self.name, self.process = contender, SimpleNamespace(pid=len(most), poll=lambda: None)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            alive.discard(self.name)

        def ask(self, kind):
            return {"seconds": 0.5, "peak_bytes": 1, "loss": 1.0}

    monkeypatch.setattr(GpuRace, "WorkerProcess", Worker)
    monkeypatch.setattr(GpuRace, "gpu_memory_of_processes", lambda: {1: 7})
    rows = GpuRace.race_on_gpu(tuple(GPU_CONTENDERS), 3, mode="Unet", side=512, batch=batch,
                               base_channels=64)
    assert max(most) == together and not alive
    assert [(row["kind"], row["contender"]) for row in rows] == [
        (kind, name) for kind in RACE_KINDS for name in GPU_CONTENDERS]
    for row in rows:
        heats = 4 if batch > 1 and row["contender"] == "ours" else 1
        assert row["seconds"] == [0.5] * 3 * heats and row["median_s"] == 0.5


def test_contenders_begin_one_after_the_other_but_for_what_compiles_long():
    rows = [{"contender": name} for name in GPU_CONTENDERS]
    rows[0]["first_s"] = 1.0
    assert GpuRace.lanes_of(rows) == ([rows[3]], [rows[1], rows[2], rows[4]])


def test_the_drivers_answer_is_read(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '12, 300\\n34, 1024\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert GpuRace.gpu_memory_of_processes() == {12: 300 * 2 ** 20, 34: 2 ** 30}
    program.write_text("#!/bin/sh\necho '12, [N/A]'\n")
    assert GpuRace.gpu_memory_of_processes() == {}


def test_the_last_line_of_a_probe_is_json():
    assert GpuSteps.json_line(f"words\n{json.dumps({'card': 'A'})}\n\n") == {"card": "A"}
