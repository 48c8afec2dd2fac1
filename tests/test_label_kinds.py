"""What label values are: recognised from files, said with the reason, alike in all commands."""
import json

import numpy as np
import pytest
from helpers import command, settings_of
from nuclei import ellipses, write_nuclei
from scipy import ndimage

import Main
from command.errors import DataError
from datasets.check import check_set
from datasets.copies import Manifest
from datasets.label_kinds import (ObjectFacts, count_objects, decide_kind, describe_border,
                                  object_facts)
from datasets.label_values import LabelKind, count_values, total_values
from datasets.objects import training_target
from datasets.survey import Survey, facts_of_set
from images.formats import png_bytes, write_png
from runs.choices import Device, complete
from runs.resume import as_texts, parse_stored, read_stored

CLASSES = LabelKind("classes")


def rows(*values, pieces=1):
    """A label of bars, one below the other, each broken into some pieces, on background."""
    label = np.zeros((2 * len(values) + 1, 4 * pieces), np.uint16)
    for k, value in enumerate(values):
        label[2 * k + 1] = np.tile([value, value, value, 0], pieces)
    return label


def kind_of(folder, *labels, survey=None, **flags):
    paths = []
    for k, label in enumerate(labels):
        paths.append(folder / f"{k}.png")
        write_png(paths[-1], label)
    return decide_kind(survey or Survey(), paths, **flags)


# --------------------------------------------------------------------------------- the rule itself
def test_more_than_eight_whole_values_are_objects(tmp_path):
    found = kind_of(tmp_path, rows(*range(1, 8)), rows(300, 4000))
    assert found == ("objects", "9 values above 0, 100% in one piece in each label; if these are "
                                "classes: --label_kind classes")
    assert kind_of(tmp_path, rows(*range(1, 10)), rows(1), ignore_label=9).kind == "classes"


def test_nearly_all_must_be_whole(tmp_path):
    """The limit is 95 % of (file, value): 19 of 20 here, 18 of 19 there."""
    label = rows(*range(1, 21))
    label[1, 1] = 0
    assert kind_of(tmp_path, label).kind == "objects"
    label[label == 20] = 0
    assert kind_of(tmp_path, label) == CLASSES
    broken = rows(*range(1, 10), pieces=2)
    assert kind_of(tmp_path, broken, *[rows(*range(1, 10))] * 18).kind == "classes"
    assert kind_of(tmp_path, broken, *[rows(*range(1, 10))] * 19).kind == "objects"


@pytest.mark.parametrize("values", [(1, 2, 3), range(1, 9), (7, 500, 90)])
def test_a_few_that_look_alike_are_classes_with_a_word(tmp_path, values):
    kind, reason = kind_of(tmp_path, rows(*values))
    assert kind == "classes" and reason.endswith("if these number objects: --label_kind objects")
    assert kind_of(tmp_path, rows(*values, pieces=2)) == CLASSES


@pytest.mark.parametrize("values", [(), (1,), (255,), (1, 2), (1, 255)])
def test_masks_are_never_counted(tmp_path, values, monkeypatch):
    monkeypatch.setattr("datasets.label_kinds.count_objects", None)
    assert kind_of(tmp_path, rows(*values)) == CLASSES


def test_soft_edges_stay_masks(tmp_path):
    soft = ndimage.gaussian_filter(255.0 * (ellipses(1, 128) > 0), 1).round().astype(np.uint8)
    assert len(np.unique(soft)) > 50
    assert kind_of(tmp_path, soft) == CLASSES
    facts = facts_of_set(Survey(), [(tmp_path / "0.png",) * 2], [], [(tmp_path / "0.png",) * 2],
                         None)
    assert facts.n_classes == 2


def test_flags_decide(tmp_path, monkeypatch):
    many = rows(*range(1, 30))
    assert kind_of(tmp_path, many, n_classes=2).kind == "objects"
    monkeypatch.setattr("datasets.label_kinds.count_objects", None)
    assert kind_of(tmp_path, many, n_classes=30) == CLASSES
    assert kind_of(tmp_path, many, label_kind="classes") == CLASSES
    assert kind_of(tmp_path, rows(1), label_kind="objects") == LabelKind("objects")


