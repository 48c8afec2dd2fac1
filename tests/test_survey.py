"""datasets/survey.py: each file decoded once, facts against NumPy, changed files read again."""
import json
import os

import numpy as np
import pytest
from PIL import Image

from command.errors import DataError
from datasets import facts as module
from datasets import survey as survey_module
from datasets.labels import load_label
from datasets.survey import Survey, digest_of_set, facts_of_set, statistics_of, values_of
from images.formats import write_png
from images.values import load_image

GREY = np.arange(20, dtype=np.uint8).reshape(4, 5)
COLOUR = np.dstack([GREY, GREY, GREY + 1])


@pytest.fixture
def decoded(monkeypatch):
    """The paths that have been decoded so far."""
    paths = []
    for name in ("read_image", "read_label"):
        read = getattr(module, name)
        monkeypatch.setattr(module, name, lambda path, *more, read=read: (
            paths.append(path) or read(path, *more)))
    return paths


def write_pairs(folder, images, labels):
    """Write images and labels as PNG files: [(image path, label path)]."""
    pairs = []
    for k, pair in enumerate(zip(images, labels)):
        paths = tuple(folder / kind / f"{k}.png" for kind in ("imgs", "labels"))
        for path, pixels in zip(paths, pair):
            path.parent.mkdir(exist_ok=True)
            write_png(path, pixels)
        pairs.append(paths)
    return pairs


def test_statistics_equal_numpys(tmp_path):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (5 + k, 9, 3), np.uint8) // (k + 1) for k in range(4)]
    for image in images:
        image[..., 1] = 77  # a constant channel
    pairs = write_pairs(tmp_path, images, [image[..., 0] for image in images])
    for n_channels in (1, 3):
        planes = [load_image(path, n_channels).reshape(n_channels, -1) for path, _ in pairs]
        pixels = np.concatenate(planes, axis=1).astype(np.float64)
        found = statistics_of(Survey(), [image for image, _ in pairs], n_channels)
        np.testing.assert_allclose(found.mean, pixels.mean(axis=1), rtol=1e-9)
        expected = pixels.std(axis=1)
        expected[expected < 1e-6] = 1
        np.testing.assert_allclose(found.std, expected, rtol=1e-9)
        assert all(type(value) is float for value in found.mean + found.std)
        assert found.dtype == "uint8"


@pytest.mark.parametrize("image, dtype, channels, is_colour, kind", [
    (GREY, "uint8", 1, False, "8-bit grey"), (COLOUR, "uint8", 3, True, "8-bit RGB"),
    (np.repeat(GREY[..., None], 3, axis=2), "uint8", 3, False, "8-bit RGB"),
    (GREY.astype(np.uint16) * 300, "uint16", 1, False, "16-bit grey")])
def test_facts_of_an_image(tmp_path, image, dtype, channels, is_colour, kind):
    write_png(tmp_path / "a.png", image)
    facts = Survey().image(tmp_path / "a.png")
    assert (facts.height, facts.width, facts.dtype, facts.channels) == (4, 5, dtype, channels)
    assert (facts.is_colour, facts.is_flat, facts.kind) == (is_colour, False, kind)
    for n_channels in (1, 3):
        sums = facts.sums_for(n_channels)
        planes = load_image(tmp_path / "a.png", n_channels).astype(np.float64)
        np.testing.assert_allclose(sums, [planes.sum(axis=(1, 2)), (planes ** 2).sum(axis=(1, 2))])


