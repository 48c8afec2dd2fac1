"""`python MakeData.py isbi|consep|folders`: pixels, splits and names by hand; nothing replaced."""
import os
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.io import savemat

from datasets.isbi import hold_out
from datasets.pairs import common_endings
from datasets.splits import split_groups


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def noise(*shape, seed=0, high=256, dtype=np.uint8):
    return np.random.default_rng([seed, *shape]).integers(0, high, shape).astype(dtype)


def assert_refused(result, *words):
    """Exit code 1, one line on standard error with these words."""
    code, _, error = result
    assert code == 1 and error.startswith("MakeData.py: error: ") and error.count("\n") == 1, error
    for word in words:
        assert str(word) in error, error


# ---------------------------------------------------------------------------------------- ISBI 2012
VOLUME, CHALLENGE = noise(30, 6, 8), noise(30, 6, 8, seed=1)
LABELS = noise(30, 6, 8, high=2) * np.uint8(255)


@pytest.fixture
def stacks(tmp_path):
    """The challenge's three files, small."""
    folder = tmp_path / "ISBI-2012-challenge"
    folder.mkdir()
    tifffile.imwrite(folder / "train-volume.tif", VOLUME, imagej=True)  # as Fiji saves a stack
    tifffile.imwrite(folder / "train-labels.tif", LABELS, photometric="minisblack")
    tifffile.imwrite(folder / "test-volume.tif", CHALLENGE, photometric="minisblack",
                     contiguous=False, metadata=None)
    return folder


@pytest.fixture
def isbi(make_data, stacks, tmp_path):
    return partial(make_data, "isbi", "--Source_directory", stacks,
                   "--Data_directory", tmp_path / "set")


def test_isbi_pages_become_files(isbi, tmp_path):
    code, output, error = isbi()
    assert (code, error) == (0, "")
    expected = set()
    for page in range(30):
        split, name = "train" if page < 24 else "test", f"frame_{page + 1:04d}.png"
        stacks = {f"{split}/imgs": VOLUME, f"{split}/labels": LABELS, "challenge/imgs": CHALLENGE}
        for kind, stack in stacks.items():
            assert np.array_equal(read(tmp_path / "set" / kind / name), stack[page])
            expected.add(f"{kind}/{name}")
    assert names(tmp_path / "set") == expected
    assert "sections 25, 26, 27, 28, 29, 30\n" in output
    assert "24 training and 6 test pairs of 6 x 8 px" in output
    folder = tmp_path / "set"
    assert output.splitlines()[-1] == (f"next: python Main.py --Data_directory {folder} "
                                       "--n_channels 1 --n_classes 2 --protocol fast")