def test_copies_do_not_count(tmp_path):
    """Where a warp mirrors the image at its edges, it shows an object twice."""
    folders = [tmp_path / kind for kind in ("imgs", "labels")]
    for folder in folders:
        folder.mkdir()
    paths = [folders[1] / name for name in ("a.png", "a-0.png", "a-1.png")]
    for path, pieces in zip(paths, (1, 2, 2)):
        write_png(path, rows(*range(1, 20), pieces=pieces))
    assert decide_kind(Survey(), paths).kind == "classes"
    content = png_bytes(rows(*range(1, 20), pieces=2))
    for path in paths[1:]:
        Manifest(*folders).write_files([folders[0] / path.name, path], [content, content])
    assert decide_kind(Survey(), paths).kind == "objects"
    assert decide_kind(Survey(), paths[1:]).kind == "classes", "all there is"


# ------------------------------------------------------------------------------- what is counted
def test_objects_are_counted_once(tmp_path, monkeypatch):
    survey = Survey(tmp_path)
    label = rows(*range(1, 10))
    label[2, 0] = 99  # between two others: nothing is left of it
    kind_of(tmp_path, label, label, survey=survey)
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    monkeypatch.setattr("datasets.label_kinds.count_objects", None)
    for each in (survey, Survey(tmp_path)):
        assert object_facts(each, paths, None) == ObjectFacts(20, 20, 2, 0)
    stored = json.loads((tmp_path / "survey.json").read_text())
    for entry in stored["files"].values():
        entry["facts"]["notes"] = {name: "5 x" for name in entry["facts"]["notes"]}
    (tmp_path / "survey.json").write_text(json.dumps(stored))
    monkeypatch.undo()
    assert object_facts(Survey(tmp_path), paths, None) == ObjectFacts(20, 20, 2, 0), "damaged"


def test_count_objects_by_definition():
    objects = ellipses(3, 200, (3, 9), tried=200)
    target = training_target(objects)
    pieces = {number: [ndimage.label(each == number, np.ones((3, 3)))[1]
                       for each in (objects, target)] for number in range(1, objects.max() + 1)}
    counts = np.array(list(pieces.values()))
    assert count_objects(objects) == (
        len(counts), (counts[:, 0] == 1).sum(), (counts[:, 1] == 0).sum(),
        (counts[:, 1] > counts[:, 0]).sum())


def test_values_of_32_bits():
    """The largest number may be 2^32 - 1: nothing is as long as that."""
    many = [count_values(np.array([[0, 7, 2 ** 32 - 1, 7]], np.uint32)),
            count_values(np.array([[0, 7]], np.uint8)),
            count_values(np.array([[65535]], np.uint16))]
    assert many == [{0: 1, 7: 2, 2 ** 32 - 1: 1}, {0: 1, 7: 1}, {65535: 1}]
    assert total_values(many) == {0: 2, 7: 3, 65535: 1, 2 ** 32 - 1: 1}
    assert list(total_values(many, 7)) == [0, 65535, 2 ** 32 - 1]


# ------------------------------------------------------------------------------------ the commands
@pytest.fixture
def nuclei(tmp_path):
    for split, count, seed in (("train", 3, 0), ("test", 2, 9)):
        write_nuclei(tmp_path / "set" / split, count, seed, step=3, size=96, radii=(6, 10))
    return tmp_path


def test_check_proposes_the_right_command(nuclei, capsys):
    kind, objects = "objects", sum(ellipses(k, 96, (6, 10)).max() for k in range(3))
    verdict = check_set(nuclei / "set", Survey())
    out = capsys.readouterr().out.splitlines()
    assert verdict == (True, 1, 2, kind)
    assert f" {objects} objects in " in out[0]
    assert out[2].startswith("labels are objects (") and "--label_kind classes" in out[2]
    assert out[-1] == "5 pairs, sound"
    done = command("MakeData.py", "check", "--Data_directory", "set", cwd=nuclei)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == (
        "next: python Main.py --Data_directory set --n_channels 1 --n_classes 2 "
        "--label_kind objects --protocol fast")
    done = command("MakeData.py", "check", "--Data_directory", "set", "--label_kind", "objects",
                   "--n_classes", 3, cwd=nuclei)
    assert done.returncode == 2 and "only with --n_classes 2, not 3" in done.stderr
    done = command("MakeData.py", "check", "--Data_directory", "set", "--label_kind", "classes",
                   "--n_classes", 2, cwd=nuclei)
    assert done.returncode == 0 and "--n_classes 2 --label_kind classes" in done.stdout


