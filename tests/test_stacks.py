"""`python MakeData.py folders --split_pages`: stacks page by page; the numbers that labels keep."""
from functools import partial

import numpy as np
import pytest
import tifffile
from PIL import Image

from images.reading import read_image, read_label

HEIGHT, WIDTH = 18, 23


def noise(*shape, seed=0, high=256, dtype=np.uint8):
    return np.random.default_rng([seed, *shape]).integers(0, high, shape).astype(dtype)


@pytest.fixture
def folders(make_data, tmp_path):
    for kind in ("scans", "masks"):
        (tmp_path / kind).mkdir()
    return partial(make_data, "folders", "--images", tmp_path / "scans", "--labels",
                   tmp_path / "masks", "--Data_directory", tmp_path / "set")


def files_in(folder, kind):
    """{stem: Path} of a kind of files, both splits, and {stem: split}."""
    found, splits = {}, {}
    for split in ("train", "test"):
        for path in (folder / split / kind).iterdir():
            assert path.stem not in found
            found[path.stem], splits[path.stem] = path, split
    return found, splits


def assert_refused(result, *words):
    code, _, error = result
    assert code == 1 and error.startswith("MakeData.py: error: ") and error.count("\n") == 1, error
    for word in words:
        assert str(word) in error, error


MASKS = (noise(2, 3, HEIGHT, WIDTH, seed=9) > 200).astype(np.uint8) * np.uint8(255)


def write_stacks(folder, write, images=None):
    """Three stacks of two times three pages: {stem: pages}."""
    stacks = {}
    for k, stem in enumerate(("a", "b", "c_1")):
        stacks[stem] = noise(2, 3, HEIGHT, WIDTH, seed=k) if images is None else images(k)
        write(folder / "scans" / f"{stem}.tif", stacks[stem])
        write(folder / "masks" / f"{stem}_mask.tif", MASKS)
    return stacks


def as_pages(path, stack):
    """Pages without axes."""
    with tifffile.TiffWriter(path) as file:
        for page in stack.reshape(-1, *stack.shape[2:]):
            file.write(page, photometric="minisblack", metadata=None, contiguous=False)


def as_imagej(path, stack):
    tifffile.imwrite(path, stack[:, :, None], imagej=True, metadata={"axes": "TZCYX"})


def as_ome(path, stack):
    """Z before T: the pages lie in another order than in `stack`."""
    tifffile.imwrite(path, stack.swapaxes(0, 1), ome=True, photometric="minisblack",
                     metadata={"axes": "ZTYX"})


def as_ome_tiled(path, stack):
    tifffile.imwrite(path, stack, ome=True, photometric="minisblack", tile=(16, 16),
                     compression="zlib", metadata={"axes": "TZYX"})


@pytest.mark.parametrize("write, name", [
    (as_pages, lambda t, z: f"_p{3 * t + z + 1:03d}"),
    (as_imagej, lambda t, z: f"_t{t + 1:03d}_z{z + 1:03d}"),
    (as_ome, lambda t, z: f"_z{z + 1:03d}_t{t + 1:03d}"),
    (as_ome_tiled, lambda t, z: f"_t{t + 1:03d}_z{z + 1:03d}")])
def test_pages_become_images(folders, tmp_path, write, name, snapshot):
    stacks = write_stacks(tmp_path, write)
    code, output, error = folders("--split_pages")
    assert (code, error) == (0, ""), output + error
    assert "3 stacks become 18 images\n" in output and "\n18 pairs, sound\n" in output
    images, splits = files_in(tmp_path / "set", "imgs")
    labels, splits_of_labels = files_in(tmp_path / "set", "labels")
    assert splits == splits_of_labels
    expected = {stem + name(t, z): (stack[t, z], MASKS[t, z]) for stem, stack in stacks.items()
                for t in range(2) for z in range(3)}
    assert images.keys() == labels.keys() == expected.keys()
    for stem, (pixels, mask) in expected.items():
        assert np.array_equal(read_image(images[stem]), pixels), stem
        assert np.array_equal(read_label(labels[stem]), mask), stem
    for stem in stacks:
        assert len({split for page, split in splits.items() if page.startswith(stem)}) == 1
    assert {*splits.values()} == {"train", "test"}
    before = snapshot(tmp_path / "set")
    code, output, _ = folders("--split_pages")
    assert code == 0 and "used as they are" in output and snapshot(tmp_path / "set") == before


def test_pages_of_ome_files_are_named_without_ome(folders, tmp_path):
    write_stacks(tmp_path, as_ome)
    for path in [*(tmp_path / "scans").iterdir()]:
        path.rename(path.with_suffix(".ome.tif"))
    code, output, _ = folders("--split_pages")
    images, _ = files_in(tmp_path / "set", "imgs")
    assert code == 0 and len(images) == 18, output
    assert not any("ome" in path.name for path in images.values())