@pytest.mark.parametrize("count", [1, 4, 6, 7, 29])
def test_spread_sections_are_one_of_each_run(count):
    drawn = [hold_out(30, count, "spread", seed) for seed in range(20)]
    for sections in drawn:
        runs = [sum(30 * k // count <= section < 30 * (k + 1) // count for section in sections)
                for k in range(count)]
        assert runs == [1] * count
    assert hold_out(30, count, "spread", 3) == drawn[3]
    assert len({tuple(sections) for sections in drawn}) > 1


def test_spread_sections_are_disjoint_complete_and_told(isbi, tmp_path):
    code, output, _ = isbi("--hold_out", "spread", "--test_slices", 5, "--seed", 3)
    parts = {split: {int(path.stem[-4:])
                     for path in (tmp_path / "set" / split / "imgs").iterdir()}
             for split in ("train", "test")}
    assert code == 0 and len(parts["test"]) == 5 and not parts["test"] & parts["train"]
    assert parts["test"] | parts["train"] == set(range(1, 31))
    assert f"seed 3): sections {', '.join(map(str, sorted(parts['test'])))}\n" in output


def test_isbi_again_does_nothing_and_mends_what_is_missing(isbi, tmp_path, snapshot):
    assert isbi()[0] == 0
    before = snapshot(tmp_path)
    code, output, _ = isbi()
    assert code == 0 and "used as they are" in output and snapshot(tmp_path) == before
    lost = "set/test/labels/frame_0027.png"
    (tmp_path / lost).unlink()
    for kind in ("imgs", "labels"):  # an augmented copy may stay
        Image.new("L", (8, 6)).save(tmp_path / "set" / "train" / kind / "frame_0001-0.png")
    assert "1 of them new" in isbi()[1]
    after = snapshot(tmp_path)
    assert {name for name in before if after[name] != before[name]} == {lost}
    assert after[lost][0] == before[lost][0]


def test_isbi_does_not_mix_two_splits(isbi, tmp_path, snapshot):
    assert isbi()[0] == 0
    before = snapshot(tmp_path)
    assert_refused(isbi("--test_slices", 7), "choose another --Data_directory")
    assert_refused(isbi("--test_slices", 5), "choose another --Data_directory")
    assert snapshot(tmp_path) == before


def test_isbi_does_not_mix_with_other_images(isbi, tmp_path, snapshot):
    path = tmp_path / "set" / "train" / "imgs" / "cell-0.png"  # no copy of any image of this set
    path.parent.mkdir(parents=True)
    Image.new("L", (8, 6)).save(path)
    before = snapshot(tmp_path)
    assert_refused(isbi(), f"{path}: not of this data set")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("content", [VOLUME[0] ^ 1, VOLUME[0].astype(np.uint16), VOLUME[0].T])
def test_isbi_replaces_no_other_file(isbi, tmp_path, snapshot, content):
    path = tmp_path / "set" / "train" / "imgs" / "frame_0001.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(content).save(path)
    before = snapshot(tmp_path)
    assert_refused(isbi(), path)
    assert snapshot(tmp_path) == before


def truncate(path):
    os.truncate(path, path.stat().st_size // 8)


def replace_by(stack):
    return lambda path: tifffile.imwrite(path, stack, photometric="minisblack")


@pytest.mark.parametrize("name, spoil, words", [
    *[(name, Path.unlink, "no such file; download ISBI 2012 from https://")
      for name in ("train-volume", "train-labels", "test-volume")],
    *[(name, truncate, "get it again") for name in ("train-volume", "train-labels", "test-volume")],
    ("train-volume", lambda path: path.write_text("<html>"), "not a readable TIFF"),
    ("train-labels", replace_by(LABELS[:29]),
     "29 page(s) of uint8 values, but the challenge's file has 30"),
    ("test-volume", replace_by(CHALLENGE[0]), "1 page(s)"),
    ("train-volume", replace_by(VOLUME.astype(np.uint16)), "uint16"),
    ("train-labels", replace_by(LABELS[:, :5]), "5 x 8 px (height x width)"),
    ("train-labels", replace_by(LABELS // 2), "other values than 0"),
])
def test_isbi_names_the_file_that_is_wrong(isbi, stacks, tmp_path, name, spoil, words):
    spoil(stacks / f"{name}.tif")
    assert_refused(isbi(), f"{name}.tif", words)
    assert not (tmp_path / "set").exists()


# ------------------------------------------------------------------------------------------- CoNSeP
TYPES = np.array([[0, 1, 2, 3], [4, 5, 6, 7]])
INSTANCES = np.array([[0, 10, 11, 12], [300, 14, 15, 65535]])
COLOURS = noise(2, 4, 4)  # the official images have an alpha channel


def write_consep(folder, image, **maps):
    """A CoNSeP of one training image and one test image."""
    stored = {key: values.astype(np.float64) for key, values in maps.items()}
    for split in ("Train", "Test"):
        for kind in ("Images", "Labels", "Overlay"):
            (folder / split / kind).mkdir(parents=True)
        Image.fromarray(image).save(folder / split / "Images" / f"{split.lower()}_1.png")
        Image.fromarray(image).save(folder / split / "Overlay" / f"{split.lower()}_1.png")
        savemat(folder / split / "Labels" / f"{split.lower()}_1.mat",
                {"inst_type": [[1.0]], **stored})


@pytest.fixture
def source(tmp_path):
    """Images of 2 x 4 px, with every type of nucleus."""
    write_consep(tmp_path / "CoNSeP", COLOURS, inst_map=INSTANCES, type_map=TYPES)
    return tmp_path / "CoNSeP"


@pytest.fixture
def consep(make_data, tmp_path):
    return partial(make_data, "consep", "--Source_directory", tmp_path / "CoNSeP",
                   "--Data_directory", tmp_path / "set")


@pytest.mark.parametrize("labels, expected, flags", [
    ("binary", [[0, 255, 255, 255], [255, 255, 255, 255]], "--n_classes 2"),
    ("typed", [[0, 1, 2, 3], [3, 4, 4, 4]], "--n_classes 5"),
    ("objects", INSTANCES.tolist(), "--n_classes 2 --label_kind objects")])
def test_consep_whole(consep, source, tmp_path, labels, expected, flags):
    code, output, error = consep("--layout", "whole", "--labels", labels)
    flags = f"--n_channels 3 {flags} --protocol fast"
    assert code == 0 and output.splitlines()[-1].endswith(flags)
    for split, count in (("Train", 27), ("Test", 14)):
        assert f"{split}: 1 images, but CoNSeP has {count}" in error
    assert error.count("\n") == 2, "and no word about the alpha channels"
    assert names(tmp_path / "set") == {f"{split}/{kind}/{split}_1.png"
                                       for split in ("train", "test")
                                       for kind in ("imgs", "labels", "instances")}
    for split in ("train", "test"):
        image, label, instances = (read(tmp_path / "set" / split / kind / f"{split}_1.png")
                                   for kind in ("imgs", "labels", "instances"))
        assert np.array_equal(image, COLOURS[..., :3])
        assert label.dtype == (np.uint16 if labels == "objects" else np.uint8)
        assert label.tolist() == expected
        assert instances.max() > 255 and np.array_equal(instances, INSTANCES)
        with Image.open(tmp_path / "set" / split / "instances" / f"{split}_1.png") as file:
            assert file.mode == "I;16"


def test_consep_images_are_colour_whatever_they_were(consep, tmp_path):
    write_consep(tmp_path / "CoNSeP", COLOURS[..., 0], inst_map=INSTANCES, type_map=TYPES)
    assert consep("--layout", "whole")[0] == 0
    image = read(tmp_path / "set" / "test" / "imgs" / "test_1.png")
    assert np.array_equal(image, np.dstack([COLOURS[..., 0]] * 3))


def test_consep_tiles_lie_at_the_corners(consep, tmp_path):
    y, x = np.indices((1000, 1000))
    image = np.stack([y % 251, x % 251, y // 251 * 16 + x // 251], axis=2)  # no two pixels alike
    image = image.astype(np.uint8)
    nucleus = (y % 50 < 30) & (x % 40 < 25)
    instances = np.where(nucleus, y // 50 * 25 + x // 40 + 1, 0)
    types = np.where(nucleus, instances % 7 + 1, 0)
    write_consep(tmp_path / "CoNSeP", image, inst_map=instances, type_map=types)
    code, output, _ = consep("--labels", "typed")
    described = "1 training and 1 test images (each in 4 tiles of 512 x 512 px, typed labels), 2 "
    assert code == 0 and described in output
    merged = types.copy()
    for kind, becomes in ((4, 3), (5, 4), (6, 4), (7, 4)):
        merged[types == kind] = becomes
    for k, (top, left) in enumerate(((0, 0), (0, 488), (488, 0), (488, 488))):
        here = np.s_[top:top + 512, left:left + 512]
        for kind, pixels in (("imgs", image), ("labels", merged), ("instances", instances)):
            for split in ("train", "test"):
                piece = read(tmp_path / "set" / split / kind / f"{split}_1_{k}.png")
                assert np.array_equal(piece, pixels[here])
    assert len(names(tmp_path / "set")) == 2 * 3 * 4


def test_consep_again_does_nothing_and_other_labels_are_refused(consep, source, tmp_path, snapshot):
    assert consep("--layout", "whole")[0] == 0
    before = snapshot(tmp_path)
    code, output, _ = consep("--layout", "whole")
    assert code == 0 and "used as they are" in output
    refused = consep("--layout", "whole", "--labels", "typed")
    assert_refused(refused, "labels", "choose another --Data_directory")
    assert snapshot(tmp_path) == before


def maps(**changed):
    """Write the label file anew, with one map changed; None leaves it out."""
    both = {"inst_map": INSTANCES, "type_map": TYPES, **changed}
    both = {key: values for key, values in both.items() if values is not None}
    return lambda path: savemat(path, both)


def matlab_7_3(path):
    head = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    path.write_bytes(head + b"\x89HDF\r\n\x1a\n" + bytes(500))


@pytest.mark.parametrize("spoil, words", [
    (maps(inst_map=None), "has no inst_map"), (maps(type_map=None), "has no type_map"),
    (maps(inst_map=INSTANCES[:1]), "1 x 4 px (height x width)"),
    (maps(type_map=TYPES[:, :3]), "2 x 3 px"),
    (maps(type_map=TYPES + 1), "whole numbers from 0 to 7"),
    (maps(inst_map=INSTANCES + 1), "from 0 to 65535"),
    (maps(inst_map=INSTANCES - 1), "from 0 to 65535"), (maps(type_map=TYPES / 2), "from 0 to 7"),
    (maps(type_map=np.where(TYPES > 6, np.nan, TYPES)), "from 0 to 7"),
    (maps(inst_map=np.full((2, 4), "a", object)), "no map of numbers"),
    (matlab_7_3, "MATLAB 7.3"), (truncate, "not a readable MATLAB file"),
    (lambda path: path.write_text("<html>"), "not a readable MATLAB file"),
    (Path.unlink, "no images here"),
    (lambda path: path.rename(path.with_name("test_2.mat")), "no label of this name"),
])
def test_consep_names_the_file_that_is_wrong(consep, source, tmp_path, spoil, words):
    path = source / "Test" / "Labels" / "test_1.mat"
    spoil(path)
    if words in ("no images here", "no label of this name"):
        path, words = source / "Test" / "Images" / "test_1.png", "no label of this name"
    code, _, error = consep("--layout", "whole")
    assert code == 1 and f"{path}: " in error.splitlines()[-1] and words in error.splitlines()[-1]
    assert not (tmp_path / "set").exists()  # though the training image is sound


@pytest.mark.parametrize("split", ["Train", "Test"])
@pytest.mark.parametrize("kind", ["Images", "Labels"])
def test_consep_names_the_folder_that_is_missing(consep, source, tmp_path, split, kind):
    (source / split / kind).rename(tmp_path / "elsewhere")
    code, _, error = consep("--layout", "whole")
    assert code == 1 and "https://" in error
    assert f"{source / split / kind}: no such folder" in error


def test_consep_image_smaller_than_a_tile(consep, source):
    code, _, error = consep()
    assert code == 1
    assert "2 x 4 px, smaller than a tile of 512 x 512 px; choose --layout whole" in error


# --------------------------------------------------------------------------------- one's own images
def write_pairs(folder, stems, ending="", image_suffix=".png", label_suffix=".png",
                size=(5, 7)):
    """Images and labels (0/255) of one's own, no two images alike; returns the two folders."""
    for kind in ("scans", "masks"):
        (folder / kind).mkdir(exist_ok=True)
    for k, stem in enumerate(stems):
        image, label = noise(*size, seed=k), np.eye(*size, dtype=np.uint8) * 255
        Image.fromarray(image).save(folder / "scans" / (stem + image_suffix))
        Image.fromarray(label).save(folder / "masks" / (stem + ending + label_suffix))
    return folder / "scans", folder / "masks"


@pytest.fixture
def folders(make_data, tmp_path):
    return partial(make_data, "folders", "--images", tmp_path / "scans",
                   "--labels", tmp_path / "masks", "--Data_directory", tmp_path / "set")


def split_of(folder):
    """{split: the names of its images}, after a look at whether each has its label."""
    found = {split: {path.name for path in (folder / split / "imgs").iterdir()}
             for split in ("train", "test")}
    for split, images in found.items():
        labels = {path.stem for path in (folder / split / "labels").iterdir()}
        assert {Path(name).stem for name in images} == labels
    return found


def test_folders_are_copied_byte_for_byte(folders, tmp_path):
    scans, masks = write_pairs(tmp_path, ["a", "b.c", "d e"], image_suffix=".TIF")
    write_pairs(tmp_path, ["j"], image_suffix=".jpg", label_suffix=".bmp")
    (scans / "notes.txt").write_text("not an image")
    code, output, error = folders()
    assert (code, error) == (0, "") and "\n4 pairs, sound\n" in output
    for split, images in split_of(tmp_path / "set").items():
        for name in images:
            copied = tmp_path / "set" / split / "imgs" / name
            assert copied.read_bytes() == (scans / name).read_bytes()
            label, = (tmp_path / "set" / split / "labels").glob(f"{Path(name).stem}.*")
            assert label.read_bytes() == (masks / label.name).read_bytes()


def test_folders_split_is_seeded_disjoint_and_complete(folders, tmp_path):
    stems = [f"scan{k}" for k in range(20)]
    write_pairs(tmp_path, stems)
    code, output, _ = folders()
    split = split_of(tmp_path / "set")
    assert code == 0 and "split by seed 0: 16 training and 4 test pairs" in output
    assert len(split["test"]) == 4 and not split["train"] & split["test"]
    assert split["train"] | split["test"] == {f"{stem}.png" for stem in stems}
    last = {}
    for flags in (("--seed", 0), ("--seed", 1), ("--seed", 1, "--test_fraction", 0.5)):
        folder = tmp_path / "-".join(map(str, flags))
        assert folders(*flags, "--Data_directory", folder)[0] == 0
        last[flags] = split_of(folder)
    assert last["--seed", 0] == split != last["--seed", 1]
    assert len(last["--seed", 1, "--test_fraction", 0.5]["test"]) == 10


@pytest.mark.parametrize("ending", ["_mask", "_label", "-labels", " mask", ".ah", "_1_mask"])
@pytest.mark.parametrize("stems", [["a_1", "b_1"], ["a_mask", "b", "c-2"]])
def test_labels_may_share_an_ending(folders, tmp_path, stems, ending):
    write_pairs(tmp_path, stems, ending)
    code, output, _ = folders()
    assert code == 0 and f"the labels' common ending {ending} is left out" in output
    found = set().union(*split_of(tmp_path / "set").values())
    assert found == {f"{stem}.png" for stem in stems}


def test_a_folder_without_labels_is_named(folders, tmp_path):
    write_pairs(tmp_path, ["a", "b"])
    for path in [*(tmp_path / "masks").iterdir()]:
        path.rename(path.with_name(f"{path.stem}_seg.npy"))  # as Cellpose's own files
    code, output, error = folders()
    assert code == 1 and f"{tmp_path / 'masks'}: no labels here" in output + error
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("stems, expected", [
    (["a_mask", "b_mask"], ["", "_mask"]), (["a_1_mask", "b_1_mask"], ["", "_mask", "_1_mask"]),
    (["10", "20"], [""]), (["a mask", "b mask", "c"], [""]), ([], [""])])
def test_common_endings(stems, expected):
    assert common_endings(stems) == expected


@pytest.mark.parametrize("rename, named", [
    ({"masks/b_mask.png": "masks/b.png"}, "scans/a.png: no label a in"),  # endings differ
    ({"masks/b_mask.png": "masks/x_mask.png"}, "scans/b.png: no label b_mask in"),
    ({"scans/c.png": "scans/c.txt"}, "masks/c_mask.png: no image c in"),
    ({"scans/c.png": "scans/b.tif"}, "scans/b.tif: b.png has the same name"),
])
def test_folders_names_the_file_without_a_partner(folders, tmp_path, rename, named):
    write_pairs(tmp_path, "abc", "_mask")
    for old, new in rename.items():
        (tmp_path / old).rename(tmp_path / new)
    assert_refused(folders(), f"{tmp_path}/{named}")
    assert not (tmp_path / "set").exists()


def test_other_formats_become_png(folders, tmp_path):
    scans, masks = write_pairs(tmp_path, "abcd", image_suffix=".ppm", label_suffix=".gif")
    palette = Image.fromarray(np.eye(5, 7, dtype=np.uint8))  # 0 and 1 number colours
    palette.putpalette([10, 200, 30, 200, 10, 99])
    for stem in "abcd":
        palette.save(masks / f"{stem}.gif")
    code, output, _ = folders()
    assert code == 0
    assert "4 .ppm files become PNG\n" in output and "4 .gif files become PNG\n" in output
    for split, images in split_of(tmp_path / "set").items():
        for name in images:
            image, label = (read(tmp_path / "set" / split / kind / name)
                            for kind in ("imgs", "labels"))
            assert np.array_equal(image, read(scans / f"{Path(name).stem}.ppm"))
            assert np.array_equal(label, np.eye(5, 7))


def test_groups_are_kept_whole(folders, tmp_path):
    stems = [f"slide{slide}_tile{tile}" for slide in range(6) for tile in range(1 + slide % 3)]
    write_pairs(tmp_path, stems, "_mask")
    code, output, _ = folders("--group", r"^(slide\d+)_", "--test_fraction", 0.3, "--seed", 2)
    slides = {split: {name.split("_")[0] for name in images}
              for split, images in split_of(tmp_path / "set").items()}
    assert code == 0 and slides["train"] and slides["test"]
    assert not slides["train"] & slides["test"]
    assert slides["train"] | slides["test"] == {f"slide{k}" for k in range(6)}
    assert f"6 groups kept whole, {len(slides['test'])} of them in test" in output


@pytest.mark.parametrize("seed", range(5))
def test_the_split_comes_nearest_to_the_fraction(seed):
    groups = [group for group, size in zip("abcdef", (7, 1, 2, 3, 9, 1)) for _ in range(size)]
    splits = {fraction: split_groups(groups, fraction, seed)
              for fraction in np.linspace(0.01, 0.99, 99)}
    shares = {fraction: sum(group in test for group in groups) / len(groups)
              for fraction, test in splits.items()}
    assert 0 < min(shares.values()) < 0.45 < 0.55 < max(shares.values()) < 1
    for fraction, share in shares.items():
        assert abs(share - fraction) == min(abs(other - fraction) for other in shares.values())
    for smaller, larger in zip([*splits.values()], [*splits.values()][1:]):
        assert smaller <= larger


@pytest.mark.parametrize("fraction, count", [(0.01, 1), (0.2, 2), (0.5, 5), (0.74, 7), (0.99, 9)])
def test_without_groups_the_fraction_is_that_of_the_images(fraction, count):
    drawn = [split_groups([*"abcdefghij"], fraction, seed) for seed in range(40)]
    assert {len(test) for test in drawn} == {count}
    assert set().union(*drawn) == {*"abcdefghij"}


def test_folders_again_does_nothing_and_mends_what_is_missing(folders, tmp_path, snapshot):
    write_pairs(tmp_path, "abcde", "_mask")
    assert folders()[0] == 0
    before = snapshot(tmp_path / "set")
    code, output, _ = folders()
    assert code == 0 and "used as they are" in output and snapshot(tmp_path / "set") == before
    next((tmp_path / "set" / "test" / "labels").iterdir()).unlink()
    assert folders()[0] == 0
    assert {name: content for name, (content, _) in snapshot(tmp_path / "set").items()} \
        == {name: content for name, (content, _) in before.items()}


def test_folders_accepts_equal_pixels_in_another_file(folders, tmp_path, snapshot):
    write_pairs(tmp_path, "abcde")
    assert folders()[0] == 0
    path = next((tmp_path / "set" / "train" / "imgs").iterdir())
    Image.fromarray(read(path)).save(path, compress_level=0)
    before = snapshot(tmp_path / "set")
    assert folders()[0] == 0 and snapshot(tmp_path / "set") == before


@pytest.mark.parametrize("change", ["other pixels", "another image", "another seed"])
def test_folders_never_overwrites(folders, tmp_path, snapshot, change):
    write_pairs(tmp_path, "abcde")
    flags = ("--seed", 1) if change == "another seed" else ()
    assert folders("--test_fraction", 0.4)[0] == 0
    path = next((tmp_path / "set" / "train" / "imgs").iterdir())
    if change == "other pixels":
        Image.fromarray(read(path) ^ 1).save(path)
    elif change == "another image":
        path.rename(path.with_name("other.png"))
    before = snapshot(tmp_path)
    assert_refused(folders("--test_fraction", 0.4, *flags), "choose another --Data_directory")
    assert snapshot(tmp_path) == before


def resize(path):
    Image.new("L", (3, 3)).save(path)


@pytest.mark.parametrize("spoil, words", [
    (resize, "3 x 3 px (height x width)"), (truncate, "not a readable image"),
    (lambda path: Image.fromarray(noise(5, 7, 3)).save(path), "a label in colour")])
def test_folders_reads_every_pair_before_it_writes(folders, tmp_path, spoil, words):
    _, masks = write_pairs(tmp_path, "abcde")
    spoil(masks / "e.png")
    assert_refused(folders(), masks / "e.png", words)
    assert not (tmp_path / "set").exists()


def test_folders_that_cannot_be_used(make_data, folders, tmp_path):
    target = ("--Data_directory", tmp_path / "set")
    scans, masks = write_pairs(tmp_path, "a")
    assert_refused(folders(), "only one image, nothing to hold out")

    def refused(images, labels, words):
        flags = ("--images", images, "--labels", labels, *target)
        assert_refused(make_data("folders", *flags), words)
    refused(scans, scans, "both --images and --labels")
    refused(tmp_path / "no", masks, "no: no such folder")
    refused(tmp_path, masks, f"{tmp_path}: no images")
    write_pairs(tmp_path, ["a_1", "a_2"])
    assert_refused(folders("--group", r"^(a)"), "only one group")
    assert_refused(folders("--group", r"^(a)_"), f"{scans / 'a.png'}: --group ^(a)_ does not match")
    assert_refused(folders("--group", r"^a(_)?"), f"{scans / 'a.png'}: --group")


def test_folders_does_not_split_copies_from_their_originals(folders, tmp_path):
    scans, _ = write_pairs(tmp_path, ["a", "a-0", "b"])
    (scans / "augmentation_manifest.jsonl").write_text("")
    assert_refused(folders(), scans, "--clean")
    assert not (tmp_path / "set").exists()


def test_folders_ends_with_the_check(folders, tmp_path):
    scans, _ = write_pairs(tmp_path, "abcde")
    Image.new("L", (7, 5), 9).save(scans / "b.png")
    code, output, error = folders()
    assert code == 1 and error == ""
    assert re.search(r"imgs/b\.png: empty", output) and "next: mend these" in output
