"""Pictures go to files, whatever a notebook or a machine says to Matplotlib."""
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import command
from PIL import Image

from images.figures import figure, import_matplotlib
from images.formats import write_png

# what a notebook hands on to `!python Main.py`, where its package is not installed
BACKEND = "module://matplotlib_inline.backend_inline"
NAME = "细胞 $x^$"  # Matplotlib's font lacks the letters, and the dollars would be a formula


@pytest.fixture
def here(tmp_path):
    """A folder with a pair of files, predictions, probabilities, and the CSVs of two runs."""
    rng = np.random.default_rng(0)
    for folder in ("imgs", "labels", "results", "logs"):
        (tmp_path / folder).mkdir()
    label = np.zeros((48, 64), np.uint8)
    label[8:30, 10:40] = 255
    write_png(tmp_path / "imgs" / f"{NAME}.png", rng.integers(0, 255, (48, 64), np.uint8))
    write_png(tmp_path / "labels" / f"{NAME}.png", label)
    write_png(tmp_path / "results" / f"{NAME}_pred.png", label)
    np.save(tmp_path / "results" / f"{NAME}_prob.npy", rng.random((48, 64), np.float32))
    for name in ("a", NAME):
        (tmp_path / "logs" / f"{name}.csv").write_text(
            "epoch,train_loss,iou,dice,f1,epoch_time,throughput\n0,0.5,0.4,0.5,0.6,2,1.5\n")
    return tmp_path


LABEL, IMAGE = f"labels/{NAME}.png", f"imgs/{NAME}.png"
COMMANDS = {
    "Loss.py": ["--label", LABEL, "--output", "x.png"],
    "Transforms.py": ["--img", IMAGE, "--label", LABEL, "--preview", "x.png"],
    "Report.py": ["--compare", "logs/a", f"logs/{NAME}", "--picture", "x.png"],
    "DataAugmentation.py": ["--img_path", "imgs", "--mask_path", "labels", "--preview", "x.png"],
    "MirrorPadding.py": ["--image", IMAGE, "--output", "x.png"],
    "Metrics.py": ["--Prediction_directory", "results", "--Label_directory", "labels",
                   "--curve_picture", "x.png", "--csv", "x.csv", "--metric", "curve"],
}


@pytest.mark.parametrize("script", COMMANDS)
def test_commands_draw_into_files(here, script):
    done = command(script, *COMMANDS[script], cwd=here, MPLBACKEND=BACKEND,
                   MPLCONFIGDIR="/proc/no/such/folder")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "atplotlib" not in done.stderr and "Glyph" not in done.stderr
    assert len(np.unique(np.asarray(Image.open(here / "x.png")))) > 10


def test_the_environment_stays_as_it_is(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", BACKEND)
    import_matplotlib()
    assert os.environ["MPLBACKEND"] == BACKEND
    monkeypatch.delenv("MPLBACKEND")
    import_matplotlib()
    assert "MPLBACKEND" not in os.environ


def test_two_dollars_are_no_formula(tmp_path):
    with figure(tmp_path / "a.png", 1, 1, (3, 2)) as axes:
        axes[0, 0].set_title(r"$\nonsense{$")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_matplotlib_is_imported_in_one_place():
    """Everybody else asks `import_matplotlib`, or draws within `figure`."""
    root = Path(__file__).resolve().parent.parent
    users = [path.relative_to(root).as_posix()
             for path in (*root.glob("*.py"), *root.glob("[a-z]*/*.py"))  # no environment's files
             if path.parent.name != "tests" and "import matplotlib" in path.read_text()]
    assert users == ["images/figures.py"]
