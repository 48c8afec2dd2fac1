"""DataLoader.py and the files that it reads: pixels, splits, maps, batches, threads that end."""
import os
import threading
import time

import numpy as np
import pytest
from PIL import Image

from command.errors import DataError
from DataLoader import SegmentationSet, TrainingLoader
from datasets.labels import load_label
from datasets.pairs import check_sizes
from datasets.splits import hold_back
from datasets.survey import Survey, statistics_of
from images.formats import write_png
from images.values import Statistics, load_image
from MirrorPadding import Reference, Whole, crop_input, crop_logits, mirror_pad, pad_for, tiling
from nets.geometry import U2NET, UNET_BILINEAR
from nets.quadrants import reference_blocks
from WeightMap import WeightMaps, compute_weight_map

NEUTRAL = Statistics((0.0,), (1.0,))


# ------------------------------------------------------------------------------------------ helpers
def noise(shape, seed=0, high=256, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def make_pairs(folder, sizes, values=2):
    """A pair of noise per size, `<k>.png` in imgs and labels; the first pixels of image k say k."""
    pairs = []
    for name in ("imgs", "labels"):
        (folder / name).mkdir()
    for k, size in enumerate(sizes):
        image, label = noise(size, k), noise(size, 100 + k, values)
        image[0] = k
        pairs.append((folder / "imgs" / f"{k}.png", folder / "labels" / f"{k}.png"))
        write_png(pairs[-1][0], image)
        write_png(pairs[-1][1], label)
    return pairs


def make_loader(folder, sizes, geometry=U2NET, **options):
    dataset = SegmentationSet(make_pairs(folder, sizes), 1, 2, NEUTRAL)
    options["tile"] = tiling(str(options.get("tile", "full")))
    return TrainingLoader(dataset, geometry, maps=WeightMaps(folder / "weight_maps"), **options)


def own_pixels(loader, batch):
    """The input pixels below the net's logits: (N, 1, H, W), values 0 ... 255."""
    half = loader.geometry.margin // 2
    height, width = batch.inputs.shape[2:]
    inner = batch.inputs[:, :, half:height - half, half:width - half]
    return np.rint(crop_logits(inner, *batch.labels.shape[1:]) * 255).astype(int)


def order_of(loader, epoch):
    return [image[0, 0, 0] for batch in loader.epoch(epoch) for image in own_pixels(loader, batch)]


# ---------------------------------------------------------------------------------------- one image
@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_load_image_grey_and_colour(tmp_path, suffix):
    grey, colour = noise((5, 7)), noise((5, 7, 3))
    Image.fromarray(grey).save(tmp_path / f"grey.{suffix}")
    Image.fromarray(colour).save(tmp_path / f"colour.{suffix}")
    one, three = (load_image(tmp_path / f"grey.{suffix}", 1),
                  load_image(tmp_path / f"grey.{suffix}", 3))
    assert one.dtype == three.dtype == np.float32 and three.flags.c_contiguous
    np.testing.assert_allclose(one, grey[None] / 255, atol=1e-7)
    np.testing.assert_allclose(three, np.stack([grey] * 3) / 255, atol=1e-7)
    np.testing.assert_allclose(load_image(tmp_path / f"colour.{suffix}", 3),
                               colour.transpose(2, 0, 1) / 255, atol=1e-7)
    luma = colour @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(load_image(tmp_path / f"colour.{suffix}", 1)[0] * 255, luma, atol=1)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_load_image_of_16_bits(tmp_path, suffix):
    deep = noise((5, 7), high=2 ** 16, dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / f"deep.{suffix}")
    for channels in (1, 3):
        loaded = load_image(tmp_path / f"deep.{suffix}", channels)
        np.testing.assert_allclose(loaded, np.stack([deep] * channels) / 65535, atol=1e-7)


def test_load_image_of_other_kinds(tmp_path):
    palette = Image.fromarray(noise((4, 6), high=2))
    palette.putpalette([255, 0, 0, 0, 0, 51])
    palette.save(tmp_path / "palette.png")
    red = np.asarray(palette) == 0
    np.testing.assert_allclose(load_image(tmp_path / "palette.png", 3),
                               [red, 0 * red, 0.2 * ~red], atol=1e-7)
    Image.fromarray(red).save(tmp_path / "bits.png")
    assert (load_image(tmp_path / "bits.png", 1)[0] == red).all()
    smooth = np.add.outer(np.arange(0, 160, 2), np.arange(0, 90, 1)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "lossy.jpg", quality=95)
    np.testing.assert_allclose(load_image(tmp_path / "lossy.jpg", 1)[0] * 255, smooth, atol=6)


# ---------------------------------------------------------------------------------------- one label
def test_load_label(tmp_path):
    for values, dtype in (((0, 255), np.uint8), ((0, 1), np.uint8), ((0, 3, 40000), np.uint16)):
        stored = np.array(values, dtype)[noise((6, 5), high=len(values))]
        write_png(tmp_path / "a.png", stored)
        label = load_label(tmp_path / "a.png", 2)
        assert label.dtype == np.int32 and (label == (stored > 0)).all()
    stored = noise((6, 5), high=4)
    write_png(tmp_path / "a.png", stored)
    assert (load_label(tmp_path / "a.png", 4) == stored).all()
    assert load_label(tmp_path / "a.png", 4).dtype == np.int32
    with pytest.raises(DataError,
                       match=r"a\.png: has the value 3, but --n_classes 3 allows 0 \.\.\. 2"):
        load_label(tmp_path / "a.png", 3)
    colour = np.stack([stored, stored, stored], axis=2)
    write_png(tmp_path / "rgb.png", colour)
    assert (load_label(tmp_path / "rgb.png", 4) == stored).all()
    write_png(tmp_path / "rgb.png", colour * np.array([1, 1, 2], np.uint8))
    with pytest.raises(DataError, match="rgb.png: a label in colour"):
        load_label(tmp_path / "rgb.png", 4)


@pytest.mark.parametrize("largest", [255, 100])
def test_a_jpeg_label_is_cut_at_half(tmp_path, largest, capsys):
    square = np.zeros((48, 48), np.uint8)
    square[13:30, 9:33] = 1
    path = tmp_path / "a.JPG"
    Image.fromarray(square * largest).save(path, quality=80)
    with Image.open(path) as file:
        assert ((np.asarray(file) > 0) != square).any(), "the edges are blurred"
    assert (load_label(path, 2) == square).all() and (load_label(path, 2) == square).all()
    assert capsys.readouterr().err.count("a lossy label") == 1, "said once"
    with pytest.raises(DataError, match="JPEG changes class numbers"):
        load_label(path, 3)


def test_check_sizes(tmp_path):
    pairs = make_pairs(tmp_path, [(512, 512), (20, 30)])
    check_sizes(pairs)
    Reference().check_size(pairs[0][0], 512, 512)
    with pytest.raises(DataError, match=r"imgs/1\.png: 20 x 30 px, but --tile reference "
                                        "is made for 512 x 512 px"):
        Reference().check_size(pairs[1][0], 20, 30)
    write_png(pairs[1][1], noise((30, 20)))
    with pytest.raises(DataError, match=r"labels/1\.png: 30 x 20 px .*, but its image .*"
                                        r"imgs/1\.png has 20 x 30 px"):
        check_sizes(pairs)


# -------------------------------------------------------------------------------------------- a set
def test_segmentation_set_normalises(tmp_path):
    pairs = make_pairs(tmp_path, [(8, 9), (10, 7)], values=3)
    data = SegmentationSet(pairs, 3, 3, Statistics((0.1, 0.2, 0.3), (1.0, 2.0, 4.0)))
    expected = ((load_image(pairs[1][0], 3) - np.reshape([0.1, 0.2, 0.3], (3, 1, 1)))
                / np.reshape([1, 2, 4], (3, 1, 1)))
    np.testing.assert_allclose(data.image(1), expected, rtol=1e-5, atol=1e-6)
    assert len(data) == 2 and data.name(1) == "1" and data.image(1).dtype == np.float32
    assert (data.label(1) == noise((10, 7), 101, 3)).all()
    pairs = [(image, image) for image, _ in pairs]
    kept = SegmentationSet(pairs, 3, 2, statistics_of(Survey(), [image for image, _ in pairs], 3))
    pixels = np.concatenate([kept.image(k).reshape(3, -1) for k in range(2)], axis=1)
    np.testing.assert_allclose([pixels.mean(axis=1), pixels.std(axis=1)],
                               [[0] * 3, [1] * 3], atol=1e-5)


# ------------------------------------------------------------------------------------------- epochs
@pytest.mark.parametrize("batch_size", [1, 2, 3, 20])
def test_every_sample_once_an_epoch_in_seeded_order(tmp_path, batch_size):
    loader = make_loader(tmp_path, [(8, 8)] * 7, batch_size=batch_size)
    orders = [order_of(loader, epoch) for epoch in (0, 1, 2, 0)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert orders[0] == orders[3] and len(set(map(tuple, orders))) == 3
    assert len(loader) == len(list(loader.epoch(5))) == -(-7 // batch_size)
    loader.seed = 1
    assert order_of(loader, 0) != orders[0]


@pytest.mark.parametrize("tile", ["full", 24])
def test_any_number_of_workers_gives_the_same_batches(tmp_path, tile):
    loader = make_loader(tmp_path, [(30 + k, 50 - 3 * k) for k in range(6)],
                         batch_size=2, tile=tile)
    loader.prepare(Survey(tmp_path))
    assert len(list((tmp_path / "weight_maps").glob("*.npy"))) == 6
    epochs = []
    for loader.workers in (1, 2, 7):
        epochs.append(list(loader.epoch(3)))
    for batches in zip(*epochs):
        for arrays in zip(*batches):
            assert all((array == arrays[0]).all() for array in arrays)


@pytest.mark.parametrize("geometry", [UNET_BILINEAR, U2NET])
def test_images_of_different_sizes_share_a_batch(tmp_path, geometry):
    sizes = [(40, 30), (25, 61), (33, 8)]
    loader = make_loader(tmp_path, sizes, geometry, batch_size=3)
    batch = loader.batch([2, 0, 1], 0)
    height, width = 40, 61
    assert [array.dtype for array in batch] == [np.float32, np.int32, np.float32]
    assert batch.labels.shape == batch.weights.shape == (3, height, width)
    assert batch.inputs.shape[:2] == (3, 1)
    losses = np.random.default_rng(0).random((3, height, width))
    for k, index in enumerate([2, 0, 1]):
        (h, w), image, label = (sizes[index], loader.dataset.image(index),
                                loader.dataset.label(index))
        assert (batch.inputs[k] == pad_for(geometry, image, height, width)).all()
        assert (own_pixels(loader, batch)[k, 0, :h, :w] == np.rint(image[0] * 255)).all()
        assert (batch.labels[k, :h, :w] == label).all()
        outside = np.ones((height, width), bool)
        outside[:h, :w] = False
        assert not batch.weights[k][outside].any() and not batch.labels[k][outside].any()
        alone = np.mean(compute_weight_map(label) * losses[k, :h, :w])
        assert np.mean(batch.weights[k] * losses[k]) == pytest.approx(alone), (
            "each image counts with its own mean")


def test_reference_tile(tmp_path):
    loader = make_loader(tmp_path, [(512, 512)] * 2, tile="reference", batch_size=2)
    batch = loader.batch([1, 0], 0)
    assert batch.inputs.shape == (8, 1, 260, 260) and batch.labels.shape == (2, 512, 512)
    for k, index in enumerate((1, 0)):
        assert (batch.inputs[4 * k:4 * k + 4]
                == reference_blocks(loader.dataset.image(index), U2NET)).all()
        assert (batch.labels[k] == loader.dataset.label(index)).all()


# -------------------------------------------------------------------------------------------- crops
@pytest.mark.parametrize("geometry", [UNET_BILINEAR, U2NET])
@pytest.mark.parametrize("size", [(150, 230), (300, 260), (20, 33), (1, 70)])
def test_crop_input_is_a_slice_of_the_endlessly_mirrored_image(geometry, size):
    image, far = np.random.default_rng(0).random((2, *size)), 400
    endless = mirror_pad(image, far, far, far, far)
    for height, width in ((min(size[0], 32), min(size[1], 37)), (90, 100)):
        bottom, right = max(0, size[0] - height), max(0, size[1] - width)
        for top, left in ((0, 0), (bottom, right), (0, right), (bottom // 2, right // 3),
                          (min(bottom, 1), right)):
            found = crop_input(geometry, image, top, left, height, width)
            outputs = geometry.output_side(height), geometry.output_side(width)
            assert found.shape == (2, outputs[0] + geometry.margin, outputs[1] + geometry.margin)
            half, (rows, columns) = geometry.margin // 2, outputs
            y, x = (far + top - half - (rows - height) // 2,
                    far + left - half - (columns - width) // 2)
            assert (found == endless[:, y:y + found.shape[1], x:x + found.shape[2]]).all()


@pytest.mark.parametrize("geometry", [UNET_BILINEAR, U2NET])
def test_a_crop_shows_one_place(tmp_path, geometry):
    """Image, label and weight map are cut at the same place, which the image's pixels tell."""
    sizes = [(60, 50), (45, 28), (90, 33)]
    loader = make_loader(tmp_path, sizes, geometry, tile=32, batch_size=3)
    places = set()
    for epoch in range(6):
        batch = loader.batch([0, 1, 2], epoch)
        assert batch.labels.shape == (3, 32, 32)
        for k, pixels in enumerate(own_pixels(loader, batch)[:, 0]):
            label, stored = loader.dataset.label(k), np.rint(loader.dataset.image(k)[0] * 255)
            h, w = min(32, sizes[k][0]), min(32, sizes[k][1])
            windows = np.lib.stride_tricks.sliding_window_view(stored, (h, w))
            (top, left), = np.argwhere((windows == pixels[:h, :w]).all(axis=(2, 3)))
            here = np.s_[top:top + h, left:left + w]
            assert (batch.labels[k, :h, :w] == label[here]).all()
            weights = compute_weight_map(label)[here] * (32 * 32 / (h * w))
            np.testing.assert_allclose(batch.weights[k, :h, :w], weights, rtol=1e-6)
            assert not batch.weights[k, :, w:].any()
            places.add((k, top, left))
    assert len(places) > 15, "other places in other epochs"


def test_a_map_is_made_once(tmp_path, monkeypatch):
    """And again where its label, its file or the settings have changed, for that label alone."""
    made = []
    monkeypatch.setattr(TrainingLoader, "weight_map", lambda self, index, label: made.append(index))
    loader = make_loader(tmp_path, [(18, 17), (20, 20)], tile=16)
    folder = loader.maps.folder
    folder.mkdir()
    for label in (label for _, label in loader.dataset.pairs):
        (folder / f"{label.stem}.npy").touch()

    def prepared():
        made.clear()
        loader.prepare(Survey(tmp_path))
        return made
    assert prepared() == [0, 1] and prepared() == []
    label = loader.dataset.pairs[1][1]
    for change, again in ((lambda: os.utime(label, ns=(0, 0)), [1]),
                          (lambda: setattr(loader, "maps", loader.maps.__class__(folder, 10, 4)),
                           [0, 1]),
                          (lambda: setattr(loader, "tile", Whole()), []),
                          (lambda: setattr(loader.dataset, "n_classes", 3), [0, 1]),
                          (lambda: (folder / f"{label.stem}.npy").unlink(), [1]),
                          (lambda: (tmp_path / "survey.json").write_text("{"), [0, 1])):
        change()
        assert prepared() == again
        (folder / f"{label.stem}.npy").touch()
        assert prepared() == []


def test_maps_that_were_made_are_remembered_when_the_rest_is_stopped(tmp_path, monkeypatch):
    loader = make_loader(tmp_path, [(18, 17), (20, 20), (9, 9)])
    (loader.maps.folder).mkdir()

    def stopped(self, index, label):
        if index == 2:
            raise KeyboardInterrupt
        (self.maps.folder / f"{index}.npy").touch()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainingLoader, "weight_map", stopped)
        loader.prepare(Survey(tmp_path))
    made = []
    monkeypatch.setattr(TrainingLoader, "weight_map", lambda self, index, label: made.append(index))
    loader.prepare(Survey(tmp_path))
    assert made == [2]


@pytest.mark.parametrize("pattern", [None, "^([a-c])"])
def test_whole_groups_are_held_back(tmp_path, pattern):
    from datasets.copies import Manifest
    for folder in ("imgs", "labels"):
        (tmp_path / folder).mkdir()
    pairs = []
    for name in ("a_1", "a_2", "b_1", "b_2", "c_1", "c-0_2"):
        pairs.append(tuple(tmp_path / folder / f"{name}.png" for folder in ("imgs", "labels")))
        for path in pairs[-1]:
            write_png(path, noise((4, 4)))
    manifest = Manifest(tmp_path / "imgs", tmp_path / "labels")
    for image, label in list(pairs):  # copies, as DataAugmentation.py writes them
        paths = [path.with_name(f"{path.stem}-0.png") for path in (image, label)]
        manifest.write_files(paths, [path.read_bytes() for path in (image, label)])
        pairs.append(tuple(paths))
    for path in paths:
        Image.open(path).save(path, compress_level=0)  # a copy that somebody has stored anew

    def key(pair):
        stem = pair[0].stem.removesuffix("-0")
        return stem if pattern is None else stem[0]
    seen = set()
    for seed in range(8):
        train, held = hold_back(pairs, 0.3, seed, pattern)
        assert hold_back(pairs, 0.3, seed, pattern) == (train, held)
        assert len(held) == 2 and not any(pair[0].stem.endswith("-0") for pair in held)
        assert not {key(pair) for pair in train} & {key(pair) for pair in held}, (
            "no group is on both sides, nor a copy")
        assert len(train) == len(pairs) - 2 * len(held)
        seen.add(tuple(held))
    assert len(seen) > 1, "the seed chooses"
    with pytest.raises(DataError,
                       match="only one group, nothing to hold back; leave --val_fraction out"):
        hold_back(pairs, 0.3, 0, "(_)")


def test_without_weight_maps_every_known_pixel_weighs_the_same(tmp_path):
    pairs = make_pairs(tmp_path, [(24, 30), (20, 20)], values=3)
    dataset = SegmentationSet(pairs, 1, 2, Statistics((0.5,), (0.2,)), ignore_label=2)
    loader = TrainingLoader(dataset, U2NET, batch_size=2)
    loader.prepare(Survey(tmp_path))
    batch = loader.batch([0, 1], 0)
    for k, label in enumerate(map(dataset.label, range(2))):
        weights = batch.weights[k][:label.shape[0], :label.shape[1]]
        np.testing.assert_allclose(weights, (label != -1) * 24 * 30 / np.sum(label != -1),
                                   rtol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["imgs", "labels"]


@pytest.mark.parametrize("tile", ["full", 16])
def test_the_loss_is_a_mean_over_the_pixels_that_count(tmp_path, tile):
    pairs = make_pairs(tmp_path, [(24, 30), (20, 20)], values=3)
    dataset = SegmentationSet(pairs, 1, 2, Statistics((0.5,), (0.2,)), ignore_label=2)
    loader = TrainingLoader(dataset, U2NET, tiling(str(tile)), batch_size=2,
                            maps=WeightMaps(tmp_path / "weights"))
    batch = loader.batch([0, 1], 0)
    losses = np.random.default_rng(1).random(batch.labels.shape).astype(np.float32)
    for k in range(2):
        known = batch.labels[k] != -1
        _, label, weight, _ = loader.sample(k, 0)
        inside = np.s_[:label.shape[0], :label.shape[1]]
        assert 0 < (label == -1).sum() and (known[inside] == (label != -1)).all()
        assert not batch.weights[k][~known].any()
        expected = (weight * losses[k][inside])[label != -1].mean()
        np.testing.assert_allclose((batch.weights[k] * losses[k]).mean(), expected, rtol=1e-5)


def test_crops_reach_every_place(tmp_path):
    loader = make_loader(tmp_path, [(18, 17)], tile=16)
    assert {loader.sample(0, epoch)[3] for epoch in range(60)} == {
        (y, x) for y in range(3) for x in range(2)}


@pytest.mark.parametrize("crops", [None, [1] * 5, [1, 1, 7, 1, 1]])
def test_an_image_with_one_crop_has_the_stream_of_its_index(tmp_path, crops):
    """Seed, epoch and index: runs from before large images gave several crops go on with them."""
    loader = make_loader(tmp_path, [(40, 50)] * 2 + [(90, 90)] + [(30, 30)] * 2, tile=16,
                         batch_size=3, seed=5, crops=crops)
    assert len(loader.draws) == (11 if crops and 7 in crops else 5)
    for epoch in (0, 3):
        places = {}
        for number, draw in enumerate(loader.draws):
            found = loader.sample(number, epoch).corner
            rng = np.random.default_rng([5, epoch, draw.index])
            image = loader.dataset.image(draw.index)
            first = tuple(int(rng.integers(0, length - 15)) for length in image.shape[1:])
            assert draw.number or found == first
            places.setdefault(draw.index, set()).add(found)
        assert all(len(found) == (crops or [1] * 5)[index] for index, found in places.items())


def test_several_crops_of_a_large_image_are_samples_of_their_own(tmp_path):
    loader = make_loader(tmp_path, [(20, 20), (90, 90), (20, 20)], tile=16, batch_size=4,
                         crops=[1, 6, 1])
    assert len(loader) == 2 and [loader.images(step) for step in range(2)] == [4, 4]
    orders = [order_of(loader, epoch) for epoch in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    epochs = [[batch.labels for batch in loader.epoch(epoch)] for epoch in (0, 0, 1)]
    assert np.array_equal(epochs[0], epochs[1]) and not np.array_equal(epochs[0], epochs[2])
    labels = [label.tobytes() for label in np.concatenate(epochs[0])]
    assert len(labels) == len(set(labels)) == 8
    resumed = [batch.labels for batch in loader.epoch(0, start=1)]
    assert np.array_equal(resumed, epochs[0][1:])


# ------------------------------------------------------------------------------------------ trouble
@pytest.mark.parametrize("workers", [1, 3])
def test_an_unreadable_file_is_raised_in_the_loop(tmp_path, workers):
    loader = make_loader(tmp_path, [(8, 8)] * 9, workers=workers)
    order = order_of(loader, 0)
    path = loader.dataset.pairs[order[4]][0]
    path.write_bytes(path.read_bytes()[:60])
    batches = loader.epoch(0)
    assert [own_pixels(loader, next(batches))[0, 0, 0, 0] for _ in range(4)] == order[:4]
    with pytest.raises(DataError, match=f"imgs/{order[4]}.png: not a readable image"):
        next(batches)


def test_a_label_of_another_size(tmp_path):
    loader = make_loader(tmp_path, [(8, 8)])
    write_png(loader.dataset.pairs[0][1], noise((8, 9)))
    with pytest.raises(DataError, match=r"labels/0\.png: .* but its image .* has"):
        list(loader.epoch(0))


def test_leaving_an_epoch_early_leaves_no_work_and_no_thread(tmp_path, monkeypatch):
    loader = make_loader(tmp_path, [(8, 8)] * 30, workers=3)
    read, load = [], SegmentationSet.image_windows
    monkeypatch.setattr(SegmentationSet, "image_windows",
                        lambda self, index: read.append(index) or load(self, index))
    before = set(threading.enumerate())
    batches = loader.epoch(0)
    for _ in range(3):
        next(batches)
    workers = set(threading.enumerate()) - before
    deadline = time.monotonic() + 20
    while len(read) < 3 + 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)  # for reads that should not be
    assert len(read) == 3 + 3, "`workers` batches ahead, no more"
    batches.close()  # what leaving a for loop does
    assert workers
    for thread in workers:
        thread.join(timeout=20)
        assert not thread.is_alive()
    assert sorted(order_of(loader, 1)) == list(range(30))
