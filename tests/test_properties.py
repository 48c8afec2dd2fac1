"""Properties that hold for any input: padding, tiling, weights, scores, files.

Hypothesis looks for the inputs.
"""
import ctypes
import ctypes.util
import io
import pickle
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from command.errors import DataError
from datasets.lists import make_lists, read_list
from datasets.pairs import find_pairs
from images.formats import write_png
from masks.object_scores import instance_scores, rand_and_information, thin_borders
from masks.pixel_scores import average_precision, confusion_matrix, precision_recall_curve, scores
from MirrorPadding import Tiles, mirror_pad, overlap_tile
from nets import checkpoint, torch_pickle
from nets.geometry import UNET_BILINEAR, UNET_TRANSPOSED, exact_spans
from WeightMap import compute_weight_map

settings.register_profile("steady", deadline=None, derandomize=True, max_examples=60,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")
FE_DFL_ENV = ctypes.c_void_p(-1)
SIDES = st.integers(1, 12)
MASKS = hnp.arrays(np.uint8, st.tuples(SIDES, SIDES), elements=st.integers(0, 1))


@pytest.fixture(autouse=True)
def subnormal_numbers():
    """Give hypothesis the smallest floats back.

    Jittor's operators, compiled with -Ofast, turn them to 0 for the process that loads them.
    """
    ctypes.CDLL(ctypes.util.find_library("m")).fesetenv(FE_DFL_ENV)


def two_masks(largest=1):
    def pair_of(shape):
        masks = hnp.arrays(np.int64, shape, elements=st.integers(0, largest))
        return st.tuples(masks, masks)
    return st.tuples(SIDES, SIDES).flatmap(pair_of)


# ---------------------------------------------------------------------------------- padding, tiling
@given(MASKS, *[st.integers(0, 40)] * 4)
def test_padding_takes_each_pixel_from_where_a_mirror_shows_it(image, top, bottom, left, right):
    padded = mirror_pad(image, top, bottom, left, right)
    height, width = image.shape
    assert padded.shape == (top + height + bottom, left + width + right)
    assert (padded[top:top + height, left:left + width] == image).all()
    for axis, before, after, length in ((0, top, bottom, height), (1, left, right, width)):
        lines = np.moveaxis(padded, axis, 0)
        for k in range(1, min(before, length - 1) + 1):
            assert (lines[before - k] == lines[before + k]).all()
        for k in range(1, min(after, length - 1) + 1):
            assert (lines[before + length - 1 + k] == lines[before + length - 1 - k]).all()


@given(st.sampled_from([UNET_BILINEAR, UNET_TRANSPOSED]), st.integers(1, 3000),
       st.integers(52, 800))
def test_tiles_cover_each_logit_once_where_it_is_exact(geometry, length, tile):
    total = geometry.output_side(length)
    spans = exact_spans(total, tile, geometry)
    starts, stops = ([getattr(span.keep, end) for span in spans] for end in ("start", "stop"))
    assert starts == [0] + stops[:-1] and stops[-1] == total
    for span in spans:
        end = span.start + span.length
        assert span.start % geometry.multiple == 0 and 0 <= span.start and end <= total
        assert (span.length - geometry.remainder) % geometry.multiple == 0
        if len(spans) > 1:
            assert span.keep.start == 0 or span.keep.start - span.start >= geometry.edge
            assert span.keep.stop == total or end - span.keep.stop >= geometry.edge


@settings(max_examples=15)
@given(st.integers(1, 150), st.integers(1, 150), st.sampled_from([52, 100]),
       st.integers(0, 2 ** 32 - 1))
def test_a_tiled_image_is_the_whole_image(height, width, tile, seed):
    """A net that shows the middle pixel of what it sees gives the image itself, in any tiling."""
    image = np.random.default_rng(seed).random((1, height, width), np.float32)
    found = overlap_tile(image, lambda inputs: inputs[..., 92:-92, 92:-92], UNET_BILINEAR,
                         Tiles(tile))
    assert (found == image).all()


# ------------------------------------------------------------------------------------------ weights
@given(MASKS)
def test_weights_do_not_depend_on_how_the_label_lies(label):
    weights = compute_weight_map(label)
    assert weights.shape == label.shape and weights.dtype == np.float32
    assert (weights > 0).all() and (weights <= 11).all()
    for turned, back in ((label.T, lambda array: array.T), (label[::-1], lambda array: array[::-1]),
                         (np.rot90(label), lambda array: np.rot90(array, -1))):
        np.testing.assert_allclose(back(compute_weight_map(turned)), weights, rtol=1e-5)


# ------------------------------------------------------------------------------------------- scores
@given(two_masks(3))
def test_scores_are_bounded_and_symmetric(pair):
    one, other = pair
    found, turned = scores(one, other, 4), scores(other, one, 4)
    assert all(0 <= value <= 1 for value in found.values())
    assert found["iou"] <= found["dice"] + 1e-12
    assert found == pytest.approx(turned) and found["dice"] == pytest.approx(found["f1"])
    assert (confusion_matrix(one, other, 4) == confusion_matrix(other, one, 4).T).all()
    assert scores(one, one, 4) == {"iou": 1, "dice": 1, "f1": 1}


@given(two_masks(4))
def test_objects_numbers_do_not_matter(pair):
    one, other = pair
    names = np.array([0, 3, 5, 17, 900])  # rising, for AJI takes the first of equal partners
    found = instance_scores(one, other)
    assert all(0 <= value <= 1 for value in found.values())
    assert found["pq"] == pytest.approx(found["dq"] * found["sq"])
    assert instance_scores(names[one], names[other]) == pytest.approx(found)
    assert instance_scores(one, one) == dict.fromkeys(found, 1)


@given(two_masks(3))
def test_rand_and_information_are_bounded(pair):
    proposal, truth = pair
    if truth.any():
        assert all(0 <= value <= 1 + 1e-9 for value in rand_and_information(proposal, truth))
        whole = np.where(truth > 0, truth, 9)  # no border pixel within the truth's foreground
        assert rand_and_information(whole, truth) == pytest.approx((1, 1))


@given(MASKS)
def test_thinned_borders_keep_the_regions(mask):
    thin = thin_borders(mask > 0)
    if (mask == 0).any() and (mask > 0).any():
        assert ((thin > 0) | (mask == 0)).all(), "no pixel of a region becomes border"


@given(hnp.arrays(np.float32, 40, elements=st.floats(0, 1, width=32)),
       hnp.arrays(np.int64, 40, elements=st.integers(0, 1)))
def test_average_precision_is_that_of_the_order_alone(probability, label):
    precision, recall, thresholds = precision_recall_curve(probability, label)
    if label.any():
        assert (np.diff(recall) >= 0).all() and (np.diff(thresholds) < 0).all() and recall[-1] == 1
        ranks = np.unique(probability, return_inverse=True)[1]
        of_ranks = average_precision(*precision_recall_curve(ranks, label)[:2])
        assert average_precision(precision, recall) == pytest.approx(of_ranks)


# -------------------------------------------------------------------------------------------- files
NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\."),
                min_size=1, max_size=12)


