"""Training on large images, as processes: kept decoded or not, in one piece or resumed."""
import itertools
import signal

import pytest
from helpers import Page, assert_same, command, end, results, start_command, write_set

pytestmark = pytest.mark.usefixtures("machine")

FLAGS = [str(flag) for flag in (
    "--Data_directory", "data", "--protocol", "fast", "--tile", 32, "--base_channels", 4,
    "--Batch_size", 16, "--Total_epochs", 3, "--Val_epochs", 2, "--loss", "weighted_ce",
    "--augment", "full", "--device", "cpu")]
KEPT = "Large images are kept decoded in DataTxt/decoded/: 0.00 GB"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with two large images, a small one, and a complete run on them."""
    folder = tmp_path_factory.mktemp("large")
    write_set(folder / "data", [(300, 340), (60, 60), (310, 330)], [(48, 48)], channels=3)
    done = command("Main.py", *FLAGS, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_large_image_gives_the_crops_that_cover_it(trained):
    """300 x 340 px are 99.6 crops of 32 px, 310 x 330 px are 99.9; 60 x 60 px are 3.5."""
    folder, done = trained
    assert "3 training pairs (201 crops an epoch; images/s counts crops)" in done.stdout
    assert KEPT in done.stdout, "two images and their labels, not the small one"
    files = list((folder / "DataTxt" / "decoded").glob("*.npy"))
    assert sorted(path.stat().st_size for path in files) == sorted(
        128 + size for area in (300 * 340, 310 * 330) for size in (area, 3 * area))
    page, = folder.glob("logs/report_*.html")
    assert "3 training images (201 crops an epoch; images/s counts crops)," in Page(page).text


def test_the_bits_are_those_of_decoding_each_time_and_of_a_run_that_was_stopped(trained, tmp_path):
    folder, _ = trained
    (tmp_path / "data").symlink_to(folder / "data")
    process = start_command(tmp_path, *FLAGS, "--cache_size", "0")
    lines = list(itertools.takewhile(lambda line: not line.startswith("epoch   0"), process.stdout))
    code, printed = end(process, signal.SIGINT)
    assert code == 130 and "To go on: python Main.py --resume" in printed, printed
    assert lines and not any("kept decoded" in line for line in lines)
    assert not (tmp_path / "DataTxt" / "decoded").exists()
    done = command("Main.py", "--resume", "--cache_size", 1, cwd=tmp_path)
    assert done.returncode == 0 and KEPT in done.stdout, done.stderr
    assert "Resumed at epoch 1, step" in done.stdout
    assert_same(results(tmp_path), results(folder))


def test_one_crop_of_each_image(trained, tmp_path):
    folder, _ = trained
    (tmp_path / "data").symlink_to(folder / "data")
    done = command("Main.py", *FLAGS, "--crops_per_image", 1, cwd=tmp_path)
    assert done.returncode == 0 and "3 training pairs, 1 test pairs" in done.stdout, done.stderr
    done = command("Main.py", "--resume", "--crops_per_image", "auto", cwd=tmp_path)
    assert done.returncode == 2 and "--crops_per_image auto (was 1)" in done.stderr
