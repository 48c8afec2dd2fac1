"""Loading windows gives the bits of loading whole images: of every kind, in every place."""
import numpy as np
import pytest

import DataLoader
from DataLoader import SegmentationSet, TrainingLoader
from datasets.decoded import DecodedFiles, decoding_tasks
from datasets.labels import IGNORED
from datasets.objects import BORDER, training_target
from datasets.survey import Survey, statistics_of
from images.formats import write_png
from images.values import normalise
from images.windows import Windows, open_array, window_of
from MirrorPadding import crop_input, mirror_pad, pad_for, tiling
from nets.geometry import U2NET, UNET_BILINEAR, UNET_PADDED
from Transforms import Crop, augmentation
from WeightMap import WeightMaps, compute_weight_map

HEIGHT, WIDTH, SIDE = 150, 210, 32
CORNERS = [(0, 0), (0, WIDTH - SIDE), (HEIGHT - SIDE, 0), (HEIGHT - SIDE, WIDTH - SIDE), (41, 77)]


def make_pair(folder, channels=3, dtype=np.uint8):
    rng = np.random.default_rng(channels)
    shape = (HEIGHT, WIDTH) if channels == 1 else (HEIGHT, WIDTH, channels)
    image = rng.integers(0, np.iinfo(dtype).max, shape, dtype)
    label = np.kron(rng.integers(0, 4, (15, 21)), np.ones((10, 10))).astype(np.uint8)
    for name, pixels in (("image.png", image), ("label.png", label)):
        write_png(folder / name, pixels)
    return [(folder / "image.png", folder / "label.png")]


def make_loader(folder, channels, geometry, augment, kind, with_maps, dtype=np.uint8):
    """A TrainingLoader of one image that is kept decoded; None among its labels' values is 3."""
    pairs, survey = make_pair(folder, channels, dtype), Survey(folder)
    decoded = DecodedFiles(folder / "decoded", 1)
    decoded.keep(decoding_tasks(survey, pairs, channels))
    statistics = statistics_of(survey, [pairs[0][0]], channels)
    dataset = SegmentationSet(pairs, channels, 2 if kind == "objects" else 3, statistics, 3, kind,
                              decoded)
    assert isinstance(decoded.open(pairs[0][0]).base, np.memmap)
    maps = WeightMaps(folder / "maps", 10, 3) if with_maps else None
    return TrainingLoader(dataset, geometry, tiling(str(SIDE)), 1, 5, maps, augmentation(augment))


# -------------------------------------------------------------------------- what the loader gives
def batches(loader, monkeypatch):
    """Yield (place, epoch, Batch) of crops at the corners, and of two where they are drawn."""
    for place in (*CORNERS, None):
        with monkeypatch.context() as patch:
            if place is not None:
                patch.setattr(TrainingLoader, "_draw_crop",
                              lambda self, rng, *size: Crop(*place, SIDE, SIDE))
            for epoch in range(1 if place else 2):
                batch, = loader.epoch(epoch)
                yield place, epoch, batch


def draw_place(place, rng):
    if place is None:
        place = (int(rng.integers(0, HEIGHT - SIDE + 1)), int(rng.integers(0, WIDTH - SIDE + 1)))
    return Crop(*place, SIDE, SIDE)


def same(found, expected):
    return all(one.dtype == other.dtype and np.array_equal(one, other)
               for one, other in zip(found, expected))


def expected_batch(loader, place, epoch):
    """The Batch of the one image, from whole arrays: all of it is decoded, weighed and warped."""
    dataset, rng = loader.dataset, np.random.default_rng([5, epoch, 0])
    planes, target = dataset.pixels(0), dataset.target(0)
    crop, numbered = draw_place(place, rng), dataset.are_objects
    weight = (target != IGNORED).astype(np.float32)
    if loader.maps is not None:
        weight = compute_weight_map(target, 10, 3, numbered)
    image, label, corner = planes, np.minimum(target, 1) if numbered else target, crop[:2]
    if loader.augment is None:
        label, weight = label[crop.pixels], weight[crop.pixels]
    else:
        image, label, weight = loader.augment(planes, label, weight, rng, crop, loader._around)
        corner = tuple(loader._around(length)[0] for length in label.shape)
    inputs = crop_input(loader.geometry, normalise(image, dataset.statistics), *corner, SIDE, SIDE)
    scale = SIDE * SIDE / max(1, np.count_nonzero(label != IGNORED))
    return DataLoader.Batch(inputs[None], label[None], (weight * np.float32(scale))[None])