def test_check_names_what_the_border_takes(nuclei, capsys):
    label = np.full((96, 96), 5, np.uint16)
    label[10, 10] = 7
    write_png(nuclei / "set/train/labels/0.png", label)
    assert check_set(nuclei / "set", Survey(), label_kind="objects").is_sound
    line, = (line for line in capsys.readouterr().out.splitlines() if "objects to train" in line)
    assert line.endswith("where two touch, each loses 1 px: 1 lost")


@pytest.mark.parametrize("vanished, parted, end", [
    (0, 0, "loses 1 px"), (0, 1200, ": 1,200 in more pieces"),
    (3, 2, ": 3 lost, 2 in more pieces")])
def test_what_the_border_takes_in_words(vanished, parted, end):
    line = describe_border(ObjectFacts(4000, 3999, vanished, parted))
    assert line.startswith("4,000 objects to train on; ") and line.endswith(end)


def prepared(folder, *flags):
    words = ["--Data_directory", folder / "set", "--Datatxt_directory", folder / "DataTxt",
             "--Weight_directory", folder / "weights", "--tile", 48, *flags]
    from runs.request import read_request
    request = read_request([str(word) for word in words], Main.build_parser, Main.PROTOCOLS,
                           Main.CROP)
    return Main.prepare(request, is_gpu=False)


def test_main_chooses_as_check_says(nuclei):
    found = prepared(nuclei)
    settings = found.choice.settings
    assert (settings.data.label_kind, settings.data.n_classes) == ("objects", 2)
    assert "--label_kind classes" in found.choice.reasons["label_kind"]
    assert found.choice.reasons["n_classes"] == "objects and background"
    for each in (found.data.loader.dataset, found.data.test_set):
        assert each.label_kind == "objects"
    target = found.data.loader.dataset.target(0)
    assert (target != found.data.loader.dataset.objects(0)).any()
    assert len(list((nuclei / "weights").glob("*.npy"))) == 3
    assert found.data.remarks == [
        f"{sum(ellipses(k, 96, (6, 10)).max() for k in range(3))} objects to train on; where two "
        "touch, each loses 1 px"]
    as_classes = prepared(nuclei, "--label_kind", "classes", "--n_classes", 2)
    assert as_classes.choice.settings.data.label_kind == "classes"
    assert set(np.unique(as_classes.data.loader.dataset.target(0))) == {0, 1}
    with pytest.raises(DataError, match="give --n_classes .*--label_kind objects"):
        prepared(nuclei, "--label_kind", "classes")


@pytest.mark.parametrize("n_classes", [3, 66])
def test_objects_are_two_classes(n_classes, capsys):
    with pytest.raises(SystemExit) as end:
        settings_of("--label_kind", "objects", "--n_classes", n_classes)
    assert end.value.code == 2
    assert f"--label_kind objects: only with --n_classes 2, not {n_classes}" in (
        capsys.readouterr().err)
    assert settings_of("--label_kind", "objects").data.n_classes is None


def test_runs_from_before_are_of_classes():
    settings = complete(settings_of("--n_channels", 1, "--n_classes", 2, "--tile", 64),
                        facts_of_nothing(), Device(False, 2 ** 33), Main.CROP).settings
    texts = as_texts(settings.flags())
    assert texts.pop("label_kind") == ["classes"]
    run = {"settings": texts, "log": "Unet_2026-01-01_00-00-00", "data": "", "records": [],
           "progress": {}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runs.resume.suits", lambda *_: True)
        stored = read_stored({}, {"run": run})
    kept = parse_stored(stored.settings, Main.build_parser(), "last_model")
    assert kept["label_kind"] == "classes"


def facts_of_nothing():
    from datasets.survey import SetFacts
    return SetFacts(((64, 64),), ((64, 64),), 64, 64, 1, 2, 2)
