"""MakeData.py: its flags, and the sample set, which comes out the same and replaces no file.

test_importdata.py and test_checkdata.py test the other subcommands.
"""
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("--size", 64, "--train", 2, "--test", 1)


def command(*flags, cwd=ROOT):
    return subprocess.run([sys.executable, str(ROOT / "MakeData.py"), *map(str, flags)], cwd=cwd,
                          text=True, capture_output=True, timeout=120, encoding="utf-8")


@pytest.fixture
def small(make_data):
    """The command for a small sample set, within this process."""
    def command(folder, *flags):
        flags = ("sample", "--Data_directory", folder, *(flags or SMALL))
        return subprocess.CompletedProcess(flags, *make_data(*flags))
    return command


def read_set(folder):
    """{"train/imgs/cell_01.png": pixels, ...} of the files that MakeData makes."""
    return {path.relative_to(folder).as_posix(): np.asarray(Image.open(path))
            for path in sorted(folder.glob("*/*/cell_[0-9][0-9].png"))}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """The default set, made by the command in an empty folder."""
    folder = tmp_path_factory.mktemp("fresh")
    done = command("sample", cwd=folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "12 training and 4 test pairs of 256 x 256" in done.stdout
    assert done.stdout.splitlines()[-1] == (
        "next: python Main.py --Data_directory data/sample --n_channels 1 --n_classes 2 "
        "--protocol fast")
    return folder / "data" / "sample"


def test_layout_sizes_and_values(fresh):
    pictures = read_set(fresh)
    expected = {f"{split}/{kind}/cell_{k:02d}.png"
                for split, count in (("train", 12), ("test", 4))
                for kind in ("imgs", "labels") for k in range(1, count + 1)}
    assert set(pictures) == expected
    files = {path.relative_to(fresh).as_posix() for path in fresh.rglob("*") if path.is_file()}
    assert files == expected
    for name, pixels in pictures.items():
        assert pixels.shape == (256, 256) and pixels.dtype == np.uint8
        if "/labels/" in name:
            assert set(np.unique(pixels)) == {0, 255}
    assert sum(path.stat().st_size for path in fresh.rglob("*.png")) < 1_000_000
    different = {pixels.tobytes() for pixels in pictures.values()}
    assert len(different) == len(pictures)


def test_committed_sample_is_what_the_command_makes(fresh):
    committed, made = read_set(ROOT / "data" / "sample"), read_set(fresh)
    assert set(committed) == set(made)
    for name in made:
        assert np.array_equal(committed[name], made[name]), name


def test_second_run_uses_what_is_there(small, tmp_path, snapshot):
    assert small(tmp_path / "set").returncode == 0
    before = snapshot(tmp_path)
    done = small(tmp_path / "set")
    assert (done.returncode, done.stderr) == (0, "") and "used as they are" in done.stdout
    assert snapshot(tmp_path) == before


def test_augmented_copies_do_not_disturb(small, tmp_path, snapshot):
    folder = tmp_path / "set"
    assert small(folder).returncode == 0
    for kind in ("imgs", "labels"):
        Image.new("L", (64, 64)).save(folder / "train" / kind / "cell_01-0.png")
    (folder / "train" / "imgs" / "augmentation_manifest.jsonl").write_text("{}\n")
    before = snapshot(folder)
    assert small(folder).returncode == 0
    assert snapshot(folder) == before
    (folder / "test" / "labels" / "cell_01.png").unlink()  # as after an interrupted run
    done = small(folder)
    assert done.returncode == 0 and "1 of them new" in done.stdout
    assert {name: content for name, (content, _) in snapshot(folder).items()} == \
           {name: content for name, (content, _) in before.items()}


def test_more_pairs_are_added_to_the_same_set(small, tmp_path, snapshot):
    assert small(tmp_path).returncode == 0
    before = snapshot(tmp_path)
    done = small(tmp_path, "--size", 64, "--train", 3, "--test", 1)
    assert done.returncode == 0 and "1 of them new" in done.stdout
    after = snapshot(tmp_path)
    assert {name: after[name] for name in before} == before and len(after) == len(before) + 2


@pytest.mark.parametrize("name", ["train/imgs/cell_02.png", "test/labels/cell_01.png"])
@pytest.mark.parametrize("content", ["picture", "text"])
def test_a_file_of_the_user_is_never_replaced(small, tmp_path, name, content, snapshot):
    path = tmp_path / "set" / name
    path.parent.mkdir(parents=True)
    Image.new("L", (64, 64), 7).save(path) if content == "picture" else path.write_text("mine")
    before = snapshot(tmp_path)
    done = small(tmp_path / "set")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and path.name in done.stderr
    assert snapshot(tmp_path) == before


def test_another_data_set_is_not_mixed_with_the_sample(small, tmp_path, snapshot):
    path = tmp_path / "train" / "imgs" / "frame_0001.png"
    path.parent.mkdir(parents=True)
    Image.new("L", (64, 64)).save(path)
    before = snapshot(tmp_path)
    done = small(tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "frame_0001.png" in done.stderr
    assert snapshot(tmp_path) == before


def test_other_arguments_do_not_overwrite(small, tmp_path, snapshot):
    assert small(tmp_path).returncode == 0
    before = snapshot(tmp_path)
    done = small(tmp_path, *SMALL, "--seed", 1)
    assert done.returncode == 1 and "choose another --Data_directory" in done.stderr
    assert snapshot(tmp_path) == before


ISBI = ("isbi", "--Source_directory", ".")
FOLDERS = ("folders", "--images", ".", "--labels", ".", "--Data_directory", "set")


@pytest.mark.parametrize("flags", [
    (), ("simple",), ("sample", "--size", "63"), ("sample", "--train", "0"),
    ("sample", "--seed", "-1"), ("sample", "--siz", "64"), ("sample", "--size", "nan"),
    ("isbi",), (*ISBI, "--hold_out", "first"),
    (*ISBI, "--test_slices", "30"), (*ISBI, "--test_slices", "0"),
    ("consep",), ("consep", "--Source_directory", ".", "--layout", "strips"),
    FOLDERS[:5], FOLDERS[:3] + FOLDERS[5:], (*FOLDERS, "--test_fraction", "1"),
    (*FOLDERS, "--test_fraction", "0"), (*FOLDERS, "--group", "slide"),
    (*FOLDERS, "--group", "(slide"), ("check",),
    ("check", "--Data_directory", ".", "--n_channels", "17"),
    ("check", "--Data_directory", ".", "--n_classes", "1")])
def test_mistakes_in_flags(make_data, tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    code, output, error = make_data(*flags)
    assert code == 2 and error.count("\n") == 1 and output == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["sample", "isbi", "consep", "folders", "annotations",
                                  "check"])
def test_help_imports_nothing_heavy(name):
    code = ("import sys\nimport MakeData\n"
            "try:\n    MakeData.main()\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
            "heavy = ('scipy', 'tifffile', 'tqdm', 'jittor')\n"
            "print([name for name in heavy if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code, name, "--help"], cwd=ROOT, text=True,
                          capture_output=True, timeout=60)
    assert done.stdout.endswith("\n[]\n") and "--Data_directory" in done.stdout, done.stderr


def test_a_folder_that_cannot_be_made(small, tmp_path):
    (tmp_path / "set").write_text("a file")
    done = small(tmp_path / "set")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert (tmp_path / "set").read_text() == "a file"
