"""Images in several pages, or too large for memory: against the array that was written."""
import contextlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from command.errors import DataError
from images import formats, pages, tiff_samples
from images.arrays import Array
from images.reading import (LargePage, examine_file, image_size, label_pages_of, pages_of,
                            read_image, read_label, row_bands)
from images.writing import Bands, page_writer


def noise(shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@pytest.fixture
def all_large(monkeypatch):
    """Every page counts as too large for memory."""
    monkeypatch.setattr(pages, "LARGE", 0)


# ----------------------------------------------------------------------------------- rows of a TIFF
LAYOUTS = [{}, {"rowsperstrip": 1}, {"rowsperstrip": 17},
           {"rowsperstrip": 17, "compression": "zlib"},
           {"compression": "zlib", "predictor": True}, {"rowsperstrip": 30, "compression": "lzma"},
           {"tile": (64, 32)}, {"tile": (64, 32), "compression": "zlib", "predictor": True},
           {"tile": (16, 16), "bigtiff": True}, {"byteorder": ">"},
           {"byteorder": ">", "tile": (32, 32), "compression": "zlib"}]
PLANAR = [{"planarconfig": "separate"}, {"planarconfig": "separate", "rowsperstrip": 13},
          {"planarconfig": "separate", "tile": (32, 32), "compression": "zlib"}]


def rows_of(path):
    return LargePage(examine_file(path), (0,))


def check_rows(path, wanted):
    rows = rows_of(path)
    assert rows.shape == wanted.shape and rows.dtype == wanted.dtype
    height = wanted.shape[0]
    for top, bottom in ((0, height), (0, 1), (5, 60), (height - 1, height), (17, 34), (63, 65)):
        found = rows[top:bottom]
        assert found.dtype == wanted.dtype and np.array_equal(found, wanted[top:bottom])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(150, 77), (130, 250, 3), (130, 70, 4)])
def test_rows_of_every_layout(tmp_path, all_large, shape, dtype):
    pixels, colour = noise(shape, dtype), len(shape) == 3
    for layout in [*LAYOUTS, *(PLANAR if colour else [])]:
        stored = pixels.transpose(2, 0, 1) if "planarconfig" in layout else pixels
        kind = "rgb" if colour else "minisblack"
        tifffile.imwrite(tmp_path / "image.tif", stored, photometric=kind, **layout)
        file = examine_file(tmp_path / "image.tif")
        assert (file.height, file.width) == shape[:2] and file.by_rows and file.is_large
        check_rows(file.path, pixels[..., :3] if colour else pixels)


@pytest.mark.parametrize("mode, compression", [
    ("L", "packbits"), ("RGB", "tiff_adobe_deflate"), ("RGB", "packbits")])
def test_rows_of_what_pillow_writes(tmp_path, all_large, mode, compression):
    pixels = noise((150, 77) if mode == "L" else (150, 77, 3))
    Image.fromarray(pixels).save(tmp_path / "image.tif", compression=compression)
    assert examine_file(tmp_path / "image.tif").by_rows
    check_rows(tmp_path / "image.tif", pixels)


def test_white_may_be_zero(tmp_path):
    """By rows as by Pillow."""
    tifffile.imwrite(tmp_path / "image.tif", noise((100, 30)), photometric="miniswhite",
                     rowsperstrip=7)
    with Image.open(tmp_path / "image.tif") as image:
        check_rows(tmp_path / "image.tif", np.asarray(image))
    assert np.array_equal(rows_of(tmp_path / "image.tif")[:], 255 - noise((100, 30)))


def test_only_the_strips_asked_for_are_read(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "image.tif", noise((200, 100)), rowsperstrip=10, compression="zlib")
    asked, decode = [], tiff_samples.decode_segment

    def noting(file, page, index):
        asked.append(index)
        return decode(file, page, index)
    monkeypatch.setattr(tiff_samples, "decode_segment", noting)
    assert rows_of(tmp_path / "image.tif")[35:60].shape == (25, 100) and asked == [3, 4, 5]


