"""What libraries have to say of odd files reaches nobody."""
import struct

import numpy as np
import tifffile
from helpers import command
from PIL import Image


def odd_exif():
    """EXIF whose description claims to be longer than the file, and whose end is missing."""
    exif = Image.Exif()
    exif[0x10e] = "a description"
    content = bytearray(exif.tobytes())
    order = "<" if b"II*" in content else ">"
    place = content.index(struct.pack(f"{order}HH", 0x10e, 2))
    content[place + 4:place + 8] = struct.pack(f"{order}I", 60_000)
    return bytes(content[:-6])


def test_odd_files_are_read_without_a_word(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for kind in ("imgs", "labels"):
            (tmp_path / "set" / split / kind).mkdir(parents=True)
        label = np.where(rng.random((40, 50)) < 0.5, 0, 255).astype(np.uint8)
        Image.fromarray(rng.integers(0, 255, (40, 50), np.uint8)).save(
            tmp_path / "set" / split / "imgs" / "a.jpg", exif=odd_exif())
        tifffile.imwrite(tmp_path / "set" / split / "labels" / "a.tif", label,
                         description="ImageJ=nonsense\nimages=9")
    done = command("MakeData.py", "check", "--Data_directory", "set", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and "2 pairs, sound" in done.stdout
