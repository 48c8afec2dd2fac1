"""Damaged files: whatever is in them, a DataError of one line comes out, within seconds."""
import contextlib
import io
import signal
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from image_files import random_pixels, tiff_bytes
from PIL import Image

from command.errors import DataError
from images import pages
from images.reading import examine_file, image_size, pages_of, read_image, read_label

SECONDS = 10  # that a file may take


class TookTooLong(BaseException):
    """Not an Exception, which a reader would turn into a DataError."""


@contextlib.contextmanager
def time_limit():
    def stop(*_):
        raise TookTooLong
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read_pages(path):
    return [page[:3] for page in pages_of(examine_file(path))]


def outcomes(path, content):
    """What all ways to read a file of this content make of it: True, or the words of an error."""
    path.write_bytes(content)
    found = []
    for read in (read_image, read_label, read_pages, image_size):
        with time_limit():
            try:
                read(path)
                found.append(True)
            except DataError as error:
                assert "\n" not in str(error) and str(error).startswith(f"{path}: ")
                found.append(str(error))
    return found


def tiff_of(values, **options):
    content = io.BytesIO()
    tifffile.imwrite(content, values, **options)
    return content.getvalue()


def picture_of(image, form):
    content = io.BytesIO()
    image.save(content, form)
    return content.getvalue()


def npy_of(values):
    content = io.BytesIO()
    np.save(content, values)
    return content.getvalue()


PIXELS, COLOURS, STACK = (random_pixels((30, 40)), random_pixels((30, 40, 3)),
                          random_pixels((2, 3, 20, 30)))
BLACK = {"photometric": "minisblack"}
ZCYX = {"metadata": {"axes": "ZCYX"}}
SOUND = {
    "grey": tiff_of(PIXELS), "strips": tiff_of(PIXELS, compression="zlib", rowsperstrip=7),
    "tiles": tiff_of(COLOURS, photometric="rgb", tile=(16, 16), compression="lzw"),
    "planes": tiff_of(random_pixels((3, 30, 40), np.uint16), photometric="rgb", byteorder=">"),
    "BigTIFF": tiff_of(PIXELS, bigtiff=True, tile=(16, 16)),
    "stack": tiff_of(STACK[0], metadata=None, **BLACK), "shaped": tiff_of(STACK, **BLACK, **ZCYX),
    "OME": tiff_of(STACK, ome=True, **BLACK, **ZCYX), "ImageJ": tiff_of(STACK, imagej=True, **ZCYX),
    "hidden pages": tiff_of(STACK, imagej=True, truncate=True, **ZCYX),
    "an array": tiff_of(random_pixels((20, 30, 5)), metadata={"axes": "YXC"}, **BLACK),
    "a packed array": tiff_of(random_pixels((20, 30, 5)), metadata={"axes": "YXC"},
                              compression="lzw", **BLACK),
    "floats": tiff_of(PIXELS.astype(np.float32), compression="zstd", predictor=True),
    "JPEG in TIFF": tiff_of(COLOURS, photometric="rgb", compression="jpeg"),
    "JPEG 2000 in TIFF": tiff_of(PIXELS, compression="jpeg2000"), "bits": tiff_of(PIXELS > 99),
    "fax": picture_of(Image.fromarray(PIXELS > 99), "TIFF"),
    "palette": picture_of(Image.fromarray(PIXELS).quantize(16), "TIFF"), "npy": npy_of(PIXELS),
    **{form: picture_of(Image.fromarray(COLOURS), form)
       for form in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM")}}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", SOUND)
def test_changed_and_cut_files(tmp_path, monkeypatch, name, large):
    """Bytes are changed, at the begin, at the end, or anywhere; or the end is missing."""
    if large:
        monkeypatch.setattr(pages, "LARGE", 0)
    path, rng = tmp_path / "a.tif", np.random.default_rng([large, len(SOUND[name])])
    assert outcomes(path, SOUND[name])[3] is True
    refused = 0
    for k in range(60):
        content = bytearray(SOUND[name])
        length = len(content)
        if k % 4 == 0:
            content = content[:rng.integers(length)]
        else:
            first, end = [(0, length), (0, min(300, length)), (max(0, length - 400), length)][k % 3]
            for place in rng.integers(first, end, rng.integers(1, 5)):
                content[place] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
        refused += any(each is not True for each in outcomes(path, content))
    assert refused > 10


# ------------------------------------------------------------------------------------- directories
def chain_of(pages_in_all, last):
    """A TIFF file of many pages of the same pixels; the last one names the directory at `last`."""
    first = tiff_bytes(30, 40, PIXELS.tobytes())
    entries, = struct.unpack_from("<H", first, 8)
    directory, start = first[8:10 + 12 * entries], len(first)
    size = len(directory) + 4
    links = [start + k * size for k in range(pages_in_all - 1)]
    body = b"".join(directory + struct.pack("<I", link) for link in [*links[1:], last])
    return first[:10 + 12 * entries] + struct.pack("<I", start) + first[14 + 12 * entries:] + body


CHAINS = {  # name: (content, words of the error)
    "itself": (tiff_bytes(30, 40, PIXELS.tobytes(), next_page=8), "its pages leads nowhere"),
    "a circle": (chain_of(5, 8), "the list of its pages leads nowhere"),
    "beyond the end": (chain_of(5, 10 ** 9), "the list of its pages leads nowhere"),
    "too many": (chain_of(70000, 0), "more than 65,536 pages; save it in parts"),
    "empty": (b"II*\0\x08\0\0\0" + bytes(9), "not a readable image (a page without a desc"),
    "2^63": (b"II+\0\x08\0\0\0" + b"\xff" * 7 + b"\x7f" + bytes(99), "not a readable image"),
    "2^64 tags": (b"II+\0\x08\0\0\0\x10" + bytes(7) + b"\xff" * 99, "not a readable image")}


@pytest.mark.parametrize("name", CHAINS)
def test_a_list_of_pages_that_does_not_end(tmp_path, name):
    content, words = CHAINS[name]
    for found in outcomes(tmp_path / "a.tif", content):
        assert words in str(found)


def test_many_pages_are_read(tmp_path):
    found = outcomes(tmp_path / "a.tif", chain_of(2000, 0))
    assert "has 2000 pages" in found[0] and found[2] is True


# ----------------------------------------------------------------------------- what headers promise
OME = ('<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels '
       'ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="40" SizeY="30" SizeC="{c}" '
       'SizeZ="{z}" SizeT="1"><TiffData IFD="0" PlaneCount="{planes}"/></Pixels></Image></OME>')
ENTITIES = "".join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 10}">' for k in range(1, 12))
BOMBS = {8: zlib.compress(bytes(2 ** 28)), 50000: imagecodecs.zstd_encode(bytes(2 ** 28)),
         7: imagecodecs.jpeg_encode(np.zeros((16000, 16000), np.uint8))}