def test_groups_may_part_a_stack_or_join_several(folders, tmp_path):
    write_stacks(tmp_path, as_pages)
    for path in (tmp_path / "scans" / "b.tif", tmp_path / "scans" / "c_1.tif",
                 tmp_path / "masks" / "b_mask.tif", tmp_path / "masks" / "c_1_mask.tif"):
        path.unlink()
    assert_refused(folders("--split_pages"), "only one stack", "--group '(.*)'")
    assert_refused(folders(), "a.tif: has 6 pages", "--split_pages")
    assert not (tmp_path / "set").exists()
    code, output, _ = folders("--split_pages", "--group", "(.*)", "--test_fraction", 0.5)
    assert code == 0 and "3 training and 3 test pairs" in output


def test_pictures_beside_stacks_stay_as_they_are(folders, tmp_path):
    write_stacks(tmp_path, as_pages)
    Image.fromarray(noise(HEIGHT, WIDTH, seed=5)).save(tmp_path / "scans" / "d.png")
    Image.fromarray(MASKS[0, 0]).save(tmp_path / "masks" / "d_mask.png", compress_level=0)
    assert folders("--split_pages")[0] == 0
    for kind, name in (("imgs", "scans/d.png"), ("labels", "masks/d_mask.png")):
        images, _ = files_in(tmp_path / "set", kind)
        assert len(images) == 19
        assert images["d"].read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize("dtype, shape, suffix", [
    (np.uint8, (), ".png"), (np.uint16, (), ".png"), (np.float32, (), ".tif"),
    (np.int16, (), ".tif"), (np.uint8, (3,), ".png"), (np.uint16, (3,), ".tif")])
