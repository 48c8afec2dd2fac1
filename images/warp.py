"""Warping: coordinate fields, and the values of an image at any coordinates.

A field says where each pixel of the result comes from: (2, H, W) px, rows and columns of the
source.  Beyond its edges the source is mirrored.
"""
import math
from functools import lru_cache

import numpy as np
import scipy  # its parts load when they are first used, which keeps --help fast

from images.mirror import mirrored
from images.windows import window_of

ROWS_AT_ONCE = 64  # rows interpolated together: they stay in the processor's cache


# --------------------------------------------------------------------------------------- matrices
def symmetry_matrix(which):
    """One of the eight symmetries of the square: a matrix (2, 2).  0 is the identity.

    It takes a pixel of the result, (row, column) from the middle, to the pixel it comes from.
    """
    turned = np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), which % 4)  # as np.rot90
    return turned if which < 4 else turned * [1, -1]  # as np.fliplr after it


def rotation_matrix(degrees):
    """The same matrix for a rotation, counterclockwise as one looks at the image."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cosine, sine], [-sine, cosine]])


# ----------------------------------------------------------------------------------------- fields
@lru_cache(maxsize=32)
def spline_weights(length, nodes):
    """How much each of `nodes` values counts at each of `length` points: float64 (length, nodes).

    The values stand evenly, from the first point to the last.  Between them are cubic splines,
    mirrored at the ends.  Do not write into the result: it is kept for the next call.
    """
    return np.stack([scipy.ndimage.zoom(node, length / nodes, order=3, mode="mirror")
                     for node in np.eye(nodes)], axis=1)


def spread_vectors(vectors, rows, columns):
    """A grid of vectors (2, n, m), spread over all pixels by splines: (2, H, W) of its dtype.

    rows: (H, n) and columns: (W, m), both from `spline_weights`.  The sums are written out: those
    of a matrix product depend on the number of threads.
    """
    along = sum(vectors[:, k, None, :] * rows[:, k, None] for k in range(rows.shape[1]))
    field = along[:, :, 0, None] * columns[:, 0]
    for k in range(1, columns.shape[1]):
        field += along[:, :, k, None] * columns[:, k]
    return field


def source_coordinates(shape, origin, center, matrix, displacement=(0, 0)):
    """The field of an affine map and a displacement: float32 (2, H, W) px.

    A pixel of the result comes from center + matrix (pixel - origin + displacement).
    shape: (H, W) of the result; origin: the place (row, column) in the result that comes from the
    place `center` in the source; matrix: (2, 2); displacement: (2, H, W) px, or a vector.
    """
    rows, columns = (np.arange(length, dtype=np.float32) - float(middle)
                     for length, middle in zip(shape, origin))
    rows, columns = rows[:, None] + displacement[0], columns + displacement[1]
    result = np.empty((2, *shape), np.float32)
    for axis, (from_row, from_column), middle in zip(result, matrix, center):
        np.multiply(rows, float(from_row), out=axis)
        axis += columns * float(from_column)
        axis += float(middle)
    return result


# -------------------------------------------------------------------------------------- smoothing
@lru_cache(maxsize=8)
def gaussian_response(length, sigma):
    """The factor by which a Gaussian filter of `sigma` px scales each DCT-II frequency.

    length: of the line, in px.  Returns float64 (length,).
    """
    radius = int(4 * sigma + 0.5)  # where scipy.ndimage.gaussian_filter cuts its kernel
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / max(sigma, 1e-9)) ** 2)
    kernel = np.bincount(offsets % (2 * length), kernel / kernel.sum(), 2 * length)
    return scipy.fft.rfft(kernel).real[:length]


def gaussian_smooth(noise, sigma):
    """`scipy.ndimage.gaussian_filter(channel, sigma, mode="reflect")` of each channel.

    noise: float64 (C, H, W), as the result.  Repeating the border pixel is the symmetry of the
    DCT-II, which turns the filter into a product.  This is equal to rounding, ten times as fast
    for a broad Gaussian, and uses no threads: the bytes never vary.
    """
    rows, columns = (gaussian_response(length, sigma) for length in noise.shape[1:])
    spectrum = scipy.fft.dctn(noise, axes=(1, 2)) * np.multiply.outer(rows, columns)
    return scipy.fft.idctn(spectrum, axes=(1, 2))


# ----------------------------------------------------------------------------------------- values
def cut_box(planes, coordinates):
    """(box, coordinates in the box): the part of some planes that coordinates (2, h, w) lie in.

    planes: an array (..., H, W) or images.windows.Windows, mirrored without end.
    """
    starts = [math.floor(axis.min()) for axis in coordinates]
    stops = [math.floor(axis.max()) + 2 for axis in coordinates]  # with the pixel after the last
    rows, columns = (mirrored(length, -start, stop - length)
                     for length, start, stop in zip(planes.shape[-2:], starts, stops))
    inside = [axis - start for axis, start in zip(coordinates, starts)]
    return window_of(planes, rows, columns), inside


def sample_linear(planes, coordinates):
    """Planes (C, H, W) float32 at coordinates (2, h, w), bilinear: (C, h, w) float32.

    planes: an array, or images.windows.Windows.

    As scipy.ndimage.map_coordinates(order=1, mode="mirror"), in a third of its time, because the
    planes share the coordinates.
    """
    box, (rows, columns) = cut_box(planes, coordinates)
    width, flat = box.shape[-1], box.reshape(len(box), -1)
    result = np.empty((len(box), *rows.shape), np.float32)
    for first in range(0, len(rows), ROWS_AT_ONCE):
        here = np.s_[first:first + ROWS_AT_ONCE]
        top, left = rows[here].astype(np.intp), columns[here].astype(np.intp)
        down = rows[here] - top.astype(np.float32)
        right = columns[here] - left.astype(np.float32)
        index = top * width + left
        for plane, out in zip(flat, result):
            upper, lower = (_blend(line.take(index), line[1:].take(index), right)
                            for line in (plane, plane[width:]))
            out[here] = _blend(upper, lower, down)
    return result


def _blend(first, second, part):
    """first + part (second - first), computed in their place: exactly `first` where part is 0."""
    second -= first
    second *= part
    first += second
    return first


def sample_nearest(plane, coordinates):
    """A plane (H, W) of any dtype at coordinates (2, h, w): the value of the nearest pixel.

    plane: an array, or images.windows.Windows.
    """
    box, (rows, columns) = cut_box(plane, coordinates)
    index = np.rint(rows).astype(np.intp) * box.shape[-1] + np.rint(columns).astype(np.intp)
    return box.take(index)


# -------------------------------------------------------------------------------- values by splines
def warp_image(image, coordinates):
    """Interpolate an image at float coordinates (2, H, W): cubic splines, mirrored at the border.

    image: (H, W) or (H, W, C) of any dtype.  The result has its shape and dtype.  Values are
    clipped to what the dtype holds, and rounded where it holds whole numbers.
    """
    if image.ndim == 3:
        return np.stack([warp_image(channel, coordinates)
                         for channel in np.moveaxis(image, 2, 0)], axis=2)
    exact = np.float32 if image.dtype.itemsize < 4 or image.dtype == np.float32 else np.float64
    coefficients = scipy.ndimage.spline_filter(image.astype(exact), order=3, output=exact,
                                               mode="mirror")
    warped = scipy.ndimage.map_coordinates(coefficients, coordinates, order=3, mode="mirror",
                                           prefilter=False)
    is_whole = image.dtype.kind != "f"
    limits = np.iinfo(image.dtype) if is_whole else np.finfo(image.dtype)
    values = np.rint(warped) if is_whole else warped
    return values.clip(limits.min, limits.max).astype(image.dtype)


def warp_label(label, coordinates):
    """The values of a label (H, W), integers, nearest to float coordinates (2, H, W)."""
    return scipy.ndimage.map_coordinates(label, coordinates, order=0, mode="mirror")
