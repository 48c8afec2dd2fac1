"""TIFF files of all layouts: against the array that was written, tifffile and Pillow.

Each file is read whole, as pages, and by rows as a large one.
"""
import io
import math

import numpy as np
import pytest
import tifffile
from image_files import pack_bits, random_pixels, shown_by_hand, tiff_bytes
from PIL import Image

from command.errors import DataError
from images import pages
from images.reading import (examine_file, image_size, is_lossy, label_pages_of, pages_of,
                            read_image, read_label)

DTYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64")
# name: (samples, channels of the image, extra samples, photometric)
SAMPLES = {"grey": (1, 1, None, "minisblack"), "two channels": (2, 2, None, "minisblack"),
           "five channels": (5, 5, None, "minisblack"), "RGB": (3, 3, None, "rgb"),
           "RGBA": (4, 3, ["unassalpha"], "rgb"),
           "grey, alpha": (2, 1, ["assocalpha"], "minisblack"),
           "RGB and one": (4, 4, ["unspecified"], "rgb")}
LAYOUTS = [{}, {"rowsperstrip": 1}, {"rowsperstrip": 7, "compression": "lzw"}, {"tile": (16, 32)},
           {"rowsperstrip": 9, "compression": "zlib", "predictor": True},
           {"tile": (16, 16), "compression": "zstd", "byteorder": ">"},
           {"bigtiff": True, "byteorder": ">"}, {"compression": "lzma"},
           {"tile": (32, 16), "compression": "deflate", "bigtiff": True, "predictor": True},
           {"compression": "packbits", "byteorder": ">", "rowsperstrip": 13}]


def equal(found, wanted):
    return (isinstance(found, np.ndarray) and found.dtype == wanted.dtype
            and found.shape == wanted.shape and np.array_equal(found, wanted))


def check_reading(path, wanted, monkeypatch, by_rows=True):
    """All ways to read a file of one image give `wanted`."""
    channels = 1 if wanted.ndim == 2 else wanted.shape[2]
    file = examine_file(path)
    assert (file.height, file.width) == wanted.shape[:2] == image_size(path)
    assert (file.channels, file.dtype, len(file.pages)) == (channels, wanted.dtype, 1)
    assert equal(read_image(path), wanted) and equal(read_image(path, channels), wanted)
    (page,) = pages_of(file)
    assert equal(page, wanted)
    with monkeypatch.context() as patched:
        patched.setattr(pages, "LARGE", 0)
        file = examine_file(path)
        (page,) = pages_of(file)
        assert file.by_rows == by_rows and (page.shape, page.dtype) == (wanted.shape, wanted.dtype)
        height = len(wanted)
        for top, bottom in ((0, height), (0, 1), (5, 21), (height - 1, height)):
            assert equal(page[top:bottom], wanted[top:bottom]), (top, bottom)


# ------------------------------------------------------------------------------------ the layouts
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SAMPLES)
def test_layouts(tmp_path, monkeypatch, name, dtype):
    samples, channels, extra, photometric = SAMPLES[name]
    stored, path = random_pixels((45, 37, samples), dtype), tmp_path / "a.tif"
    for planar in ("contig", "separate") if samples > 1 else (None,):
        values = {None: stored[..., 0], "contig": stored,
                  "separate": stored.transpose(2, 0, 1)}[planar]
        for layout in LAYOUTS:
            tifffile.imwrite(path, values, photometric=photometric, planarconfig=planar,
                             extrasamples=extra, metadata=None, **layout)
            assert equal(tifffile.imread(path), values), "as the independent reader has it"
            wanted = stored[..., :channels] if channels > 1 else stored[..., 0]
            check_reading(path, wanted, monkeypatch)


