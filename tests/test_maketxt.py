"""MakeTxt.py: pairs matched by name, lists that are whole or untouched, mistakes in one line."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command.errors import DataError
from datasets.lists import current_pairs, make_lists, read_list

ROOT = Path(__file__).resolve().parents[1]
LISTS = ("lists.json", "test_image.txt", "test_label.txt", "train_image.txt", "train_label.txt")


def write_images(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(folder / name)


@pytest.fixture
def data(tmp_path):
    """A data set with names whose sorted order differs between images and labels."""
    folder = tmp_path / "set"
    write_images(folder / "train" / "imgs", ["img_2.tif", "img_10.png", "a-b.png", "a.png"])
    write_images(folder / "train" / "labels", ["img_2.png", "img_10.png", "a-b.bmp", "a.tif"])
    write_images(folder / "test" / "imgs", ["x.png"])
    write_images(folder / "test" / "labels", ["x.png"])
    return folder


def command(*flags, cwd=ROOT):
    return subprocess.run([sys.executable, str(ROOT / "MakeTxt.py"), *map(str, flags)],
                          cwd=cwd, text=True, capture_output=True, timeout=60, encoding="utf-8")


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*") if path.is_file()}


def test_pairs_are_matched_by_name(data, tmp_path):
    pairs = make_lists(data, tmp_path / "lists")
    assert {image.stem for image, _ in pairs["train"]} == {"img_2", "img_10", "a-b", "a"}
    assert all(image.stem == label.stem for split in pairs.values() for image, label in split)
    assert sorted(path.name for path in (tmp_path / "lists").iterdir()) == sorted(LISTS)
    for split in ("train", "test"):
        assert read_list(tmp_path / "lists", split) == pairs[split]
    assert (tmp_path / "lists" / "test_label.txt").read_text() == (
        f"{(data / 'test' / 'labels' / 'x.png').as_posix()}\n")


def test_command_writes_paths_as_given(data, tmp_path):
    done = command("--Data_directory", "./set", "--Datatxt_directory", "lists", cwd=tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (
        0, "", "4 training pairs, 1 test pairs listed in lists\n")
    assert (tmp_path / "lists" / "test_image.txt").read_text() == "set/test/imgs/x.png\n"


def test_hidden_and_other_files_are_ignored(data, tmp_path):
    (data / "train" / "imgs" / ".DS_Store").write_bytes(b"x")
    (data / "train" / "imgs" / "._a.png").write_bytes(b"x")
    (data / "train" / "labels" / "Thumbs.db").write_bytes(b"x")
    (data / "train" / "imgs" / "augmentation_manifest.jsonl").write_text("{}\n")
    assert len(make_lists(data, tmp_path / "lists")["train"]) == 4


def test_nothing_is_deleted(data, tmp_path):
    lists = tmp_path / "lists"
    (lists / "folder").mkdir(parents=True)
    (lists / "notes.txt").write_text("mine")
    (lists / "folder" / "more.txt").write_text("mine too")
    before = snapshot(tmp_path)
    make_lists(data, lists)
    make_lists(data, lists)
    after = snapshot(tmp_path)
    assert {name: after[name] for name in before} == before
    assert {name.name for name in after.keys() - before.keys()} == set(LISTS)


@pytest.mark.parametrize("split, kind, name", [("train", "imgs", "only_image.png"),
                                               ("test", "labels", "only_label.png")])
def test_missing_partner_is_named_and_lists_stay(data, tmp_path, split, kind, name):
    lists = tmp_path / "lists"
    make_lists(data, lists)
    before = snapshot(lists)
    write_images(data / split / kind, [name])
    done = command("--Data_directory", data, "--Datatxt_directory", lists)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and name in done.stderr
    assert snapshot(lists) == before


def test_lists_are_replaced_together_or_not_at_all(data, tmp_path, monkeypatch):
    lists = tmp_path / "lists"
    make_lists(data, lists)
    before = snapshot(lists)
    write_images(data / "train" / "imgs", ["new.png"])
    write_images(data / "train" / "labels", ["new.png"])
    write, calls = Path.write_bytes, []

    def full_disk(path, content):
        calls.append(path)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        return write(path, content)
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError):
        make_lists(data, lists)
    monkeypatch.undo()
    assert snapshot(lists) == before


@pytest.mark.parametrize("missing", ["", "train", "test", "train/imgs", "test/labels"])
def test_missing_folder_names_the_way_out(data, tmp_path, missing):
    (data / missing).rename(tmp_path / "away")
    done = command("--Data_directory", data, "--Datatxt_directory", tmp_path / "lists")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"{data / missing}: no such folder" in done.stderr
    assert "python MakeData.py sample" in done.stderr and "data/README.md" in done.stderr
    assert not (tmp_path / "lists").exists()


def test_empty_split_is_an_error(data, tmp_path):
    for kind in ("imgs", "labels"):
        (data / "test" / kind / "x.png").unlink()
    with pytest.raises(DataError, match="no images"):
        make_lists(data, tmp_path / "lists")


def test_line_break_in_a_name(data, tmp_path):
    for kind in ("imgs", "labels"):
        write_images(data / "train" / kind, ["two\nlines.png"])
    done = command("--Data_directory", data, "--Datatxt_directory", tmp_path / "lists")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert r"two\nlines.png" in done.stderr


def test_unusual_names_survive(data, tmp_path):
    names = ["mit Leerzeichen und ä.png", "细胞.png", "a\u2028b.png"]
    for kind in ("imgs", "labels"):
        write_images(data / "train" / kind, names)
    pairs = make_lists(data, tmp_path / "lists")
    assert read_list(tmp_path / "lists", "train") == pairs["train"]
    assert set(names) <= {image.name for image, _ in pairs["train"]}


def test_flag_mistake_is_exit_code_2():
    done = command("--Data", "x")
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_list_folder_that_is_a_file(data, tmp_path):
    (tmp_path / "lists").write_text("a file")
    done = command("--Data_directory", data, "--Datatxt_directory", tmp_path / "lists")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "lists" in done.stderr
    assert (tmp_path / "lists").read_text() == "a file"


def test_read_list_mistakes(data, tmp_path):
    lists = tmp_path / "lists"
    with pytest.raises(DataError, match="python MakeTxt.py"):
        read_list(lists, "train")
    make_lists(data, lists)
    image_list = lists / "train_image.txt"
    lines = image_list.read_text()
    image_list.write_bytes(lines.replace("\n", "\r\n").encode())  # an editor on Windows
    assert len(read_list(lists, "train")) == 4
    image_list.write_text("".join(lines.splitlines(keepends=True)[1:]))
    with pytest.raises(DataError, match="4 labels for 3 images"):
        read_list(lists, "train")
    image_list.write_text(lines)
    (data / "train" / "imgs" / "a.png").unlink()
    with pytest.raises(DataError, match="a.png: listed in"):
        read_list(lists, "train")
    for name in ("test_image.txt", "test_label.txt"):
        (lists / name).write_text("\n")
    with pytest.raises(DataError, match="empty list"):
        read_list(lists, "test")


# ----------------------------------------------------------------------- lists that a person edited
@pytest.fixture
def edited(data, tmp_path):
    """The lists of `data`, of which a person has taken a training pair away."""
    lists = tmp_path / "lists"
    make_lists(data, lists)
    for kind in ("image", "label"):
        path = lists / f"train_{kind}.txt"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    return lists


def test_an_edited_list_is_honoured(data, edited):
    before = snapshot(edited)
    found = current_pairs(data, edited)
    assert found.train == read_list(edited, "train") and len(found.train) == 3
    assert len(found.test) == 1
    assert found.remarks == [f"{edited}/train_*.txt was edited: 3 pairs are listed, "
                             "4 are in the folder; `python MakeTxt.py` renews it"]
    assert current_pairs(data, edited) == found, "again and again"
    assert {name: content for name, content in snapshot(edited).items()
            if name.name != "lists.json"} == {
                name: content for name, content in before.items() if name.name != "lists.json"}


def test_the_other_split_is_renewed(data, edited):
    for kind in ("imgs", "labels"):
        write_images(data / "test" / kind, ["y.png"])
    found = current_pairs(data, edited)
    assert len(found.train) == 3 and len(found.test) == 2 and len(read_list(edited, "test")) == 2


def test_one_list_of_two_edited(data, edited):
    """Line k of one belongs to line k of the other."""
    (edited / "train_label.txt").write_text((edited / "train_label.txt").read_text() * 2)
    with pytest.raises(DataError, match="6 labels for 3 images"):
        current_pairs(data, edited)


def test_two_listed_files_of_one_name_are_refused(data, edited):
    """Their weight maps and predictions would be files of one name."""
    images, labels = (read_list(edited, "train")[0][k] for k in (0, 1))
    for kind, path in (("image", images), ("label", labels)):
        other = data / "more" / path.name
        write_images(other.parent, [other.name])
        with open(edited / f"train_{kind}.txt", "a") as file:
            file.write(f"{other.as_posix()}\n")
    with pytest.raises(DataError, match="an edited list names .* and .*more.*, of one name"):
        current_pairs(data, edited)


@pytest.mark.parametrize("renew", ["MakeTxt", "undo"])
def test_a_list_that_is_as_it_was_is_no_edited_one(data, edited, renew):
    if renew == "MakeTxt":
        make_lists(data, edited)
    else:
        whole = (sorted((data / "train" / "imgs").iterdir()),
                 sorted((data / "train" / "labels").iterdir()))
        for kind, paths in zip(("image", "label"), whole):
            stems = sorted(paths, key=lambda path: [p.stem for p in whole[0]].index(path.stem))
            (edited / f"train_{kind}.txt").write_text(
                "".join(f"{path.as_posix()}\n" for path in stems))
    for kind in ("imgs", "labels"):
        write_images(data / "train" / kind, ["new.png"])
    found = current_pairs(data, edited)
    assert len(found.train) == 5 and found.remarks == [] and len(read_list(edited, "train")) == 5


@pytest.mark.parametrize("digests", [None, "", "{", "[]", '{"train_image.txt": 5}'])
def test_lists_without_a_digest_are_renewed(data, edited, digests):
    (edited / "lists.json").unlink()
    if digests is not None:
        (edited / "lists.json").write_text(digests)
    found = current_pairs(data, edited)
    assert len(found.train) == 4 and found.remarks == []


def test_an_edited_list_of_another_set_is_refused(data, edited, tmp_path):
    write_images(tmp_path / "other" / "train" / "imgs", ["a.png"])
    write_images(tmp_path / "other" / "train" / "labels", ["a.png"])
    (data / "test").rename(tmp_path / "other" / "test")
    before = snapshot(edited)
    with pytest.raises(DataError, match="an edited list names .*, outside .*other; "
                                        "give another --Datatxt_directory"):
        current_pairs(tmp_path / "other", edited)
    assert snapshot(edited) == before


def test_a_kill_between_two_lists_looks_like_no_edit(data, tmp_path, monkeypatch):
    """Whichever lists have their new content by then, the next run renews them."""
    import os
    lists = tmp_path / "lists"
    make_lists(data, lists)
    replace = os.replace
    for killed_at in range(6):
        for kind in ("imgs", "labels"):
            write_images(data / "train" / kind, [f"new_{killed_at}.png"])
        done = []

        def dying(source, target):
            if len(done) == killed_at:
                raise KeyboardInterrupt
            done.append(target)
            replace(source, target)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dying)
            if killed_at < 5:
                with pytest.raises(KeyboardInterrupt):
                    current_pairs(data, lists)
            else:
                current_pairs(data, lists)
        found = current_pairs(data, lists)
        assert found.remarks == [] and len(found.train) == 5 + killed_at


RACE = """
import sys
from datasets.lists import current_pairs
for _ in range(60):
    for line in current_pairs(sys.argv[1], "lists").remarks:
        print(line)
"""


def test_commands_that_start_together_see_no_edit(data, tmp_path):
    """Processes on three data sets share the folder of the lists; each renews what others wrote."""
    for name in ("one", "two"):
        for split in ("train", "test"):
            for kind in ("imgs", "labels"):
                write_images(tmp_path / name / split / kind, [f"{name}.png"])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen([sys.executable, "-c", RACE, str(folder)], cwd=tmp_path,
                                  env=environment, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True)
                 for folder in (data, tmp_path / "one", tmp_path / "two")]
    for process in processes:
        printed, _ = process.communicate(timeout=300)
        assert (process.returncode, printed) == (0, "")