@pytest.mark.parametrize("geometry", [UNET_BILINEAR, UNET_PADDED, U2NET],
                         ids=["valid", "padded", "U2net"])
@pytest.mark.parametrize("augment", ["none", "paper", "light", "full"])
@pytest.mark.parametrize("with_maps", [False, True], ids=["no maps", "maps"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_window_is_what_the_whole_image_gives(tmp_path, monkeypatch, geometry, augment,
                                                with_maps, channels):
    loader = make_loader(tmp_path, channels, geometry, augment, "classes", with_maps)
    for place, epoch, batch in batches(loader, monkeypatch):
        assert same(batch, expected_batch(loader, place, epoch))


@pytest.mark.parametrize("with_maps", [False, True], ids=["no maps", "maps"])
def test_objects_keep_their_border_at_a_windows_edge(tmp_path, monkeypatch, with_maps):
    loader = make_loader(tmp_path, 3, UNET_BILINEAR, "none", "objects", with_maps)
    for place, epoch, batch in batches(loader, monkeypatch):
        assert same(batch, expected_batch(loader, place, epoch))


@pytest.mark.parametrize("augment", ["paper", "full"])
@pytest.mark.parametrize("with_maps", [False, True], ids=["no maps", "maps"])
def test_warped_objects_are_those_of_whole_arrays(tmp_path, monkeypatch, augment, with_maps):
    loader = make_loader(tmp_path, 1, UNET_BILINEAR, augment, "objects", with_maps)
    found = list(batches(loader, monkeypatch))
    loader.dataset.decoded = None
    loader.lights.clear()
    for name in ("image_windows", "label_windows"):
        windows = getattr(SegmentationSet, name)
        monkeypatch.setattr(SegmentationSet, name, lambda self, index, windows=windows: window_of(
            windows(self, index), np.arange(HEIGHT), np.arange(WIDTH)))
    for (*_, one), (*_, other) in zip(found, batches(loader, monkeypatch)):
        assert same(one, other)


def test_a_small_image_in_a_batch_of_crops_is_mirrored_as_before(tmp_path):
    """An image that is narrower than the crop, beside one that is not, valid convolutions."""
    pairs = make_pair(tmp_path)
    narrow = np.random.default_rng(3).integers(0, 256, (90, 20, 3), np.uint8)
    write_png(tmp_path / "narrow.png", narrow)
    write_png(tmp_path / "narrow_label.png", narrow[..., 0] % 3)
    pairs.append((tmp_path / "narrow.png", tmp_path / "narrow_label.png"))
    decoded, survey = DecodedFiles(tmp_path / "decoded", 1), Survey(tmp_path)
    decoded.keep(decoding_tasks(survey, pairs, 3))
    dataset = SegmentationSet(pairs, 3, 4, statistics_of(survey, [pairs[0][0]], 3), decoded=decoded)
    loader = TrainingLoader(dataset, UNET_BILINEAR, tiling(str(SIDE)), 2)
    batch = loader.batch([0, 1], 0)
    assert batch.labels.shape == (2, SIDE, SIDE) and not batch.weights[1, :, 20:].any()
    (top, left), image = loader.sample(1, 0).corner, dataset.image(1)
    assert left == 0
    padded = mirror_pad(image, 100, 100, 100, 300)
    geometry, side = UNET_BILINEAR, batch.inputs.shape[2]
    before = geometry.before(SIDE)
    assert np.array_equal(batch.inputs[1], padded[:, 100 + top - before:][:, :side,
                                                  100 - before:100 - before + side])


def test_whole_images_are_as_before(tmp_path):
    loader = make_loader(tmp_path, 3, UNET_BILINEAR, "none", "classes", False)
    loader.tile = tiling("full")
    batch, = loader.epoch(0)
    expected = pad_for(UNET_BILINEAR, loader.dataset.image(0), HEIGHT, WIDTH)
    assert np.array_equal(batch.inputs[0], expected)
    assert np.array_equal(batch.labels[0], loader.dataset.label(0))


def test_ranks_share_the_crops_of_a_large_image(tmp_path, monkeypatch):
    """Their parts of each batch, its canvas among them, are those of one process."""
    loader = make_loader(tmp_path, 3, UNET_PADDED, "full", "classes", True)
    loader.draws = [DataLoader.Draw(0, number) for number in range(10)]
    loader.batch_size, loader.tile = 4, tiling("160")  # 150 x 160 px: some crops are turned
    whole = list(loader.epoch(1))
    assert [len(batch.labels) for batch in whole] == [4, 4, 2]
    monkeypatch.setattr(DataLoader.ranks, "size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(DataLoader.ranks, "rank", lambda rank=rank: rank)
        for batch, part in zip(whole, loader.epoch(1)):
            assert np.array_equal(part.labels, batch.labels[rank::2])
            assert np.array_equal(part.inputs, batch.inputs[rank::2])
            np.testing.assert_allclose(part.weights, batch.weights[rank::2], rtol=1e-6)


def test_the_lights_of_a_whole_image_are_found_once(tmp_path, monkeypatch):
    loader = make_loader(tmp_path, 3, UNET_PADDED, "light", "classes", False)
    found, look = [], type(loader.augment).look_at
    monkeypatch.setattr(type(loader.augment), "look_at",
                        lambda self, image: found.append(look(self, image)) or found[-1])
    for epoch in range(3):
        list(loader.epoch(epoch))
    assert len(found) == 1 and found[0] == look(loader.augment, loader.dataset.pixels(0))


# ---------------------------------------------------------------------------------------- windows
@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3), (1, 9), (7, 1, 2)])
def test_windows_are_parts_of_the_whole(tmp_path, shape):
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 256, shape, np.uint8)
    np.save(tmp_path / "a.npy", stored)
    channels = shape[2] if len(shape) == 3 else None

    def planes(part):
        return np.moveaxis(part, 2, 0) * 0.5 if channels else part * 0.5
    windows, whole = Windows(open_array(tmp_path / "a.npy"), planes, channels), planes(stored)
    assert windows.shape == whole.shape
    for rows, columns in (([0], [0]), (range(shape[0]), range(shape[1])),
                          (rng.integers(0, shape[0], 60), rng.integers(0, shape[1], 70))):
        expected = whole[..., np.array(rows), :][..., np.array(columns)]
        for values in (windows, whole):
            assert np.array_equal(window_of(values, np.array(rows), np.array(columns)), expected)
    if channels:
        assert np.array_equal(windows[:, 1:5], whole[:, 1:5])
        assert np.array_equal(windows[:, ::3, ::2], whole[:, ::3, ::2])
        assert np.array_equal(windows.then(lambda part: part + 1)[:, :4], whole[:, :4] + 1)


def test_no_more_is_read_than_a_window(tmp_path):
    asked = []
    stored = np.zeros((1000, 2000, 3), np.uint8)
    windows = Windows(stored, lambda part: asked.append(part.shape) or np.moveaxis(part, 2, 0), 3)
    crop_input(UNET_PADDED, windows, 500, 700, 64, 64)
    assert asked == [(64, 64, 3)]


@pytest.mark.parametrize("content", [None, b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_what_is_no_array_in_a_file(tmp_path, content):
    if content is not None:
        (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises((OSError, ValueError)):
        open_array(tmp_path / "a.npy")


def test_the_border_of_a_part_is_that_of_the_whole(tmp_path):
    loader = make_loader(tmp_path, 1, UNET_PADDED, "none", "objects", False)
    dataset = loader.dataset
    label, whole = dataset.label_windows(0), training_target(dataset.objects(0))
    assert BORDER == 1 and (whole != dataset.objects(0)).any()
    for top in range(0, HEIGHT - 20, 13):
        rows, columns = slice(top, top + 20), slice(top // 2, top // 2 + 30)
        assert np.array_equal(dataset.target_part(label, rows, columns), whole[rows, columns])