@settings(max_examples=25)
@given(st.lists(NAMES, min_size=1, max_size=5, unique=True))
def test_lists_give_back_the_pairs_that_were_listed(names):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for split in ("train", "test"):
            for kind in ("imgs", "labels"):
                (folder / "set" / split / kind).mkdir(parents=True)
                for name in names:
                    path = folder / "set" / split / kind / f"{name}.png"
                    write_png(path, np.zeros((2, 2), np.uint8))
        try:
            pairs = find_pairs(folder / "set")
        except DataError as error:  # two of them are one name to the file system
            assert "same name" in str(error)
            return
        assert make_lists(folder / "set", folder / "lists") == pairs
        assert {split: read_list(folder / "lists", split) for split in pairs} == pairs


CHARACTERS = st.characters(exclude_categories=("Cs",))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2 ** 53, 2 ** 53)
    | st.floats(allow_nan=False, allow_infinity=False) | st.text(CHARACTERS),
    lambda inner: (st.lists(inner, max_size=4)
                   | st.dictionaries(st.text(max_size=5), inner, max_size=4)), max_leaves=12)
DTYPES = st.sampled_from([np.float32, np.float64, np.int64, np.uint8])


@settings(max_examples=30)
@given(st.dictionaries(st.text(CHARACTERS, max_size=8), JSON, max_size=5),
       hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=4, max_side=3)))
def test_a_checkpoint_gives_back_what_was_saved(header, array):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        checkpoint.save(path, {"a": array}, header)
        weights, found = checkpoint.load(path)
    assert found == header
    assert weights["a"].dtype == array.dtype and weights["a"].tobytes() == array.tobytes()


@settings(max_examples=100)
@given(st.binary(max_size=200), st.booleans())
def test_a_checkpoint_of_any_bytes_is_refused_in_one_line(content, as_safetensors):
    if as_safetensors:
        content = len(content).to_bytes(8, "little") + b"{" + content
    refused(content)


def refused(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.pth"
        path.write_bytes(content)
        with pytest.raises(DataError) as error:
            checkpoint.read_weights(path)
    assert "\n" not in str(error.value)


def archive(data):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("archive/data.pkl", data)
    return content.getvalue()


PICKLED = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.binary(max_size=5) | st.floats(),
    lambda inner: (st.lists(inner, max_size=3) | st.tuples(inner, inner)
                   | st.dictionaries(st.text(max_size=3), inner, max_size=3)), max_leaves=10)
KINDS = (type(None), bool, int, float, str, bytes, bytearray, list, tuple, dict, set, frozenset)


@settings(max_examples=200)
@given(PICKLED, st.integers(0, 5),
       st.lists(st.tuples(st.integers(0, 10 ** 6), st.integers(0, 255)), max_size=4))
def test_the_reader_of_pickles_ends_with_data_or_with_a_refusal(value, protocol, changes):
    """Any pickle, with some bytes changed: never another error, never an object of another kind."""
    data = bytearray(pickle.dumps(value, protocol))
    for place, byte in changes:
        data[place % len(data)] = byte
    try:
        found, _ = torch_pickle.read_pickle(io.BytesIO(bytes(data)))
    except Exception:  # noqa: BLE001 - what `read_state_dict` turns into its one line
        refused(archive(bytes(data)))
        return
    assert type(found) in KINDS
    refused(archive(bytes(data)))