def test_equal_pixels_have_one_digest_however_they_are_stored(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png", compress_level=0)
    Image.fromarray(GREY).save(tmp_path / "b.tif")
    Image.fromarray(GREY + 1).save(tmp_path / "c.png")
    a, b, c = (Survey().image(tmp_path / name) for name in ("a.png", "b.tif", "c.png"))
    assert a.pixels == b.pixels != c.pixels and a.content != b.content


@pytest.mark.parametrize("n_classes, ignored", [(2, None), (4, None), (4, 3), (2, 3), (3, None)])
def test_class_counts_are_those_of_the_label(tmp_path, n_classes, ignored):
    write_png(tmp_path / "a.png", np.array([[0, 0, 1, 2, 3, 3, 3]], np.uint8))
    counts = Survey().label(tmp_path / "a.png").class_counts(n_classes, ignored)
    if n_classes == 3:
        assert counts.tolist() == [2, 1, 1, 3], "a value that is no class is counted, to be refused"
        return
    classes = load_label(tmp_path / "a.png", n_classes, ignored)
    assert counts.tolist() == [(classes == value).sum() for value in range(n_classes)]


def test_each_file_is_decoded_once_ever(tmp_path, decoded):
    pairs = write_pairs(tmp_path, [GREY, GREY + 1], [GREY, GREY])
    every = sorted(path for pair in pairs for path in pair)
    facts = []
    for expected in (every, [], []):
        decoded.clear()
        survey = Survey(tmp_path)
        survey.read(pairs)
        assert sorted(decoded) == expected
        facts.append([*map(survey.image, every[:2]), *map(survey.label, every[2:])])
    assert facts[0] == facts[1] == facts[2]
    write_png(pairs[1][0], GREY + 2)
    os.utime(pairs[0][1], ns=(0, 0))
    decoded.clear()
    Survey(tmp_path).read(pairs)
    assert sorted(decoded) == [pairs[1][0], pairs[0][1]], "what has changed, and nothing else"


@pytest.mark.parametrize("damage", [
    "", "[]", "null", "{", '{"version": 1}', '{"version": 1, "files": []}',
    '{"version": 99, "files": {}}', b"\xff\xfe", "entry", "facts", "values", "kind"])
def test_a_damaged_survey_is_made_anew(tmp_path, decoded, damage):
    pairs = write_pairs(tmp_path, [GREY], [GREY])
    Survey(tmp_path).read(pairs)
    whole = json.loads((tmp_path / "survey.json").read_text())
    if damage in ("entry", "facts", "values", "kind"):
        for entry in whole["files"].values():
            if damage == "entry":
                entry.pop("facts")
            elif damage == "facts":
                entry["facts"].pop("height")
            elif damage == "kind":
                entry["facts"]["height"] = None
            else:
                entry["facts"]["values"] = 5
        damage = json.dumps(whole)
    content = damage if isinstance(damage, bytes) else damage.encode()
    (tmp_path / "survey.json").write_bytes(content)
    decoded.clear()
    survey = Survey(tmp_path)
    survey.read(pairs)
    assert pairs[0][1] in decoded
    assert survey.label(pairs[0][1]).values == dict.fromkeys(range(20), 1)
    decoded.clear()
    Survey(tmp_path).read(pairs)
    assert decoded == []


def test_a_survey_that_is_stopped_keeps_what_it_has(tmp_path, decoded, monkeypatch):
    pairs = write_pairs(tmp_path, [GREY] * 3, [GREY] * 3)
    pairs[1][0].write_bytes(pairs[1][0].read_bytes()[:50])
    monkeypatch.setattr(survey_module, "check_sizes", lambda pairs: None)
    with pytest.raises(DataError, match="imgs/1.png: not a readable image"):
        Survey(tmp_path).read(pairs)
    write_png(pairs[1][0], GREY)
    decoded.clear()
    Survey(tmp_path).read(pairs)
    assert pairs[1][0] in decoded and pairs[0][0] not in decoded


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(tmp_path):
    pairs = write_pairs(tmp_path, [GREY], [GREY])
    Survey(tmp_path / "nowhere").read(pairs)
    assert not (tmp_path / "nowhere").exists()


def test_sizes_that_differ_are_told_before_anything_is_decoded(tmp_path, decoded):
    pairs = write_pairs(tmp_path, [GREY, GREY], [GREY, GREY.T])
    with pytest.raises(DataError,
                       match="labels/1.png: 5 x 4 px .* but its image .*imgs/1.png has 4 x 5 px"):
        Survey(tmp_path).read(pairs)
    assert decoded == []


def test_known_files_that_are_paired_otherwise(tmp_path):
    pairs = write_pairs(tmp_path, [GREY, GREY.T], [GREY, GREY.T])
    Survey(tmp_path).read(pairs)
    crossed = [(pairs[0][0], pairs[1][1])]
    with pytest.raises(DataError, match="labels/1.png: 5 x 4 px"):
        Survey(tmp_path).read(crossed)


def test_a_file_that_breaks_its_reader_is_named(tmp_path, monkeypatch):
    """Whatever the exception: Main.py ends in one line, `MakeData.py check` goes on."""
    def fail(path, n_channels):
        raise IndexError("tag")
    monkeypatch.setattr(survey_module, "examine_image", fail)
    write_png(tmp_path / "a.png", np.zeros((4, 5), np.uint8))
    with pytest.raises(DataError, match="a.png: not expected: IndexError: tag"):
        Survey().read([(tmp_path / "a.png", tmp_path / "a.png")])


def test_a_note_lasts_as_long_as_its_label(tmp_path):
    pairs = write_pairs(tmp_path, [GREY], [GREY])
    survey = Survey(tmp_path)
    survey.read(pairs)
    survey.note(pairs[0][1], "map", "10 5")
    survey.save()
    assert Survey(tmp_path).label(pairs[0][1]).notes == {"map": "10 5"}
    write_png(pairs[0][1], GREY + 1)
    assert Survey(tmp_path).label(pairs[0][1]).notes == {}


def test_a_file_that_changes_while_it_is_decoded_is_read_again(tmp_path, monkeypatch):
    pairs = write_pairs(tmp_path, [GREY], [GREY])
    read = module.read_label

    def read_and_change(path):
        label = read(path)
        write_png(path, np.zeros((4, 5), np.uint8))
        return label
    monkeypatch.setattr(module, "read_label", read_and_change)
    Survey(tmp_path).read(pairs)
    monkeypatch.setattr(module, "read_label", read)
    assert Survey(tmp_path).label(pairs[0][1]).values == {0: 20}


def test_a_note_does_not_hide_that_its_label_has_changed(tmp_path):
    pairs = write_pairs(tmp_path, [GREY], [GREY])
    survey = Survey(tmp_path)
    survey.read(pairs)
    write_png(pairs[0][1], np.zeros((4, 5), np.uint8))
    survey.note(pairs[0][1], "map", "10 5")
    survey.save()
    facts = Survey(tmp_path).label(pairs[0][1])
    assert (facts.values, facts.notes) == ({0: 20}, {})


def test_facts_of_a_set(tmp_path):
    labels = [np.eye(4, 5, dtype=np.uint8), np.zeros((7, 3), np.uint8),
              np.full((2, 9), 3, np.uint8)]
    images = [GREY, np.zeros((7, 3), np.uint8), np.dstack([labels[2]] * 2 + [labels[2] + 1])]
    train, held, test = ([pair] for pair in write_pairs(tmp_path, images, labels))
    facts = facts_of_set(Survey(), train, held, test, None)
    assert (facts.training_sizes, facts.tested_sizes) == (((4, 5),), ((7, 3),))
    assert (facts.height, facts.width, facts.n_channels) == (7, 5, 1), (
        "those of the training images")
    assert facts.n_classes == 2, "labels of one value above 0 are masks"
    assert facts_of_set(Survey(), train + test, [], held * 3, None).n_channels == 3
    assert facts_of_set(Survey(), train, [], held * 3, None).tested_sizes == ((7, 3),) * 3
    assert values_of(Survey(), [label for _, label in train + held], None) == {0: 37, 1: 4}
    assert values_of(Survey(), [label for _, label in train + held], 1) == {0: 37}


def test_the_digest_tells_names_and_contents(tmp_path):
    pairs = write_pairs(tmp_path, [GREY, GREY + 1], [GREY, GREY])
    first = digest_of_set(Survey(), pairs)
    os.utime(pairs[0][0], ns=(0, 0))
    assert digest_of_set(Survey(), pairs) == first and digest_of_set(Survey(), pairs[:1]) != first
    assert digest_of_set(Survey(), pairs[::-1]) != first
    write_png(pairs[0][1], GREY + 1)
    assert digest_of_set(Survey(), pairs) != first
