"""PNG, JPEG, GIF and others, and .npy arrays: against Pillow and the arrays that were written."""
import io

import numpy as np
import pytest
import tifffile
from image_files import pack_bits, png_bytes_of, random_pixels, shown_by_hand
from PIL import Image, ImageOps

from command.errors import DataError
from datasets.labels import load_label
from images.formats import pixels_suffix, write_pixels
from images.reading import examine_file, image_size, is_lossy, pages_of, read_image, read_label

ORIENTATION = 0x0112


def equal(found, wanted):
    return (found.dtype == wanted.dtype and found.shape == wanted.shape
            and np.array_equal(found, wanted))


def check_picture(path, wanted):
    """All ways to read a picture give `wanted`."""
    file = examine_file(path)
    assert (file.height, file.width) == wanted.shape[:2] == image_size(path)
    assert (file.channels, file.dtype) == (1 if wanted.ndim == 2 else wanted.shape[2], wanted.dtype)
    (page,) = pages_of(file)
    assert equal(read_image(path), wanted) and equal(page, wanted)


# ------------------------------------------------------------------------------------- orientation
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
def test_orientation_of_png(tmp_path, orientation, mode):
    """Image and label as viewers and annotation tools show them."""
    samples = 4 if mode == "RGBA" else 3
    image = Image.fromarray(random_pixels((21, 13, samples))).convert(mode)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as file:
        plain = {"RGBA": "RGB", "P": "RGB", "1": "L"}.get(mode, mode)
        wanted = np.array(ImageOps.exif_transpose(file).convert(plain))
    check_picture(tmp_path / "a.png", wanted)
    by_hand = shown_by_hand(np.array(image.convert(plain)), orientation)
    assert equal(wanted, by_hand)
    if mode in ("L", "1"):
        assert equal(read_label(tmp_path / "a.png"), by_hand)
    if mode == "P":
        assert equal(read_label(tmp_path / "a.png"), shown_by_hand(np.array(image), orientation))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_orientation_of_jpeg(tmp_path, orientation, mode, form):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(random_pixels((21, 13, 3))).convert(mode).save(tmp_path / "a.jpg", form,
                                                                   exif=exif)
    with Image.open(tmp_path / "a.jpg") as file:
        wanted = np.array(ImageOps.exif_transpose(file))
    check_picture(tmp_path / "a.jpg", wanted)


def test_an_orientation_behind_the_pixels(tmp_path):
    pixels = random_pixels((21, 13))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    (tmp_path / "a.png").write_bytes(png_bytes_of(
        21, 13, 8, 0, pixels.tobytes(), late=[(b"eXIf", exif.tobytes()[6:])]))
    check_picture(tmp_path / "a.png", np.rot90(pixels, -1))


@pytest.mark.filterwarnings("ignore")
def test_damaged_exif_data_is_passed_over(tmp_path):
    """As viewers do: the pixels are sound."""
    pixels = random_pixels((21, 13))
    of_99 = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0"
    for data in (b"", b"MM", of_99, of_99[:-9], b"\xff" * 30):
        (tmp_path / "a.png").write_bytes(png_bytes_of(21, 13, 8, 0, pixels.tobytes(),
                                                      chunks=[(b"eXIf", data)]))
        check_picture(tmp_path / "a.png", pixels)
        Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + data)
        with Image.open(tmp_path / "a.jpg") as image:
            check_picture(tmp_path / "a.jpg", np.array(image))


# ---------------------------------------------------------------------------------- depth and alpha
@pytest.mark.parametrize("kind, samples, channels", [(0, 1, 1), (2, 3, 3), (4, 2, 1), (6, 4, 3)])
def test_16_bits_are_kept(tmp_path, capsys, kind, samples, channels):
    stored = random_pixels((20, 30, samples), np.uint16)
    (tmp_path / "a.png").write_bytes(png_bytes_of(20, 30, 16, kind, stored.astype(">u2").tobytes()))
    check_picture(tmp_path / "a.png", stored[..., 0] if channels == 1 else stored[..., :channels])
    assert ("alpha" in capsys.readouterr().err) == (samples > channels)


@pytest.mark.parametrize("bits, factor", [(2, 85), (4, 17)])
def test_few_bits(tmp_path, bits, factor):
    """A label has class numbers; an image is scaled to 8 bits, as Pillow shows it."""
    stored = random_pixels((20, 33)) % 2 ** bits
    (tmp_path / "a.png").write_bytes(png_bytes_of(20, 33, bits, 0, pack_bits(stored, bits)))
    assert equal(read_label(tmp_path / "a.png"), stored)
    check_picture(tmp_path / "a.png", stored * np.uint8(factor))
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), stored * factor)


