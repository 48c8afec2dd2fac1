"""Other grey values: brightness, contrast, gamma, blur and noise of an image.

An image is (C, H, W) float32, with values in [0, 1] or a little beyond.
"""
import numpy as np
import scipy  # its parts load when they are first used, which keeps --help fast


def find_white(image):
    """The value that is white in an image: 999 of 1000 of its values are no larger; never 0.

    In a 16-bit file of a 12-bit camera it is far below 1.
    """
    step = max(1, min(image.shape[1:]) // 128)  # a part of the pixels is enough
    return float(np.percentile(image[:, ::step, ::step], 99.9)) or 1.0


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


def blur_image(image, sigma):
    """Each channel, smoothed by a Gaussian of `sigma` px that is cut at three sigma."""
    return scipy.ndimage.gaussian_filter(image, (0, sigma, sigma), mode="mirror", truncate=3)


def add_noise(image, std, rng):
    """The values plus Gaussian noise, independent in every pixel and channel."""
    return image + rng.standard_normal(image.shape, np.float32) * std