def test_pages_keep_their_depth(folders, tmp_path, dtype, shape, suffix):
    def write(path, stack):
        with tifffile.TiffWriter(path) as file:
            for page in stack.reshape(-1, *stack.shape[2:]):
                file.write(page, photometric="rgb" if page.ndim == 3 else "minisblack",
                           metadata=None, contiguous=False)

    def images(k):
        values = noise(2, 3, HEIGHT, WIDTH, *shape, seed=k, high=2 ** 15, dtype=np.int64)
        return (values / 7 if dtype == np.float32 else values).astype(dtype)
    stacks = write_stacks(tmp_path, write, images)
    code, output, error = folders("--split_pages")
    assert code == 0, output + error
    found, _ = files_in(tmp_path / "set", "imgs")
    for stem, path in found.items():
        page = int(stem[-3:]) - 1
        pixels = read_image(path)
        assert path.suffix == suffix and pixels.dtype == dtype
        assert np.array_equal(pixels, stacks[stem[:-5]][page // 3, page % 3])


def test_channels_are_no_pages(folders, tmp_path):
    """A hyperstack of two channels and three slices gives three images of two channels."""
    stacks = {}
    for k, stem in enumerate("ab"):
        stacks[stem] = noise(3, 2, HEIGHT, WIDTH, seed=k)
        tifffile.imwrite(tmp_path / "scans" / f"{stem}.tif", stacks[stem], imagej=True,
                         metadata={"axes": "ZCYX"})
        as_pages(tmp_path / "masks" / f"{stem}.tif", MASKS[:1])
    code, output, error = folders("--split_pages", "--test_fraction", 0.5)
    assert code == 0, output + error
    found, _ = files_in(tmp_path / "set", "imgs")
    assert found.keys() == {f"{stem}_z{z:03d}" for stem in "ab" for z in (1, 2, 3)}
    for stem, path in found.items():
        assert np.array_equal(read_image(path), np.moveaxis(stacks[stem[0]][int(stem[-1]) - 1],
                                                            0, -1))


def test_pages_that_are_channels_stay_in_their_file(folders, tmp_path):
    stacks = write_stacks(tmp_path, as_pages)
    for path in (tmp_path / "masks").iterdir():
        Image.fromarray(MASKS[0, 0]).save(path)
    code, output, error = folders("--n_channels", 6)
    assert code == 0 and "\n3 pairs, sound\n" in output, output + error
    assert "--n_channels 6 " in output.splitlines()[-1]
    found, _ = files_in(tmp_path / "set", "imgs")
    for stem, path in found.items():
        assert path.read_bytes() == (tmp_path / "scans" / path.name).read_bytes()
        pages = stacks[stem].reshape(6, HEIGHT, WIDTH)
        assert np.array_equal(read_image(path, 6), np.moveaxis(pages, 0, -1))
    assert_refused(folders("--n_channels", 5, "--Data_directory", tmp_path / "other"),
                   "has 6 pages")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("spoil, words", [
    (lambda path: as_pages(path, MASKS[:1]), "b_mask.tif: has 3 pages, but its image"),
    (lambda path: as_pages(path, MASKS[..., 1:]), "18 x 22 px"),
    (lambda path: path.write_bytes(path.read_bytes()[:1500]), "b_mask.tif: "),
    (lambda path: as_imagej(path, MASKS.reshape(3, 2, HEIGHT, WIDTH)),
     "b_mask.tif: its pages run along T (3) and Z (2), but those of its image along T (2) and Z "),
])
def test_stacks_that_do_not_fit(folders, tmp_path, spoil, words):
    write_stacks(tmp_path, as_imagej)
    spoil(tmp_path / "masks" / "b_mask.tif")
    assert_refused(folders("--split_pages"), words)
    assert not (tmp_path / "set").exists()


def test_a_page_and_a_picture_of_one_name(folders, tmp_path):
    write_stacks(tmp_path, as_pages)
    Image.fromarray(noise(HEIGHT, WIDTH, seed=5)).save(tmp_path / "scans" / "a_p002.png")
    Image.fromarray(MASKS[0, 0]).save(tmp_path / "masks" / "a_p002_mask.png")
    assert_refused(folders("--split_pages"), "a_p002.png: two images would have the name a_p002")
    assert not (tmp_path / "set").exists()


def test_colours_and_pages_do_not_go_together(folders):
    code, output, error = folders("--split_pages", "--colours", "classes.csv")
    assert code == 2 and error.count("\n") == 1 and not output


# ------------------------------------------------------------------------------ numbers of labels
NUMBERS = np.zeros((HEIGHT, WIDTH), np.int64)
NUMBERS[2:8, 3:9], NUMBERS[2:8, 9:15], NUMBERS[10:14, 2:20] = 1, 300, 65535


@pytest.mark.parametrize("dtype, largest, suffix", [
    *[(np.uint8, 255, suffix) for suffix in (".tif", ".npy", ".png", ".pgm")],
    *[(np.uint16, 65535, suffix) for suffix in (".tif", ".npy", ".png", ".pgm")],
    *[(np.uint32, 3_000_000_000, suffix) for suffix in (".tif", ".npy")],
    *[(np.int32, 70_000, suffix) for suffix in (".tif", ".npy")]])
def test_numbers_of_objects_are_kept(folders, tmp_path, dtype, largest, suffix):
    """Also those of files that become another one."""
    values = np.where(NUMBERS == 65535, largest, np.minimum(NUMBERS, 255)).astype(dtype)
    for k, stem in enumerate("abcde"):
        Image.fromarray(noise(HEIGHT, WIDTH, seed=k)).save(tmp_path / "scans" / f"{stem}.png")
        path = tmp_path / "masks" / f"{stem}{suffix}"
        if suffix == ".tif":
            tifffile.imwrite(path, values, photometric="minisblack")
        elif suffix == ".npy":
            np.save(path, values)
        else:
            Image.fromarray(values).save(path)
    code, output, error = folders()
    assert "training and" in output, output + error
    labels, _ = files_in(tmp_path / "set", "labels")
    assert labels.keys() == set("abcde")
    for path in labels.values():
        stored = read_label(path)
        assert path.suffix == (".png" if suffix == ".pgm" else suffix)
        assert np.array_equal(stored, values) and stored.dtype.kind == "u"
        assert stored.dtype.itemsize == np.dtype(dtype).itemsize


@pytest.mark.parametrize("dtype, suffix", [(np.uint8, ".png"), (np.uint16, ".png"),
                                           (np.uint32, ".tif"), (np.int32, ".tif")])
def test_numbers_of_objects_in_stacks_are_kept(folders, tmp_path, dtype, suffix):
    largest = {1: 255, 2: 65535, 4: 1_000_000}[np.dtype(dtype).itemsize]
    values = np.where(NUMBERS == 65535, largest, np.minimum(NUMBERS, 255)).astype(dtype)
    stack = np.stack([values, values[::-1]])
    for k, stem in enumerate("ab"):
        tifffile.imwrite(tmp_path / "scans" / f"{stem}.tif", noise(2, HEIGHT, WIDTH, seed=k),
                         photometric="minisblack")
        tifffile.imwrite(tmp_path / "masks" / f"{stem}.tif", stack, photometric="minisblack")
    _, output, error = folders("--split_pages", "--test_fraction", 0.5)
    assert "2 stacks become 4 images" in output, output + error
    labels, _ = files_in(tmp_path / "set", "labels")
    for stem, path in labels.items():
        stored = read_label(path)
        assert path.suffix == suffix and stored.dtype.itemsize == np.dtype(dtype).itemsize
        assert np.array_equal(stored, stack[int(stem[-1]) - 1])