def test_strips_that_were_never_written_are_black(tmp_path):
    first, last = noise((64, 64)), noise((64, 64), seed=1)
    tifffile.imwrite(tmp_path / "image.tif", iter([first, None, last]), shape=(64, 192),
                     dtype=np.uint8, tile=(64, 64))
    check_rows(tmp_path / "image.tif", np.hstack([first, np.zeros_like(first), last]))


@pytest.mark.parametrize("pixels, options, reason", [
    (np.zeros((20, 30), np.uint8), {"extratags": [(274, 3, 1, 6, True)]},
     "its orientation swaps rows and columns"),
    (np.zeros((20, 30, 4), np.float32),
     {"metadata": {"axes": "YXC"}, "photometric": "minisblack", "compression": "zlib"},
     "its pages are compressed, and are no images")])
def test_what_can_be_read_neither_by_rows_nor_whole(tmp_path, all_large, monkeypatch, pixels,
                                                    options, reason):
    tifffile.imwrite(tmp_path / "image.tif", pixels, **options)
    file = examine_file(tmp_path / "image.tif")
    assert not file.by_rows, "small enough to be read whole"
    monkeypatch.setattr(pages, "MAX_PIXELS", 300)
    with pytest.raises(DataError, match=f"larger than 300 pixels, and by rows .*: {reason}; cut"):
        examine_file(tmp_path / "image.tif")


@pytest.mark.parametrize("mode, compression", [
    ("L", "tiff_lzw"), ("RGB", "tiff_lzw"), ("YCbCr", "jpeg")])
def test_rows_of_further_compressions(tmp_path, all_large, monkeypatch, mode, compression):
    monkeypatch.setattr(pages, "MAX_PIXELS", 300)
    path = tmp_path / "image.tif"
    Image.fromarray(noise((100, 20, 3))).convert(mode).save(path, compression=compression)
    with Image.open(path) as image:
        wanted = np.asarray(image.convert("L" if mode == "L" else "RGB"))
    check_rows(examine_file(path).path, wanted)


# -------------------------------------------------------------------------------------------- pages
@pytest.mark.parametrize("name", ["image.png", "image.bmp", "image.tif", "image.dat"])
@pytest.mark.parametrize("shape, dtype", [((12, 31), np.uint8), ((12, 31, 3), np.uint8)])
def test_one_page(tmp_path, name, shape, dtype):
    pixels = noise(shape, dtype)
    Image.fromarray(pixels).save(tmp_path / name, format="TIFF" if name == "image.dat" else None)
    file = examine_file(tmp_path / name)
    assert (file.pages, file.height, file.width, file.is_large) == (((0,),), 12, 31, False)
    (page,) = pages_of(file)
    assert np.array_equal(page, pixels)


