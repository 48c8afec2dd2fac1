"""images/channels.py and images/values.py, against Pillow and against the arithmetic by hand."""
import numpy as np
import pytest
from PIL import Image

from command.errors import DataError
from images.channels import (VALUE_DTYPES, as_planes, count_channels, describe_kind, is_scaled,
                             suits_channels, to_channels)
from images.values import NormalisedRows, Statistics, normalise, white_of

EIGHT, SIXTEEN = np.dtype(np.uint8), np.dtype(np.uint16)


def noise(shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def test_luma_is_pillows():
    colour = noise((301, 77, 3))
    assert np.array_equal(to_channels(colour, 1), np.asarray(Image.fromarray(colour).convert("L")))


def test_luma_of_16_bits():
    colour = noise((50, 60, 3), np.uint16)
    grey = to_channels(colour, 1)
    assert grey.dtype == np.uint16 and np.abs(grey - colour @ [0.299, 0.587, 0.114]).max() < 1.1
    white = np.full((2, 2, 3), 65535, np.uint16)
    assert to_channels(white, 1).tolist() == [[65535, 65535]] * 2, "nothing overflows"


@pytest.mark.parametrize("dtype", [np.uint32, np.int8, np.int16, np.int32, np.float32, np.float64])
def test_luma_in_other_units(dtype):
    """Rounded to a whole number, below 0 too, or as it is; nothing overflows."""
    limits = np.iinfo(dtype) if np.dtype(dtype).kind != "f" else np.finfo(np.float16)
    colour = np.random.default_rng(0).uniform(limits.min, limits.max, (20, 30, 3)).astype(dtype)
    grey, exact = to_channels(colour, 1), colour @ np.array([0.299, 0.587, 0.114])
    assert grey.dtype == dtype and grey.shape == (20, 30)
    assert np.abs(grey - exact).max() <= 0.5 + 3e-5 * np.abs(exact).max()


def test_channels_that_do_not_fit():
    for pixels, n_channels in ((noise((4, 5)), 2), (noise((4, 5, 2)), 1), (noise((4, 5, 3)), 4),
                               (noise((4, 5, 4)), 3)):
        channels = count_channels(pixels)
        assert not suits_channels(channels, n_channels)
        with pytest.raises(DataError, match=f", but {n_channels} channels are needed"):
            to_channels(pixels, n_channels)
    for channels, n_channels in ((1, 3), (3, 1), (1, 1), (4, 4), (16, 16)):
        assert suits_channels(channels, n_channels)


@pytest.mark.parametrize("dtype", VALUE_DTYPES)
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 2), (4, 5, 3), (4, 5, 16)])
def test_planes_are_in_the_files_units_but_for_8_and_16_bits(dtype, shape):
    """Signs, values above 1 and below 0 stay; nothing is clipped."""
    values = np.random.default_rng(1).normal(0, 50, shape)
    pixels = (abs(values) if dtype[0] == "u" else values).astype(dtype)
    planes = as_planes(pixels)
    assert planes.dtype == np.float32 and planes.shape == (*(shape[2:] or (1,)), 4, 5)
    unit = {"uint8": 255, "uint16": 65535}.get(dtype, 1)
    expected = pixels.reshape(4, 5, -1).astype(np.float32) / np.float32(unit)
    assert np.array_equal(planes.transpose(1, 2, 0), expected)
    assert is_scaled(dtype) == (unit != 1)


@pytest.mark.parametrize("dtype, channels, kind", [
    ("uint8", 1, "8-bit grey"), ("uint16", 3, "16-bit RGB"), ("uint16", 2, "16-bit, 2 channels"),
    ("float32", 1, "float32 grey"), ("int16", 4, "int16, 4 channels")])
def test_kinds_in_words(dtype, channels, kind):
    assert describe_kind(dtype, channels) == kind


def test_channels_that_fit_stay():
    grey, colour = noise((4, 5)), noise((4, 5, 3))
    assert to_channels(grey, 1) is grey and to_channels(colour, 3) is colour
    repeated = to_channels(grey, 3)
    assert (repeated == grey[..., None]).all() and repeated.shape == (4, 5, 3)


@pytest.mark.parametrize("mean, largest, white", [
    (0.5, 200, 255), (0.5, 256, 4095), (0.5, 4095, 4095), (0.5, 16000, 16383), (0.5, 16384, 65535),
    (0.03, 4000, 65535), (0.03, 1900, 4095), (0.0, 4000, 4095), (0.0, 60000, 65535)])
def test_which_value_is_white(mean, largest, white):
    """The mean is 0.5 in training on 8-bit images, and 0 where nothing is known.

    It is 0.03 in training on 12 bits in 16-bit files: the mean value there is 1966.
    """
    assert white_of(largest, SIXTEEN, Statistics((mean, 0.9), (0.2, 0.2))) == white
    assert white_of(largest, SIXTEEN, Statistics((mean, 0.9), (0.2, 0.2), "uint8")) == white
    assert white_of(min(largest, 255), EIGHT, Statistics((mean,), (0.2,))) == 255
    deep = Statistics((mean,), (0.2,), "uint16")
    assert white_of(largest, SIXTEEN, deep) == 65535, "a dark image of the same camera"


@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("shape", [(40, 30), (40, 30, 3)])
@pytest.mark.parametrize("dtype, white", [(np.uint8, 255), (np.uint16, 65535), (np.uint16, 4095)])
def test_normalised_rows(n_channels, shape, dtype, white):
    pixels = noise(shape, dtype)
    statistics = Statistics((0.4, 0.5, 0.6)[:n_channels], (0.1, 0.2, 0.3)[:n_channels])
    rows = NormalisedRows(pixels, n_channels, statistics, white)
    assert rows.shape == (n_channels, 40, 30)
    wanted = to_channels(pixels, n_channels).reshape(40, 30, n_channels).astype(float) / white
    for channel, (mean, std) in enumerate(zip(statistics.mean, statistics.std)):
        found = rows[:, 7:19][channel]
        assert found.dtype == np.float32 and found.shape == (12, 30)
        expected = (wanted[7:19, :, channel] - mean) / std
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_without_a_white_it_is_the_dtypes():
    assert as_planes(np.array([[0, 51, 255]], np.uint8)).tolist() == [[[0, np.float32(0.2), 1]]]
    found = normalise(np.ones((2, 1, 1), np.float32), Statistics((0.5, 0.0), (0.25, 2.0)))
    assert found.ravel().tolist() == [2, 0.5]