def test_planes_of_16_bit_colour(tmp_path, monkeypatch):
    stored = random_pixels((3, 40, 50), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb")
    assert tifffile.TiffFile(tmp_path / "a.tif").pages[0].planarconfig == 2
    check_reading(tmp_path / "a.tif", stored.transpose(1, 2, 0), monkeypatch)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "LA", "I;16", "I", "F", "P", "CMYK"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_what_pillow_writes(tmp_path, monkeypatch, mode, compression):
    path = tmp_path / "a.tif"
    if mode in ("I;16", "I", "F"):
        dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray(random_pixels((45, 37), dtype))
    elif mode == "P":
        image = Image.fromarray(random_pixels((45, 37, 3))).quantize(19)
    elif mode == "CMYK":
        image = Image.merge(mode, [Image.fromarray(random_pixels((45, 37), seed=k))
                                   for k in range(4)])
    else:
        image = Image.fromarray(random_pixels((45, 37, 4))).convert(mode)
    image.save(path, compression=compression)
    with Image.open(path) as image:
        plain = {"RGBA": "RGB", "LA": "L", "P": "RGB", "CMYK": "RGB", "1": "L"}.get(mode)
        wanted = np.array(image.convert(plain) if plain else image)
    check_reading(path, wanted, monkeypatch)


@pytest.mark.parametrize("compression", ["jpeg2000", "jpegxl", "png", "webp", "lerc"])
def test_compressions_of_imagecodecs(tmp_path, monkeypatch, compression):
    stored = random_pixels((40, 48, 3))
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", compression=compression)
    check_reading(tmp_path / "a.tif", stored, monkeypatch)
    assert not is_lossy(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["L", "RGB", "YCbCr"])
def test_jpeg_in_tiff(tmp_path, mode):
    smooth = np.linspace(0, 255, 48 * 64 * 3).reshape(48, 64, 3).astype(np.uint8)
    Image.fromarray(smooth).convert(mode).save(tmp_path / "a.tif", compression="jpeg")
    with Image.open(tmp_path / "a.tif") as image:
        wanted = np.asarray(image.convert("L" if mode == "L" else "RGB")).astype(int)
    assert np.abs(read_image(tmp_path / "a.tif") - wanted).max() <= 2, "decoders may round"
    assert is_lossy(tmp_path / "a.tif")


def test_colours_as_brightness_and_differences(tmp_path, monkeypatch):
    stored = random_pixels((20, 30, 3))
    (tmp_path / "a.tif").write_bytes(tiff_bytes(20, 30, stored.tobytes(), {
        258: (8, 8, 8), 262: 6, 277: 3, 530: (1, 1), 279: stored.nbytes}))
    image = Image.frombytes("YCbCr", (30, 20), stored.tobytes())
    check_reading(tmp_path / "a.tif", np.array(image.convert("RGB")), monkeypatch)


# ---------------------------------------------------------------------------- what samples mean
@pytest.mark.parametrize("dtype, largest", [("uint8", 255), ("uint16", 65535), ("int8", -1)])
def test_white_may_be_zero(tmp_path, monkeypatch, dtype, largest):
    """Images are shown inverted; a label keeps its values, as tifffile and scikit-image do."""
    stored = random_pixels((40, 30), dtype)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite")
    check_reading(tmp_path / "a.tif", (largest - stored.astype(int)).astype(dtype), monkeypatch)
    if dtype != "int8":
        assert equal(read_label(tmp_path / "a.tif"), stored)
        assert equal(tifffile.imread(tmp_path / "a.tif"), stored)


@pytest.mark.parametrize("compression", [None, "zlib", "packbits", "lzw"])
def test_one_bit(tmp_path, monkeypatch, compression):
    """`tifffile.imwrite(path, mask > 0)` writes white as zero."""
    mask = random_pixels((40, 33)) > 99
    tifffile.imwrite(tmp_path / "a.tif", mask, compression=compression)
    assert tifffile.TiffFile(tmp_path / "a.tif").pages[0].photometric == 0
    assert equal(read_label(tmp_path / "a.tif"), mask * np.uint8(255))
    check_reading(tmp_path / "a.tif", ~mask * np.uint8(255), monkeypatch)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
@pytest.mark.parametrize("photometric", [0, 1])
def test_fax(tmp_path, monkeypatch, compression, photometric):
    mask = np.kron(random_pixels((8, 5)) > 99, np.ones((5, 7))).astype(bool)
    Image.fromarray(mask).save(tmp_path / "a.tif", compression=compression,
                               tiffinfo={262: photometric})
    with Image.open(tmp_path / "a.tif") as image:
        wanted = np.array(image) * np.uint8(255)
    check_reading(tmp_path / "a.tif", wanted, monkeypatch)
    is_inverted = tifffile.TiffFile(tmp_path / "a.tif").pages[0].photometric == 0
    assert equal(read_label(tmp_path / "a.tif"), 255 - wanted if is_inverted else wanted)


@pytest.mark.parametrize("bits, factor", [(2, 85), (4, 17)])
@pytest.mark.parametrize("photometric", [0, 1])
def test_few_bits(tmp_path, monkeypatch, bits, factor, photometric):
    """A label has class numbers; an image is scaled to 8 bits, as viewers show it."""
    stored = random_pixels((20, 33)) % 2 ** bits
    data = pack_bits(stored, bits)
    (tmp_path / "a.tif").write_bytes(tiff_bytes(20, 33, data, {258: bits, 262: photometric}))
    assert equal(read_label(tmp_path / "a.tif"), stored)
    wanted = stored if photometric else 2 ** bits - 1 - stored
    check_reading(tmp_path / "a.tif", wanted * np.uint8(factor), monkeypatch)


def test_alpha_is_said_and_left_out(tmp_path, capsys):
    stored = random_pixels((20, 30, 4), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb")
    assert equal(read_image(tmp_path / "a.tif"), stored[..., :3]), "16 bits are kept"
    assert capsys.readouterr().err == (
        f"{tmp_path}: alpha channels are left out (said once a folder)\n")
    with pytest.raises(DataError, match="a.tif: RGB, but 4 channels are needed"):
        read_image(tmp_path / "a.tif", 4)


def test_planes_that_tifffile_takes_for_alpha_are_told(tmp_path, capsys):
    stored = random_pixels((4, 20, 30), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb")
    assert equal(read_image(tmp_path / "a.tif"), np.moveaxis(stored[:3], 0, -1))
    assert "tifffile.imwrite(..., photometric='minisblack')" in capsys.readouterr().err
    tifffile.imwrite(tmp_path / "b.tif", stored, photometric="minisblack", planarconfig="separate")
    assert equal(read_image(tmp_path / "b.tif"), np.moveaxis(stored, 0, -1))
    assert capsys.readouterr().err == ""


def test_a_palette_of_8_bits(tmp_path):
    """TIFF wants 16 bits for each colour; some writers give 8."""
    colours = random_pixels((3, 256)).astype(int)
    indices = random_pixels((20, 30))
    for scale in (1, 257):
        (tmp_path / "a.tif").write_bytes(tiff_bytes(20, 30, indices.tobytes(), {
            262: 3, 320: tuple((colours * scale).ravel().tolist())}))
        assert equal(read_image(tmp_path / "a.tif"), colours.T[indices].astype(np.uint8))


@pytest.mark.parametrize("pixels, options, words", [
    (np.zeros((9, 8), np.complex64), {}, "values of kind complex64 are no pixels; save integers"),
    (np.zeros((9, 8, 3), np.uint8), {"photometric": "cielab"}, "channels of kind CIELAB"),
    (np.full((9, 8), 2 ** 40), {}, "values of 64 bits, beyond those of int32; scale them")])
def test_what_cannot_be_read_is_said(tmp_path, pixels, options, words):
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    with pytest.raises(DataError, match=f"a.tif: .*{words}"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("wrong, count", [([np.nan], "1"), ([np.inf, -np.inf, np.nan], "3")])
def test_values_that_are_no_numbers(tmp_path, monkeypatch, wrong, count):
    pixels = np.zeros((20, 30), np.float32)
    pixels.ravel()[:len(wrong)] = wrong
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    words = f"a.tif: {count} of its values are NaN or infinite; replace them"
    with pytest.raises(DataError, match=words):
        read_image(tmp_path / "a.tif")
    monkeypatch.setattr(pages, "LARGE", 0)
    (page,) = pages_of(examine_file(tmp_path / "a.tif"))
    with pytest.raises(DataError, match=words):
        page[:9]


# ------------------------------------------------------------------------------------- orientation
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("layout", [
    {}, {"rowsperstrip": 3, "compression": "zlib"}, {"tile": (16, 16)},
    {"planarconfig": "separate", "photometric": "rgb"}, {"photometric": "miniswhite"}])
def test_orientation(tmp_path, monkeypatch, orientation, layout):
    shape = (3, 21, 13) if "planarconfig" in layout else (21, 13)
    stored = random_pixels(shape, np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stored, extratags=[(274, 3, 1, orientation, True)],
                     **layout)
    pixels = stored.transpose(1, 2, 0) if len(shape) == 3 else stored
    shown = shown_by_hand(pixels, orientation)
    if len(shape) == 2:
        assert equal(read_label(tmp_path / "a.tif"), shown)
    if layout.get("photometric") == "miniswhite":
        shown = 65535 - shown
    check_reading(tmp_path / "a.tif", shown, monkeypatch, by_rows=orientation < 5)


# ------------------------------------------------------------------------------------------- axes
def check_images(path, wanted, monkeypatch, n_channels=None):
    """Predict.py's images of a file, whole and by rows."""
    for large in (pages.LARGE, 0):
        with monkeypatch.context() as patched:
            patched.setattr(pages, "LARGE", large)
            file = examine_file(path, n_channels)
            found = [page[:] for page in pages_of(file)]
        assert len(found) == len(wanted) == len(file.pages) and all(map(equal, found, wanted))
        assert {file.channels} == {1 if each.ndim == 2 else each.shape[2] for each in wanted}
    return file


STACKS = [  # axes of the array, its shape, axes of the images in the header, writers
    ("CYX", (4, 40, 50), "", "ois"), ("ZYX", (4, 40, 50), "Z", "ois"),
    ("TYX", (4, 40, 50), "T", "ois"), ("ZCYX", (3, 4, 40, 50), "Z", "ois"),
    ("TCYX", (2, 4, 40, 50), "T", "ois"), ("TZCYX", (2, 3, 4, 40, 50), "TZ", "ois"),
    ("CZYX", (2, 3, 40, 50), "Z", "os"), ("CTYX", (2, 3, 40, 50), "T", "os"),
    ("YXS", (40, 50, 3), "", "ois"), ("TYXS", (2, 40, 50, 3), "T", "ois"),
    ("CYXS", (2, 40, 50, 3), "", "os"), ("YXC", (40, 50, 5), "", "s"),
    ("YXZ", (40, 50, 5), "Z", "s"), ("ZYXC", (3, 40, 50, 2), "Z", "s"),
    ("CYX", (4, 40, 50), "", "p"), ("ZYX", (4, 40, 50), "Z", "p")]


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("writer, axes, shape, named", [
    (writer, axes, shape, named) for axes, shape, named, writers in STACKS for writer in writers])
def test_axes(tmp_path, monkeypatch, writer, axes, shape, named, compression):
    """OME (o), ImageJ (i), tifffile's own shapes (s), the same in separate planes (p)."""
    if writer == "i" and compression:
        return
    values = random_pixels(shape)
    options = {"o": {"ome": True}, "i": {"imagej": True}, "s": {},
               "p": {"planarconfig": "separate"}}[writer]
    if writer != "i":
        options["photometric"] = "rgb" if "S" in axes else "minisblack"
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, metadata={"axes": axes}, compression=compression, **options)
    others = [letter for letter in axes if letter not in "YXCS"]
    order = others + ["Y", "X"] + [letter for letter in axes if letter in "CS"]
    count = math.prod(shape[axes.index(letter)] for letter in others)
    moved = values.transpose([axes.index(letter) for letter in order]).reshape(count, 40, 50, -1)
    wanted = [each[..., 0] if each.shape[2] == 1 else each for each in moved]
    assert check_images(path, wanted, monkeypatch).axes == named
    if named:
        with pytest.raises(DataError, match=f"a.tif: has {len(wanted)} images, along its axes "
                                            f"{named}; `python MakeData.py folders --split_pages`"):
            read_image(path, 4)
    else:
        assert equal(read_image(path), wanted[0])


def test_pages_without_axes(tmp_path, monkeypatch, capsys):
    """They are a stack, or channels where these are as many, and neither 1 nor 3."""
    for folder, metadata in (("shaped", {}), ("plain", None)):
        path = tmp_path / folder / "a.tif"
        path.parent.mkdir()
        for count in (2, 3, 4, 16):
            values = random_pixels((count, 40, 50), np.uint16)
            tifffile.imwrite(path, values, photometric="minisblack", metadata=metadata)
            check_images(path, list(values), monkeypatch)
            check_images(path, list(values), monkeypatch, n_channels=3)
            check_images(path, list(values), monkeypatch, n_channels=5)
            with pytest.raises(DataError, match=f"a.tif: has {count} pages; .*--split_pages"):
                read_image(path)
            if count == 3:
                continue
            check_images(path, [values.transpose(1, 2, 0)], monkeypatch, n_channels=count)
            assert equal(read_image(path, count), values.transpose(1, 2, 0))
            assert (f"{path.parent}: files of {count} pages are read as images of {count} channels"
                    in capsys.readouterr().err)
    assert equal(np.stack(list(label_pages_of(examine_file(path)))), values)


def test_an_array_without_axes(tmp_path, monkeypatch, capsys):
    """tifffile writes an array (H, W, C) without axes as H narrow pages."""
    values = random_pixels((40, 50, 5), np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack")
    check_images(tmp_path / "a.tif", [values], monkeypatch)
    assert "an array (40, 50, 5) without axes, read as height, width" in capsys.readouterr().err


def test_pages_written_one_by_one(tmp_path, monkeypatch):
    values = random_pixels((4, 2, 40, 50))
    for options in ({}, {"contiguous": True}):
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            for page in values[:, 0]:
                file.write(page, **options)
        check_images(tmp_path / "a.tif", list(values[:, 0]), monkeypatch)
    with tifffile.TiffWriter(tmp_path / "a.tif", ome=True) as file:
        for image in values:
            file.write(image, photometric="minisblack", metadata={"axes": "CYX"})
    check_images(tmp_path / "a.tif", list(values.transpose(0, 2, 3, 1)), monkeypatch)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_pages_that_are_hidden(tmp_path, monkeypatch, photometric):
    """ImageJ's form for files of over 4 GB has one directory, and all pixels behind it."""
    values = random_pixels((2, 3, 40, 50), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, imagej=True, truncate=True,
                     photometric=photometric, metadata={"axes": "ZCYX"})
    shown = values if photometric == "minisblack" else 65535 - values
    check_images(tmp_path / "a.tif", list(shown.transpose(0, 2, 3, 1)), monkeypatch)


@pytest.mark.parametrize("metadata", [{}, None])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_a_volume(tmp_path, monkeypatch, compression, metadata):
    values = random_pixels((16, 32, 48))
    tifffile.imwrite(tmp_path / "a.tif", values, volumetric=True, tile=(16, 16, 16),
                     photometric="minisblack", compression=compression, metadata=metadata)
    check_images(tmp_path / "a.tif", list(values), monkeypatch)


def test_a_file_is_known_by_its_content(tmp_path):
    content = io.BytesIO()
    tifffile.imwrite(content, random_pixels((20, 30)))
    for name in ("a.png", "a.dat", "a"):
        (tmp_path / name).write_bytes(content.getvalue())
        assert equal(read_image(tmp_path / name), random_pixels((20, 30)))
