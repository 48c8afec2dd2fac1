"""MirrorPadding.py: mirroring against brute force, tiles against the whole image, the command."""
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import MirrorPadding
from command.errors import DataError, run
from MirrorPadding import (Reference, Tiles, Whole, crop_logits, draw_padding, mirror_pad,
                           mirror_padding, overlap_tile, pad_for, tiling)
from nets.catalogue import CATALOGUE
from nets.geometry import (U2NET, UNET_ALIGNED, UNET_BILINEAR, UNET_PADDED, UNET_TRANSPOSED,
                           Geometry, blended_starts, exact_spans, gaussian_window)
from nets.quadrants import reference_blocks, stitch_reference

GEOMETRIES = [UNET_BILINEAR, UNET_TRANSPOSED, UNET_PADDED, U2NET]
VALID = [UNET_BILINEAR, UNET_TRANSPOSED]


# ------------------------------------------------------------------------------------------ helpers
def bounced(length, positions):
    """The pixel that a ball reaches at each position when it bounces between the edge pixels."""
    strip = [*range(length), *range(length - 2, 0, -1)]
    return np.array([strip[position % len(strip)] for position in positions])


def numbered(*shape):
    """An image in which every pixel has its own value."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def noise(*shape):
    return np.random.default_rng(shape).integers(0, 100, shape).astype(np.float32)


def centre(inputs):
    """The simplest valid net: the pixel in the middle of what it sees."""
    return inputs[..., 92:-92, 92:-92]


def valid_net(edge):
    """A stand-in for U-Net in exact integers, (N, C, h, w) -> (N, 2, h - 184, w - 184).

    Logit 0: a sum of all 185 x 185 pixels that it sees, and of the 16 x 16 pixels that four pools
    join with its own.
    Logit 1: its input pixel, raised within `edge` pixels of the output's edge, because bilinear
    up-sampling changes those.
    """
    def forward(inputs):
        assert inputs.dtype == np.float32 and all(side % 16 == 12 for side in inputs.shape[2:])
        values = inputs.sum(axis=1).astype(np.int64)
        window = np.pad(values, [(0, 0), (1, 0), (1, 0)]).cumsum(axis=1).cumsum(axis=2)
        window = (window[:, 185:, 185:] - window[:, :-185, 185:]
                  - window[:, 185:, :-185] + window[:, :-185, :-185])
        n, height, width = values.shape
        rows, columns = (np.arange(92, side - 92) // 16 for side in (height, width))
        whole = values[:, :height // 16 * 16, :width // 16 * 16].reshape(
            n, height // 16, 16, width // 16, 16)
        pooled = whole.sum(axis=(2, 4))[:, rows[:, None], columns]
        raised = [np.minimum(np.arange(side - 184), np.arange(side - 184)[::-1]) < edge
                  for side in (height, width)]
        plain = values[:, 92:-92, 92:-92] + 1000 * raised[0][:, None] + 3000 * raised[1]
        return np.stack([(window + 7 * pooled) % 10007, plain], axis=1).astype(np.float32)
    return forward


# ----------------------------------------------------------------------------------------- geometry
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_output_side_is_the_smallest_that_covers(geometry):
    fits = [side for side in range(geometry.smallest, 1000)
            if side % geometry.multiple == geometry.remainder]
    for length in range(1, 900):
        assert geometry.output_side(length) == min(side for side in fits if side >= length)


def test_sizes_of_the_paper():
    for side, output in ((572, 388), (700, 516)):
        assert UNET_BILINEAR.output_side(output) == UNET_BILINEAR.output_side(output - 15) == output
        assert output + UNET_BILINEAR.margin == side
    assert pad_for(UNET_BILINEAR, noise(1, 512, 512), 512, 512).shape == (1, 700, 700)
    assert [geometry.output_side(1) for geometry in GEOMETRIES] == [4, 4, 32, 64]


def geometry_of(mode, **options):
    return CATALOGUE[mode].geometry(options)


def test_geometry_of_each_net():
    assert geometry_of("Unet") is UNET_BILINEAR
    assert geometry_of("Unet", bilinear=False) is UNET_TRANSPOSED
    assert geometry_of("Unet", padding=1) is UNET_PADDED
    assert geometry_of("U2netS") is geometry_of("U2net") is U2NET
    assert geometry_of("Unet", align_corners=True) is UNET_ALIGNED and UNET_ALIGNED.edge is None
    assert geometry_of("Unet", bilinear=False, align_corners=True) is UNET_TRANSPOSED


def test_the_word_of_a_tiling():
    for text, tile in (("full", Whole()), ("reference", Reference()), ("52", Tiles(52))):
        assert tiling(text) == tile and str(tile) == text
    assert (Whole().for_prediction, Tiles(52).for_prediction) == ("full", "full")
    assert Reference().for_prediction == "reference"


def test_a_tiling_that_is_left_to_choose():
    """Exact tiles cost nothing. Others change the answer: only for images too large at once."""
    whole = Whole()
    for tile in (whole.automatic(UNET_BILINEAR, 50, 60), whole.automatic(UNET_BILINEAR, 3000, 20),
                 whole.automatic(U2NET, 1024, 2049), Tiles(52).for_testing(U2NET, 1024, 2049)):
        assert tile == Tiles(1024)
    for tile in (whole.automatic(U2NET, 50, 60), whole.automatic(U2NET, 1024, 2048),
                 Tiles(52).for_testing(U2NET, 50, 60), Tiles(60).for_images(60, 50)):
        assert tile == whole
    assert whole.for_testing(UNET_BILINEAR, 3000, 3000) == whole
    assert Tiles(52).automatic(U2NET, 50, 60) == Tiles(52)
    assert Tiles(59).for_images(52, 60) == Tiles(59)
    assert (Reference().automatic(U2NET, 512, 512) == Reference().for_testing(U2NET, 512, 512)
            == Reference())


def test_tiles_that_are_too_small():
    for tile, geometry in ((Whole(), UNET_BILINEAR), (Tiles(52), UNET_BILINEAR),
                           (Tiles(20), UNET_TRANSPOSED), (Tiles(16), U2NET)):
        tile.check(geometry)
    with pytest.raises(DataError, match="^--tile 36: too small for this net, 52 is the smallest$"):
        Tiles(36).check(UNET_BILINEAR)


def test_which_tiles_are_blended():
    assert Tiles(64).blends(U2NET, 65, 3) and Tiles(64).blends(UNET_ALIGNED, 3, 65)
    assert not Tiles(64).blends(U2NET, 64, 64) and not Tiles(64).blends(UNET_BILINEAR, 99, 99)
    assert not Whole().blends(U2NET, 9999, 9999) and not Reference().blends(U2NET, 512, 512)


# ---------------------------------------------------------------------------------------- mirroring
@pytest.mark.parametrize("shape", [(9, 14), (2, 7, 5), (3, 1), (1, 2), (2, 3, 4, 5)])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 2, 3, 4), (1, 8, 0, 30), (25, 3, 41, 40)])
def test_mirror_pad(shape, pads):
    image, (top, bottom, left, right) = numbered(*shape), pads
    height, width = shape[-2:]
    rows, columns = (bounced(height, range(-top, height + bottom)),
                     bounced(width, range(-left, width + right)))
    padded = mirror_pad(image, *pads)
    assert padded.shape == (*shape[:-2], height + top + bottom, width + left + right)
    assert (padded == image[..., rows[:, None], columns]).all() and padded.dtype == image.dtype


def test_mirror_padding_puts_the_odd_pixel_after():
    assert mirror_padding(np.array([[1, 2, 3]]), 3).tolist() == [[2, 1, 2, 3, 2, 1]] * 4
    assert (mirror_padding(numbered(2, 6, 7), 4) == mirror_pad(numbered(2, 6, 7), 2, 2, 2, 2)).all()


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("size, canvas", [((33, 50), (33, 50)), ((101, 64), (101, 64)),
                                          ((7, 1), (7, 1)), ((30, 41), (75, 41))])
def test_pad_for_and_crop_logits_meet(geometry, size, canvas):
    image = numbered(2, *size)
    padded = pad_for(geometry, image, *canvas)
    logits_sides = [side - geometry.margin for side in padded.shape[1:]]
    assert logits_sides == [geometry.output_side(side) for side in canvas]
    half = geometry.margin // 2
    logits = padded[:, half:padded.shape[1] - half, half:padded.shape[2] - half]
    cropped = crop_logits(logits, *canvas)
    assert (cropped == mirror_pad(image, 0, canvas[0] - size[0], 0, canvas[1] - size[1])).all()


# -------------------------------------------------------------------------------------- exact tiles
@pytest.mark.parametrize("geometry", VALID)
def test_exact_spans(geometry):
    smallest = {0: 20, 15: 52}[geometry.edge]
    for total in range(20, 700, 16):
        for tile in (1, 16, 20, 21, 36, 37, 52, 100, 260, 699):
            length = geometry.output_side(tile)
            if length < min(smallest, total):
                with pytest.raises(DataError,
                                   match=f"^--tile {tile}: .* {smallest} is the smallest$"):
                    exact_spans(total, tile, geometry)
                continue
            spans = exact_spans(total, tile, geometry)
            kept = [pixel for span in spans for pixel in range(total)[span.keep]]
            assert kept == list(range(total))
            assert len(spans) == 1 if length >= total else len(spans) > 1
            for span in spans:
                assert span.start % 16 == 0 and span.length == min(length, total)
                assert span.keep.start < span.keep.stop
                first = span.start + geometry.edge if span.start else 0
                last = span.start + span.length
                last -= geometry.edge if last < total else 0
                assert first <= span.keep.start and span.keep.stop <= last <= total


@pytest.mark.parametrize("geometry", VALID)
@pytest.mark.parametrize("size, tiles", [((150, 233), (52, 100, 180, 1000)), ((31, 90), (52,)),
                                         ((5, 148), (60,))])
def test_exact_tiles_equal_the_whole_image(geometry, size, tiles):
    image, net = noise(2, *size), valid_net(geometry.edge)
    whole = overlap_tile(image, net, geometry)
    assert whole.shape == (2, *size) and whole.dtype == np.float32
    assert (overlap_tile(image, centre, geometry) == image).all()
    for tile in tiles:
        tiled = overlap_tile(image, net, geometry, Tiles(tile))
        assert tiled.shape == whole.shape and tiled.dtype == np.float32 and (tiled == whole).all()
        assert (overlap_tile(image, centre, geometry, Tiles(tile)) == image).all()


def test_the_stand_in_notices_shifted_tiles():
    """Tiles that started elsewhere, or kept their edges, would not have passed the test above."""
    image, net = noise(1, 1, 300, 300), valid_net(15)
    whole = net(image[..., :284, :284])
    assert (net(image[..., 16:284, 16:284])[..., 15:-15, 15:-15]
            == whole[..., 31:-15, 31:-15]).all()
    assert (net(image[..., 16:284, 16:284])[:, 1] != whole[:, 1, 16:, 16:]).any()
    assert (net(image[..., 8:292, 8:292])[:, 0, :-8, :-8] != whole[:, 0, 8:, 8:]).mean() > 0.9


@pytest.mark.parametrize("geometry", [UNET_BILINEAR, UNET_ALIGNED])
def test_every_tile_sees_real_pixels(geometry):
    """A tile's input is mirrored at the image's edge and nowhere else."""
    height, width = 130, 210
    seen = []

    def watching(inputs):
        seen.append(inputs[0, 0].astype(int))
        return centre(inputs)
    overlap_tile(numbered(1, height, width), watching, geometry, Tiles(68))
    assert len(seen) > 6 and {view.shape for view in seen} == {(68 + 184, 68 + 184)}
    for view in seen:
        rows, columns = view[:, 0] // width, view[0] % width
        assert (view == rows[:, None] * width + columns).all()
        assert set(rows[1:-1][rows[:-2] == rows[2:]]) <= {0, height - 1}
        assert set(columns[1:-1][columns[:-2] == columns[2:]]) <= {0, width - 1}


# ------------------------------------------------------------------------------------ blended tiles
def test_blended_starts():
    for length in (1, 2, 3, 32, 64, 65, 96):
        for total in range(1, 400):
            starts = np.array(blended_starts(total, length))
            assert starts[0] == 0 and starts[-1] == max(0, total - length)
            assert (np.diff(starts) <= max(1, length / 2)).all() and (np.diff(starts) > 0).all()


def test_gaussian_window():
    window = gaussian_window(64)
    assert window.dtype == np.float32 and (window == window[::-1]).all()
    assert (np.diff(window[:32]) >= 0).all()
    assert window[40] / window[32] == pytest.approx(np.exp(-0.5 * (8.5 ** 2 - 0.5 ** 2) / 8 ** 2))
    assert window.min() >= 1e-3


@pytest.mark.parametrize("geometry", [UNET_PADDED, U2NET])
@pytest.mark.parametrize("size", [(150, 233), (40, 130), (64, 64), (5, 97), (128, 65)])
def test_blended_tiles_of_a_pointwise_function(geometry, size):
    image = noise(2, *size)
    seen = []

    def pointwise(inputs):
        seen.append(inputs.shape)
        return np.stack([inputs[:, 0] + 3 * inputs[:, 1], inputs[:, 1] ** 2, -inputs[:, 0]], axis=1)
    for tile in ("full", 64, 90):
        logits = overlap_tile(image, pointwise, geometry, tiling(str(tile)))
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, pointwise(image[None])[0], rtol=1e-5)
        side = geometry.output_side(tile) if tile != "full" else 10 ** 6
        expected = tuple(min(side, geometry.output_side(length)) for length in size)
        assert {shape[2:] for shape in seen[:-1]} == {expected}
        seen.clear()


def test_blended_tiles_trust_their_middle():
    """The net says 0 in a tile's middle and 1 at its edges: 1 is left only at the image's edges."""
    def edges(inputs):
        answer = np.ones_like(inputs)
        answer[..., 20:-20, 20:-20] = 0
        return answer
    logits = overlap_tile(noise(1, 256, 256), edges, U2NET, Tiles(128))[0]
    assert (logits[:20] == 1).all() and logits[21:-21, 21:-21].max() < 0.1


@pytest.mark.parametrize("size", [(150, 233), (40, 130), (5, 97)])
def test_blended_tiles_of_a_valid_net(size):
    """A U-Net with `align_corners`: each tile is given the 92 px around its output."""
    image = noise(1, *size)
    np.testing.assert_allclose(overlap_tile(image, centre, UNET_ALIGNED, Tiles(68)), image,
                               rtol=1e-5)


# ----------------------------------------------------------------------------- parts, rows, batches
class Rows:
    """An image that is read by rows; it remembers how many rows each read asked for."""

    def __init__(self, image):
        self.image, self.shape, self.asked = image, image.shape, []

    def __getitem__(self, place):
        planes, rows = place
        assert planes == slice(None) and 0 <= rows.start < rows.stop <= self.shape[1]
        self.asked.append(rows.stop - rows.start)
        return self.image[:, rows]


@pytest.mark.parametrize("geometry, tile", [
    (UNET_BILINEAR, 52), (UNET_TRANSPOSED, 36), (UNET_ALIGNED, 52), (U2NET, 64),
    (UNET_BILINEAR, "full"), (U2NET, "full")])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [(700, 133), (90, 300)])
def test_parts_of_a_source(geometry, tile, batch, size):
    image, half = noise(2, *size), geometry.margin // 2
    sizes = []

    def forward(inputs):
        sizes.append(len(inputs))
        return 2 * inputs[..., half:inputs.shape[2] - half, half:inputs.shape[3] - half]
    source, found = Rows(image), np.full((2, *size), np.nan, np.float32)
    done = 0
    right = 0
    for top, left, part in tiling(str(tile)).parts(source, forward, geometry, batch):
        bottom = top + part.shape[1]
        assert np.isnan(found[:, top:bottom, left:left + part.shape[2]]).all(), "each logit once"
        assert left == right and top == done, "in reading order, row by row"
        found[:, top:bottom, left:left + part.shape[2]] = part
        right = (left + part.shape[2]) % size[1]
        done = bottom if right == 0 else done
    np.testing.assert_allclose(found, 2 * image, rtol=1e-5)
    assert max(sizes) == (batch if tile != "full" else 1)
    if tile != "full" and size[0] == 700:
        assert max(source.asked) <= geometry.output_side(tile) + geometry.margin < 700


@pytest.mark.parametrize("geometry", VALID)
def test_batches_change_nothing(geometry):
    image, net = noise(1, 150, 233), valid_net(geometry.edge)
    parts = [list(Tiles(52).parts(image, net, geometry, batch)) for batch in (1, 4, 100)]
    for one, four, all_of_a_row in zip(*parts):
        assert one[:2] == four[:2] == all_of_a_row[:2]
        assert np.array_equal(one[2], four[2]) and np.array_equal(one[2], all_of_a_row[2])


# ------------------------------------------------------------------------- the reference's protocol
CORNERS = [(0, 0), (0, 256), (256, 0), (256, 256)]


def stitch_slowly(logits):
    """Each logit goes to its pixel of the image: the mean where several meet, none outside it."""
    total, count = np.zeros((logits.shape[1], 512, 512)), np.zeros((512, 512))
    for block, (top, left) in zip(logits, CORNERS):
        for row in range(260):
            for column in range(260):
                y, x = top + row - 2, left + column - 2
                if 0 <= y < 512 and 0 <= x < 512:
                    total[:, y, x] += block[:, row, column]
                    count[y, x] += 1
    return total / count


@pytest.mark.parametrize("geometry", [UNET_BILINEAR, U2NET])
def test_reference_protocol(geometry):
    image = np.random.default_rng(0).normal(size=(1, 512, 512)).astype(np.float32)
    blocks = reference_blocks(image, geometry)
    side = geometry.reference_input
    assert blocks.shape == (4, 1, side, side)
    inside = bounced(256, range(-(side - 256) // 2, (side + 256) // 2))
    for block, (top, left) in zip(blocks, CORNERS):
        assert (block == image[:, top + inside[:, None], left + inside]).all()
    cut = (side - 260) // 2

    def forward(inputs):
        return inputs[..., cut:side - cut, cut:side - cut]
    expected = stitch_slowly(forward(blocks))
    np.testing.assert_allclose(overlap_tile(image, forward, geometry, Reference()), expected,
                               atol=1e-6)


def test_stitch_reference_of_two_images():
    logits = np.random.default_rng(1).normal(size=(8, 2, 260, 260)).astype(np.float32)
    stitched = stitch_reference(logits, np.concatenate)
    assert stitched.shape == (2, 2, 512, 512)
    for image, blocks in zip(stitched, (logits[:4], logits[4:])):
        np.testing.assert_allclose(image, stitch_slowly(blocks), atol=1e-6)


@pytest.mark.parametrize("size", [(512, 511), (256, 256), (513, 512)])
def test_reference_protocol_takes_one_size(size):
    with pytest.raises(DataError, match=f"not for {size[0]} x {size[1]}; use --tile full"):
        overlap_tile(noise(1, *size), centre, UNET_BILINEAR, Reference())


# -------------------------------------------------------------------------------------- the command
@pytest.fixture
def image_file(tmp_path):
    Image.fromarray(noise(40, 60).astype(np.uint8)).save(tmp_path / "cell.png")
    return tmp_path / "cell.png"


def start(*flags, **options):
    return subprocess.run([sys.executable, MirrorPadding.__file__, *map(str, flags)],
                          capture_output=True, text=True, timeout=60, **options)


def test_command_writes_a_picture(tmp_path, image_file):
    done = start("--image", image_file, "--output", "after.png", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("after.png: cell.png")
    with Image.open(tmp_path / "after.png") as picture:
        picture.load()
        assert min(picture.size) > 500
        assert (np.asarray(picture.convert("RGB")) == (255, 212, 0)).all(axis=2).any()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["after.png", "cell.png"]


def test_command_names_its_picture_and_takes_a_colour_image(tmp_path, monkeypatch):
    Image.fromarray(noise(30, 20, 3).astype(np.uint8)).save(tmp_path / "colour.bmp")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv",
                        ["MirrorPadding.py", "--image", "colour.bmp", "--pad_size", "5"])
    assert run(MirrorPadding.main) == 0
    assert Path("colour_mirrored.png").stat().st_size > 1000


def test_command_takes_pages_as_channels_where_it_is_told_to(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise(4, 20, 30).astype(np.uint8),
                     photometric="minisblack", metadata=None)
    flags = ("--image", tmp_path / "a.tif", "--output", tmp_path / "a.png")
    done = start(*flags)
    assert done.returncode == 1 and "if they are channels: --n_channels 4" in done.stderr
    done = start(*flags, "--n_channels", 4)
    assert done.returncode == 0 and (tmp_path / "a.png").stat().st_size > 1000, done.stderr


def test_mistake_as_a_process(tmp_path):
    done = start("--image", tmp_path / "nowhere.png")
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr == f"MirrorPadding.py: error: {tmp_path / 'nowhere.png'}: no such file\n"


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (7, 1, 3)])
def test_pictures_of_thin_images(tmp_path, shape):
    for pad in (0, 184):
        draw_padding(np.full(shape, 9, np.uint8), Geometry(pad, 1, 0, 1, None, 0),
                     tmp_path / "thin.png")
        with Image.open(tmp_path / "thin.png") as picture:
            assert picture.width > 500


@pytest.mark.parametrize("flags, code", [
    (["--output", "cell.png/a.png"], 1), (["--output", "a.xyz"], 2), (["--output", "."], 2),
    (["--pad_size", "-1"], 2), (["--pad_size", "1e3"], 2), (["--pad_size", "9" * 12], 2),
    (["--imag", "a.png"], 2)])
def test_mistakes(tmp_path, image_file, monkeypatch, capsys, flags, code):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["MirrorPadding.py", "--image", str(image_file), *flags])
    try:
        found = run(MirrorPadding.main)
    except SystemExit as stopped:
        found = stopped.code
    captured = capsys.readouterr()
    assert found == code and captured.err.count("\n") == 1 and captured.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["cell.png"]
