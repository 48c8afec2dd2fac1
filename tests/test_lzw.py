"""Damaged LZW in a TIFF file is told in one line; imagecodecs alone would end the process."""
import struct
import subprocess
import sys

import imagecodecs
import numpy as np
import pytest
import tifffile
from helpers import ROOT

from command.errors import DataError
from images.lzw import check_lzw
from images.reading import examine_file, pages_of, read_image

SHAPE = (70, 90)


def pack(codes, lowest_first=False):
    """Codes of 9 bits as bytes."""
    if lowest_first:
        number = sum(code << 9 * k for k, code in enumerate(codes))
        return number.to_bytes(-(-9 * len(codes) // 8), "little")
    bits = "".join(f"{code:09b}" for code in codes)
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


@pytest.mark.parametrize("lowest_first", [False, True])
@pytest.mark.parametrize("codes, sound", [
    ([256, 65, 66, 258, 257], True), ([256, 256, 65, 257], True), ([256, 257], True), ([256], True),
    ([256, 65, 256, 66, 257, 256, 400], True), ([256, 65, 256, 256, 66, 258, 257], True),
    ([256, 258, 257], False), ([256, 400, 400], False), ([256, 65, 256, 300, 257], False),
    ([256, 65, 66, 256, 256, 258], False)])
def test_codes_by_hand(codes, sound, lowest_first):
    stream = pack(codes, lowest_first)
    if sound:
        check_lzw(stream)
        return
    with pytest.raises(ValueError, match="damaged LZW codes"):
        check_lzw(stream)


@pytest.mark.parametrize("values", [2, 17, 256])
def test_what_an_encoder_writes_is_sound(values):
    """Long streams clear their table several times."""
    for size in (0, 1, 2, 100, 60_000):
        raw = np.random.default_rng(size).integers(0, values, size, np.uint8).tobytes()
        check_lzw(imagecodecs.lzw_encode(raw))
        for cut in (1, 2, 3, 50, 20_001):
            check_lzw(imagecodecs.lzw_encode(raw)[:cut])


def write_damaged(path, strips=1):
    """A TIFF with LZW whose last strip has a code that is not in the table."""
    rows = -(-SHAPE[0] // strips)
    pixels = np.random.default_rng(0).integers(0, 255, SHAPE, np.uint8)
    tifffile.imwrite(path, pixels, compression="lzw", rowsperstrip=rows, metadata=None)
    with tifffile.TiffFile(path) as file:
        place = file.pages[0].dataoffsets[-1]
    content = bytearray(path.read_bytes())
    codes = pack([256, 400, 300, 257])
    content[place:place + len(codes)] = codes
    path.write_bytes(content)
    return rows


@pytest.mark.parametrize("strips", [1, 7])
def test_a_damaged_file_is_told(tmp_path, strips):
    write_damaged(tmp_path / "a.tif", strips)
    with pytest.raises(DataError, match="a.tif: not a readable image .damaged LZW codes"):
        read_image(tmp_path / "a.tif")


def test_bits_in_the_other_order_are_read(tmp_path):
    """FillOrder 2: the lowest bit of a byte comes first."""
    pixels = np.random.default_rng(0).integers(0, 255, SHAPE, np.uint8)
    strip = imagecodecs.bitorder_encode(imagecodecs.lzw_encode(pixels.tobytes()))
    tifffile.imwrite(tmp_path / "a.tif", pixels, compression="lzw", rowsperstrip=SHAPE[0],
                     metadata=None, extratags=[(65000, "H", 1, 2, True)])
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        place, size = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    assert size == len(strip)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[place:place + size] = strip
    tag = content.index(struct.pack("<HHIH", 65000, 3, 1, 2))
    content[tag:tag + 2] = struct.pack("<H", 266)
    (tmp_path / "a.tif").write_bytes(content)
    assert np.array_equal(read_image(tmp_path / "a.tif"), pixels)


def test_a_damaged_large_file_is_told(tmp_path, monkeypatch):
    """By bands: those before the damage are read."""
    from images import pages
    monkeypatch.setattr(pages, "LARGE", 1000)
    rows = write_damaged(tmp_path / "a.tif", 7)
    page, = pages_of(examine_file(tmp_path / "a.tif"))
    assert page[0:rows].shape == (rows, SHAPE[1])
    with pytest.raises(DataError, match="a.tif: not a readable image .damaged LZW codes"):
        page[SHAPE[0] - 3:SHAPE[0]]


def test_damaged_streams_end_no_process():
    """Bytes changed at random, in a process of their own."""
    script = """
import imagecodecs, numpy
from images.lzw import check_lzw
rng = numpy.random.default_rng(0)
sound = [imagecodecs.lzw_encode(rng.integers(0, k, 9000, numpy.uint8).tobytes()) for k in (3, 250)]
for k in range(8000):
    stream = bytearray(sound[k % 2])
    for place in rng.integers(0, len(stream), rng.integers(1, 9)):
        stream[place] = rng.integers(256)
    try:
        check_lzw(bytes(stream))
        imagecodecs.lzw_decode(bytes(stream), out=9000)
    except (ValueError, imagecodecs.LzwError):
        pass
print("done")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "done\n", (done.returncode, done.stderr)