@pytest.mark.parametrize("white", [1, 3, 7, 200, 255, 300, 1000, 65535])
@pytest.mark.parametrize("form", ["P2", "P5"])
def test_portable_grey_maps_tell_their_white(tmp_path, white, form):
    """Pillow scales it to 8 or 16 bits.  A label has its numbers as they are stored."""
    stored = random_pixels((20, 30), np.uint16).astype(int) % (white + 1)
    head = f"{form}\n# by hand\n30 20\n{white}\n".encode()
    text = " ".join(map(str, stored.ravel())).encode()
    data = stored.astype(np.uint8 if white < 256 else ">u2").tobytes()
    (tmp_path / "a.pgm").write_bytes(head + (text if form == "P2" else data))
    dtype = np.uint8 if white < 256 else np.uint16
    assert equal(read_label(tmp_path / "a.pgm"), stored.astype(dtype))


@pytest.mark.parametrize("colour", [0, 255])
@pytest.mark.parametrize("form", ["png", "tif"])
@pytest.mark.parametrize("samples", [2, 4])
def test_a_label_in_alpha_alone(tmp_path, colour, form, samples):
    stored = np.full((20, 30, samples), colour, np.uint8)
    stored[..., -1] = random_pixels((20, 30)) // 128 * 255
    Image.fromarray(stored).save(tmp_path / f"a.{form}")
    with pytest.raises(DataError, match=f"a.{form}: a label whose mask is in its alpha channel"):
        read_label(tmp_path / f"a.{form}")
    stored[..., -1] = 255
    Image.fromarray(stored).save(tmp_path / f"a.{form}")
    assert (read_label(tmp_path / f"a.{form}") == colour).all(), "an empty mask is a mask"


# ----------------------------------------------------------------------------------------- palettes
MASK = random_pixels((20, 33)) // 128 * np.uint8(255)


def palette_file(path, indices, colours):
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(np.ravel(colours).tolist())
    image.save(path)
    return path


@pytest.mark.parametrize("form", ["png", "tif", "gif", "bmp"])
@pytest.mark.parametrize("made", ["quantize", "convert", "adaptive"])
def test_a_mask_in_a_palette(tmp_path, form, made):
    """White is foreground, whatever its index and however the palette is filled up."""
    grey = Image.fromarray(MASK)
    image = {"quantize": lambda: grey.quantize(), "convert": lambda: grey.convert("P"),
             "adaptive": lambda: grey.convert("P", palette=Image.Palette.ADAPTIVE)}[made]()
    image.save(tmp_path / f"a.{form}")
    assert equal(read_label(tmp_path / f"a.{form}"), MASK)


BLACK, WHITE, GREY, RED = (0, 0, 0), (255, 255, 255), (90, 90, 90), (200, 0, 0)


@pytest.mark.parametrize("form", ["png", "tif"])
@pytest.mark.parametrize("colours, used, is_mask", [
    ((BLACK, WHITE), (0, 1), True), ((WHITE, BLACK), (0, 1), True),
    ((WHITE, BLACK, BLACK, GREY), (0, 1), True), ((WHITE, BLACK), (0, 0), True),
    ((WHITE, BLACK), (1, 1), True), ((GREY, BLACK, GREY, WHITE), (1, 3), True),
    ((BLACK, WHITE, RED), (0, 1), False), ((BLACK, WHITE, GREY), (0, 2), False),
    ((BLACK, RED), (0, 1), False), ((BLACK, BLACK, WHITE), (0, 1), False)])
def test_which_palettes_make_a_mask(tmp_path, form, colours, used, is_mask):
    indices = np.where(MASK > 0, used[1], used[0])
    path = palette_file(tmp_path / f"a.{form}", indices, colours)
    shown = np.array(colours, np.uint8)[indices]
    assert equal(read_label(path), shown[..., 0] if is_mask else indices.astype(np.uint8))
    assert equal(read_image(path), shown), "an image is what is seen"


# -------------------------------------------------------------------------------------- lossy files
def soft_mask():
    """A disc, which JPEG blurs."""
    rows, columns = np.mgrid[:48, :64]
    return ((rows - 24) ** 2 + (columns - 30) ** 2 < 300) * np.uint8(255)


@pytest.mark.parametrize("name, form, options", [
    ("a.png", "JPEG", {}), ("a.tif", "JPEG", {}), ("a.tif", "TIFF", {"compression": "jpeg"}),
    ("a.jpg", "JPEG", {}), ("a.png", "WEBP", {"quality": 40}),
    ("a.png", "JPEG2000", {"irreversible": True, "quality_layers": [5]})])