@pytest.mark.parametrize("shape", [(5, 12, 31), (5, 12, 31, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_stack(tmp_path, shape, dtype, monkeypatch):
    stack = noise(shape, dtype)
    kind = "rgb" if len(shape) == 4 else "minisblack"
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric=kind)
    file = examine_file(tmp_path / "stack.tif")
    assert (file.pages, file.height, file.width) == (((0,), (1,), (2,), (3,), (4,)), 12, 31)
    for page, wanted in zip(pages_of(file), stack):
        assert isinstance(page, np.ndarray) and page.dtype == dtype and np.array_equal(page, wanted)
    monkeypatch.setattr(pages, "LARGE", 100)
    for page, wanted in zip(pages_of(examine_file(file.path)), stack):
        assert isinstance(page, LargePage) and np.array_equal(page[3:7], wanted[3:7])


def test_a_stack_is_opened_once(tmp_path, monkeypatch):
    """Its header tells of each page: to read that for each of 1,000 pages takes minutes."""
    stack, opened = noise((5, 12, 14)), []
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", metadata=None)
    file = examine_file(tmp_path / "a.tif")
    real = tifffile.TiffFile
    monkeypatch.setattr(tifffile, "TiffFile", lambda *how, **more: (opened.append(how),
                                                                    real(*how, **more))[1])
    for read in (pages_of, label_pages_of):
        opened.clear()
        assert all(map(np.array_equal, read(file), stack)) and len(opened) == 1


def test_thumbnails_and_pyramids_are_left_out(tmp_path, capsys):
    first, last = noise((40, 60)), noise((40, 60), seed=1)
    with tifffile.TiffWriter(tmp_path / "slide.tif") as file:
        smaller, reduced = first[::2, ::2], noise((40, 60), seed=2)
        for pixels, kind in ((first, 0), (smaller, 0), (reduced, 1), (last, 0)):
            file.write(pixels, subfiletype=kind, metadata=None)
    file = examine_file(tmp_path / "slide.tif")
    assert file.pages == ((0,), (3,)) and all(map(np.array_equal, pages_of(file), (first, last)))
    assert capsys.readouterr().err.startswith(f"{tmp_path}/slide.tif: 2 of its pages are left out")


@pytest.mark.parametrize("large", [False, True])
def test_pages_of_different_depths(tmp_path, monkeypatch, large):
    if large:
        monkeypatch.setattr(pages, "LARGE", 0)
    for dtype in (np.uint16, np.float32):
        with tifffile.TiffWriter(tmp_path / "stack.tif") as file:
            for page in (np.zeros((5, 4), np.uint8), np.ones((5, 4), dtype)):
                file.write(page, photometric="minisblack", metadata=None)
        message = "stack.tif: (page 2 has (uint16|float32) values|values of 32 bits)"
        with pytest.raises(DataError, match=message):
            [page[:5] for page in pages_of(examine_file(tmp_path / "stack.tif"))]


def test_a_stack_that_hides_its_pages(tmp_path):
    """ImageJ's own form for files of over 4 GB: one page, the others behind it."""
    stack = noise((3, 20, 20))
    tifffile.imwrite(tmp_path / "stack.tif", stack, imagej=True, truncate=True,
                     metadata={"axes": "ZYX"})
    file = examine_file(tmp_path / "stack.tif")
    assert len(file.pages) == 3 and file.axes == "Z"
    assert all(map(np.array_equal, pages_of(file), stack))


@pytest.mark.parametrize("content", [b"", b"II*\0", b"II*\0\x08\0\0\0", b"\x89PNG\r\n", b"text"])
@pytest.mark.parametrize("name", ["image.png", "image.tif"])
def test_what_is_no_image(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: not a readable (image|TIFF)"):
        examine_file(tmp_path / name)


@pytest.mark.parametrize("options", [
    {}, {"compression": "zlib", "rowsperstrip": 10}, {"tile": (16, 16)}])
def test_a_file_cut_short(tmp_path, options):
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, noise((100, 50)), metadata=None, **options)
    rows, content = rows_of(path), path.read_bytes()
    assert rows[:].shape == (100, 50)
    path.write_bytes(content[:-1000])
    with pytest.raises(DataError, match=r"image.tif: not a readable image \(cut short"):
        rows[:]


def test_row_bands():
    pixels = noise((25, 4))
    assert [len(band) for band in row_bands(pixels, 10)] == [10, 10, 5]
    assert np.array_equal(np.concatenate(list(row_bands(pixels, 10))), pixels)


# ----------------------------------------------------------------------------------- a row a format
@contextlib.contextmanager
def open_plain(path):
    """A made-up format: b"PLAIN", then the height, the width and the values, a byte each."""
    height, width, *values = path.read_bytes()[5:]
    yield Array(path, np.array(values, np.uint8).reshape(height, width))


def test_a_format_is_a_row(tmp_path, monkeypatch):
    """With its row, a format is read as every other one: pixels, sizes, labels, pages."""
    row = formats.Reader((".plain",), (b"PLAIN",), open_plain)
    monkeypatch.setattr(formats, "READERS", (*formats.READERS, row))
    path, pixels = tmp_path / "image.plain", noise((12, 31))
    path.write_bytes(b"PLAIN" + bytes(pixels.shape) + pixels.tobytes())
    assert formats.find_reader(path) is row and image_size(path) == (12, 31)
    assert np.array_equal(read_image(path), pixels) and np.array_equal(read_label(path), pixels)
    (page,) = pages_of(examine_file(path))
    assert np.array_equal(page, pixels)
    path.write_bytes(b"PLAINtext")
    with pytest.raises(DataError, match="image.plain: not a readable image"):
        read_image(path)


def test_suffixes_follow_from_the_rows():
    assert formats.IMAGE_SUFFIXES == (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".npy")


# ------------------------------------------------------------------------------------------ writing
def frames(path):
    with Image.open(path) as image:
        for k in range(image.n_frames):
            image.seek(k)
            yield np.asarray(image)


@pytest.mark.parametrize("shape, dtype", [
    ((40, 30), np.uint8), ((40, 30, 3), np.uint8), ((40, 30), np.uint16)])
def test_a_stack_as_others_read_it(tmp_path, shape, dtype):
    stack = noise((3, *shape), dtype)
    with page_writer(tmp_path / "stack.tif", 3, 40, 30) as add:
        for page in stack:
            add(page)
    assert np.array_equal(tifffile.imread(tmp_path / "stack.tif"), stack)
    found = list(frames(tmp_path / "stack.tif"))
    assert len(found) == 3 and all(map(np.array_equal, found, stack))


@pytest.mark.parametrize("height, width", [(1300, 777), (512, 1024), (513, 1), (1, 1)])
def test_bands_become_tiles(tmp_path, height, width):
    pixels = noise((height, width))
    cuts = sorted({0, min(1, height), height // 3, height // 2, height})
    with page_writer(tmp_path / "mask.tif", 2, height, width) as add:
        for page in (pixels, 255 - pixels):
            add(Bands((page[top:bottom] for top, bottom in zip(cuts, cuts[1:])), height, width))
    for page, wanted in zip(frames(tmp_path / "mask.tif"), (pixels, 255 - pixels)):
        assert np.array_equal(page, wanted)
    with tifffile.TiffFile(tmp_path / "mask.tif") as file:
        assert file.pages[0].tile == (512, 512) and len(file.pages) == 2 and not file.is_bigtiff


def test_large_files_are_big_tiffs(tmp_path):
    with page_writer(tmp_path / "mask.tif", 1, 2 ** 16, 2 ** 15) as add:
        add(noise((3, 3)))
    with tifffile.TiffFile(tmp_path / "mask.tif") as file:
        assert file.is_bigtiff


@pytest.mark.parametrize("count", [1, 3])
def test_arrays(tmp_path, count):
    stack = np.random.default_rng(0).normal(size=(count, 2, 4, 5)).astype(np.float32)
    with page_writer(tmp_path / "prob.npy", count, 4, 5) as add:
        for page in stack:
            add(page)
    found = np.load(tmp_path / "prob.npy")
    assert found.dtype == np.float32 and np.array_equal(found, stack[0] if count == 1 else stack)


@pytest.mark.parametrize("name", ["out.tif", "out.npy", "out.png"])
def test_all_pages_or_nothing(tmp_path, name):
    with pytest.raises(RuntimeError, match="at the second page"):
        with page_writer(tmp_path / name, 2, 4, 5) as add:
            if name != "out.png":
                add(noise((4, 5)))
            raise RuntimeError("at the second page")
    assert not list(tmp_path.iterdir())


def test_a_large_page_that_fails_leaves_nothing(tmp_path):
    def bands():
        yield noise((600, 9))
        raise DataError("damaged")
    with pytest.raises(DataError, match="damaged"):
        with page_writer(tmp_path / "mask.tif", 1, 1000, 9) as add:
            add(Bands(bands(), 1000, 9))
    assert not list(tmp_path.iterdir())