SIZES = ((2 ** 31, 2 ** 31), (2 ** 14, 2 ** 14), (1, 2 ** 31), (2 ** 31, 1))


@pytest.mark.parametrize("height, width, tags", [
    *[(*size, tags) for size in SIZES
      for tags in ({}, {259: 8}, {278: 1}, {259: 8, 278: 1}, {322: 16, 323: 16, 324: 8, 325: 256},
                   {259: 8, 322: 2 ** 31 - 16, 323: 2 ** 31 - 16, 324: 8, 325: 256})],
    *[(30, 40, tags) for tags in ({322: 0, 323: 0, 324: 8, 325: 9}, {277: 65535}, {278: 0},
                                  {277: 65535, 284: 2}, {258: 65535}, {262: 3}, {259: 1234})],
    (0, 40, {}), (30, 0, {})])
@pytest.mark.parametrize("large", [False, True])
def test_sizes_that_no_file_of_this_length_has(tmp_path, monkeypatch, height, width, tags, large):
    if large:
        monkeypatch.setattr(pages, "LARGE", 0)
    found = outcomes(tmp_path / "a.tif", tiff_bytes(height, width, bytes(600), tags))
    assert True not in found[:3]


PROMISES = [
    b'{"shape": [1000000000, 30, 40]}', b'{"shape": [-1, 30, 40]}', b'{"shape": [0]}',
    b'{"shape": ' + b"[" * 9999, b'{"shape": [1, 30, 40], "axes": "ZZZ"}',
    b"ImageJ=1.11a\nimages=1000000000\nchannels=1000000\nslices=1000\n",
    b"ImageJ=1.11a\nimages=-2\nchannels=0\n",
    OME.format(c=1, z=10 ** 9, planes=10 ** 9).encode(), OME.format(c=-1, z=0, planes=1).encode(),
    f'<!DOCTYPE l [<!ENTITY a0 "lol">{ENTITIES}]>{OME}'.replace("{planes}", "&a11;").encode()]


@pytest.mark.parametrize("number", range(len(PROMISES)))
def test_descriptions_that_promise_too_much(tmp_path, number):
    outcomes(tmp_path / "a.tif", tiff_bytes(30, 40, PIXELS.tobytes(),
                                            {270: PROMISES[number] + b"\0"}))


@pytest.mark.parametrize("code", [270, 273, 279, 320, 330, 339, 33550, 34675, 37724])
@pytest.mark.parametrize("count", [2 ** 20, 2 ** 28, 2 ** 32 - 1])
@pytest.mark.parametrize("kind", [2, 4, 12])
def test_tags_of_huge_counts(tmp_path, code, count, kind):
    content = bytearray(tiff_bytes(30, 40, PIXELS.tobytes(), {code: 0} if code not in (273, 279)
                                   else {}))
    place = next(k for k in range(10, 400, 12)
                 if struct.unpack_from("<H", content, k)[0] == code)
    struct.pack_into("<HHI", content, place, code, kind, count)
    outcomes(tmp_path / "a.tif", content)


@pytest.mark.parametrize("compression", BOMBS)
def test_pixels_that_unfold(tmp_path, compression):
    """A strip that holds far more values than its page."""
    outcomes(tmp_path / "a.tif", tiff_bytes(30, 40, BOMBS[compression], {259: compression}))


@pytest.mark.parametrize("shape", ["(999999999999, 20)", "(0, 20)", "(-3, 20)", "(30,)", "()",
                                   "(30, 20, 99999999999)", "(2**3,)"])
def test_arrays_that_promise_too_much(tmp_path, shape):
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117)
    content = b"\x93NUMPY\x01\0" + struct.pack("<H", 118) + text + b"\n" + bytes(600)
    assert True not in outcomes(tmp_path / "a.npy", content)
