"""Commands on a GPU: a run that is resumed, and its predictions, beside the CPU's."""
import shutil

import numpy as np
import pytest
from helpers import FLAGS, command, predictions_of, rows_of, write_set

ON_GPU = [word if word != "cpu" else "cuda" for word in FLAGS]
EPOCHS = FLAGS.index("--Total_epochs") + 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a data set and a complete run on the GPU."""
    folder = tmp_path_factory.mktemp("trained")
    write_set(folder / "data", [(64, 72)] * 5, [(48, 48)] * 2)
    done = command("Main.py", *ON_GPU, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def table_of(folder):
    """The numbers of a run's CSV without its times; NaN where an epoch was not tested."""
    path, = folder.glob("logs/*.csv")
    return np.array([[float(cell or "nan") for cell in row] for row in rows_of(path)])


def test_a_resumed_run_ends_as_the_unbroken_one(trained, tmp_path):
    """To rounding: cuDNN adds up in any order.  Two runs were seen 8 % apart after an epoch."""
    shutil.copytree(trained / "data", tmp_path / "data")
    half = list(ON_GPU)
    half[EPOCHS] = "2"
    assert command("Main.py", *half, cwd=tmp_path).returncode == 0
    done = command("Main.py", "--resume", "--Total_epochs", 4, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found, expected = table_of(tmp_path), table_of(trained)
    assert found.shape == expected.shape and np.array_equal(found[:, 0], expected[:, 0])
    assert np.isclose(found[0, 1], expected[0, 1], rtol=0.02), "the first epoch's loss"
    assert np.allclose(found[:, 1], expected[:, 1], rtol=0.2), "the losses"


def test_a_prediction_is_the_cpus(trained, tmp_path):
    """To rounding, TF32's included, which moves some pixels at the borders of classes."""
    answers = []
    for device in ("cpu", "cuda"):
        folder = tmp_path / device
        done = command("Predict.py", "--Checkpoint", trained / "checkpoints/best_model.safetensors",
                       "--Input", trained / "data/test/imgs", "--Result_directory",
                       folder / "results", "--device", device, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        answers.append(predictions_of(folder))
    found, expected = answers
    assert found.keys() == expected.keys() and len(found) == 2
    for name, mask in found.items():
        assert (mask == expected[name]).mean() >= 0.99, name
    assert any(0 < mask.mean() < mask.max() for mask in expected.values()), "both classes"