def test_lossy_labels_are_known_by_their_content(tmp_path, capsys, name, form, options):
    mask = soft_mask()
    Image.fromarray(mask).save(tmp_path / name, form, **options)
    assert is_lossy(tmp_path / name)
    found = read_label(tmp_path / name)
    assert set(np.unique(found)) == {0, 255} and np.mean(found != mask) < 0.01
    assert f"{name}: a lossy label, cut at half" in capsys.readouterr().err
    assert np.array_equal(load_label(tmp_path / name, 2), found > 0)
    with pytest.raises(DataError, match=f"{name}: JPEG changes class numbers"):
        load_label(tmp_path / name, 3)


@pytest.mark.parametrize("form, options", [
    ("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG2000", {}), ("BMP", {}), ("GIF", {})])
def test_labels_that_lose_nothing(tmp_path, form, options):
    Image.fromarray(MASK).save(tmp_path / "a.jpg", form, **options)
    assert not is_lossy(tmp_path / "a.jpg") and equal(read_label(tmp_path / "a.jpg"), MASK)


def test_of_an_animation_the_first_picture_is_read(tmp_path, capsys):
    frames = [Image.fromarray(random_pixels((20, 30), seed=k)) for k in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "a.gif") as image:
        check_picture(tmp_path / "a.gif", np.array(image.convert("RGB" if image.mode == "P" else
                                                                 image.mode)))
    assert f"{tmp_path}: of animations the first picture is read" in capsys.readouterr().err


# -------------------------------------------------------------------------------------- .npy arrays
@pytest.mark.parametrize("dtype", ["uint8", ">u2", "int8", "int32", "float16", ">f4", "float64"])
@pytest.mark.parametrize("shape, moved", [
    ((20, 30), False), ((20, 30, 4), False), ((4, 20, 30), True), ((3, 40, 16), False)])
def test_arrays(tmp_path, dtype, shape, moved):
    values = random_pixels(shape, np.dtype(dtype).newbyteorder("=")).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    wanted = values.transpose(1, 2, 0) if moved else values
    check_picture(tmp_path / "a.npy", wanted.astype(np.dtype(dtype).newbyteorder("=")))


@pytest.mark.parametrize("dtype, kept", [
    ("int64", "uint32"), ("uint64", "uint32"), ("float64", "uint32"), ("int32", "uint32"),
    ("int16", "uint16"), ("uint8", "uint8"), ("float32", "uint32")])
@pytest.mark.parametrize("form", ["npy", "tif"])
def test_labels_of_other_kinds(tmp_path, form, dtype, kept):
    label = (random_pixels((20, 30)) % 100).astype(dtype)
    if form == "npy":
        np.save(tmp_path / "a.npy", label)
    else:
        tifffile.imwrite(tmp_path / "a.tif", label)
    assert equal(read_label(tmp_path / f"a.{form}"), label.astype(kept))


def test_truth_values(tmp_path):
    np.save(tmp_path / "a.npy", MASK > 0)
    assert equal(read_label(tmp_path / "a.npy"), MASK) and equal(read_image(tmp_path / "a.npy"),
                                                                 MASK)


@pytest.mark.parametrize("value, words", [
    (-1, "has the label value -1; store numbers from 0 on"),
    (0.5, "label values that are no whole numbers"), (np.nan, "label values that are no whole"),
    (2.0 ** 33, "has the label value 8589934592, more than 32 bits hold")])
def test_labels_that_are_refused(tmp_path, value, words):
    label = np.zeros((20, 30))
    label[3, 4] = value
    tifffile.imwrite(tmp_path / "a.tif", label)
    with pytest.raises(DataError, match=f"a.tif: {words}"):
        read_label(tmp_path / "a.tif")


@pytest.mark.parametrize("array", [
    np.zeros((20, 30, 17), np.uint8), np.zeros(20), np.zeros((2, 3, 4, 5)), np.zeros((0, 20)),
    np.zeros((3, 4), complex), np.array([[{}]]), np.array([["text"]])])
def test_arrays_that_are_no_images(tmp_path, array):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match="a.npy: "):
        read_image(tmp_path / "a.npy")


# ------------------------------------------------------------------------------------------ writing
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int8", "int16", "int32",
                                   "float16", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 16])
def test_what_is_written_is_read_back(tmp_path, dtype, channels):
    pixels = random_pixels((20, 30) if channels == 1 else (20, 30, channels), dtype)
    is_png = (channels, dtype) in [(1, "uint8"), (1, "uint16"), (3, "uint8")]
    assert pixels_suffix(pixels) == (".png" if is_png else ".tif")
    for suffix in {pixels_suffix(pixels), ".tif"}:
        write_pixels(tmp_path / f"a{suffix}", pixels)
        check_picture(tmp_path / f"a{suffix}", pixels)
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_content_that_is_no_picture(tmp_path):
    for content in (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", io.BytesIO().getvalue()):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(DataError, match="a.png: not a readable image; export it again"):
            read_image(tmp_path / "a.png")
