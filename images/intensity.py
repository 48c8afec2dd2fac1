"""Other grey values: brightness, contrast, gamma, blur and noise of an image.

An image is (C, H, W) float32, in the units of images.channels.as_planes: with values in [0, 1] or a
little beyond, or in units of its own.
"""
from typing import NamedTuple

import numpy as np
import scipy  # its parts load when they are first used, which keeps --help fast


class Light(NamedTuple):
    """The range from black to white.  It is never empty."""
    black: float
    white: float


def thin_out(image):
    """A part of an image's pixels, in even steps, that is enough to find its range."""
    step = max(1, min(image.shape[1:]) // 128)
    return image[:, ::step, ::step]


def find_white(image):
    """The value that is white in an image: 999 of 1000 of its values are no larger; never 0.

    In a 16-bit file of a 12-bit camera it is far below 1.
    """
    return float(np.percentile(thin_out(image), 99.9)) or 1.0


def find_range(image):
    """The Light of values in units of their own: 1 of 1000 is darker, 1 of 1000 is brighter."""
    black, white = map(float, np.percentile(thin_out(image), (0.1, 99.9)))
    return Light(black, white if white > black else black + 1)


def find_lights(image, is_scaled):
    """The Lights of an image: one for all channels, or one for each.

    is_scaled: whether its values are scaled to [0, 1].  Grey and RGB then have one, with black 0.
    Other channels need not be as bright as each other, and without a scale nobody knows what black
    is.
    """
    if is_scaled and len(image) in (1, 3):
        return [Light(0.0, find_white(image))]
    if is_scaled:
        return [Light(0.0, find_white(channel[None])) for channel in image]
    return [find_range(channel[None]) for channel in image]


def add_brightness(image, added):
    """The values plus `added`."""
    return image + added


def scale_contrast(image, factor):
    """The distance of each channel's values from their mean, times `factor`."""
    mean = image.mean(axis=(1, 2), keepdims=True)
    return (image - mean) * factor + mean


def apply_gamma(image, exponent):
    """The values to the power of `exponent`; values below 0 become 0."""
    return np.maximum(image, 0) ** exponent


def bend_gamma(image, exponent):
    """Values from 0 to 1 to the power of `exponent`; values beyond stay as they are."""
    return np.where((image > 0) & (image < 1), image.clip(0, 1) ** exponent, image)


def blur_image(image, sigma):
    """Each channel, smoothed by a Gaussian of `sigma` px that is cut at three sigma."""
    return scipy.ndimage.gaussian_filter(image, (0, sigma, sigma), mode="mirror", truncate=3)


def add_noise(image, std, rng):
    """The values plus Gaussian noise, independent in every pixel and channel."""
    return image + rng.standard_normal(image.shape, np.float32) * std
