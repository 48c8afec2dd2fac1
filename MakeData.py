"""Make a small sample data set: images that look like electron micrographs of neural tissue, with their labels.

    python MakeData.py sample                            # 12 training and 4 test pairs of 256 x 256 in ./data/sample
    python MakeData.py sample --Data_directory ./data/large --size 512 --train 30 --test 10

Layout: `{train,test}/{imgs,labels}/cell_01.png` ..., 8-bit grey.  Labels as in ISBI 2012: 255 = inside a cell, 0 = membrane.

Nothing here is a photograph.  A picture is drawn in the order of the sections below: the tissue is parted into cells of
very different sizes, the membrane between them gets a width and a contrast that change along its way, the cells are
filled with organelles, and the microscope adds uneven light, blur and shot noise.  The organelles are as dark as the
membrane but belong to the cell: grey values alone do not solve the task, the shape of the neighbourhood does.

Each picture has a random stream of its own, np.random.default_rng([seed, split, index]): the same arguments give the same
pixels, and more pictures leave the first ones as they were.
"""
import argparse
import re
import sys
from pathlib import Path

import numpy as np
from scipy import ndimage

from Common import DataError, Parser, list_images, make_folder, number, read_image, run, write_png

SPLITS = ("train", "test")
MARGIN = 32  # pixels drawn around a picture and cut off: cells and organelles run on beyond its border

# Lengths in pixels, grey values on the scale 0 ... 255.
CELL_RADIUS = (8.0, 62.0)      # smallest and largest cell
CELL_CROWDING = 0.62           # two centres come no closer than this part of the sum of their radii
CELL_STRETCH = 1.7             # a cell is up to this much longer than wide
WOBBLE = ((4.5, 18.0), (1.1, 4.0))  # (amplitude, smoothness) of the two fields that bend the membranes
MEMBRANE_HALF_WIDTH = (1.5, 3.5)
MEMBRANE_DARKNESS = (26.0, 92.0)   # faint stretches, strong stretches
CYTOPLASM = (176.0, 11.0)      # mean and spread of a cell's grey value
DARK_CELLS = 0.16              # part of the cells with darker cytoplasm
MITOCHONDRIA_PER_PIXEL = 1 / 7000
TUBULES_PER_PIXEL = 1 / 6000
VESICLES_PER_PIXEL = 1 / 420


# -------------------------------------------------------------------------------------------------------------- helpers
def smooth_noise(rng, shape, sigma):
    """Gaussian noise, smoothed: float64 of `shape` with mean 0 and standard deviation about 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return noise * (2 * np.sqrt(np.pi) * sigma)


def smooth_between(rng, shape, sigma, low, high):
    """A smooth field whose values spread about evenly between `low` and `high`: float64 of `shape`."""
    return low + (high - low) / (1 + np.exp(-1.7 * smooth_noise(rng, shape, sigma)))


def window(shape, centre, reach):
    """The square of pixels within `reach` of a centre: (slices, dy, dx), offsets from the centre as open grids."""
    low = [max(int(c - reach), 0) for c in centre]
    high = [min(int(c + reach) + 2, length) for c, length in zip(centre, shape)]
    y, x = np.ogrid[low[0]:max(high[0], low[0]), low[1]:max(high[1], low[1])]
    return (slice(low[0], high[0]), slice(low[1], high[1])), y - centre[0], x - centre[1]


def pick(rng, allowed):
    """A random pixel (y, x) among those that are True, or None where there is none."""
    pixels = np.flatnonzero(allowed)
    return np.unravel_index(pixels[rng.integers(pixels.size)], allowed.shape) if pixels.size else None


# ---------------------------------------------------------------------------------------------------- cells and membrane
def place_cells(rng, shape):
    """Throw discs of random radius, large ones first, and keep those that do not crowd: centres (N, 2), radii (N,)."""
    area = shape[0] * shape[1]
    low, high = CELL_RADIUS
    radii = np.sort(low * (high / low) ** (rng.random(int(area / 40)) ** 2.2))[::-1]
    points = rng.random((radii.size, 2)) * shape
    centres, kept = np.empty_like(points), np.empty_like(radii)
    count = 0
    for point, radius in zip(points, radii):
        gap = np.hypot(*(centres[:count] - point).T)
        if (gap > CELL_CROWDING * (kept[:count] + radius)).all():
            centres[count], kept[count] = point, radius
            count += 1
    return centres[:count], kept[:count]


def part_into_cells(rng, shape):
    """The number of the cell that owns each pixel: int64 (H, W).

    A weighted Voronoi diagram: a pixel goes to the disc whose rim is nearest.  Distances are measured in coordinates bent
    by a smooth random field, and longer along each cell's own axis than across it.
    """
    centres, radii = place_cells(rng, shape)
    y, x = np.indices(shape, dtype=np.float64)
    for amplitude, sigma in WOBBLE:
        y += amplitude * smooth_noise(rng, shape, sigma)
        x += amplitude * smooth_noise(rng, shape, sigma)
    nearest, owner = np.full(shape, np.inf), np.zeros(shape, dtype=np.int64)
    for cell, (centre, radius) in enumerate(zip(centres, radii)):
        angle, stretch = rng.random() * np.pi, CELL_STRETCH ** rng.random()
        square, _, _ = window(shape, centre, 2.5 * radius + 40)
        dy, dx = y[square] - centre[0], x[square] - centre[1]
        along = (np.cos(angle) * dx + np.sin(angle) * dy) / np.sqrt(stretch)
        across = (np.cos(angle) * dy - np.sin(angle) * dx) * np.sqrt(stretch)
        distance = np.sqrt(along ** 2 + across ** 2) - radius
        closer = distance < nearest[square]
        nearest[square][closer], owner[square][closer] = distance[closer], cell
    return owner


def draw_membrane(rng, owner):
    """The membrane between cells: (is_cell, depth, darkness).

    is_cell: bool (H, W).  depth: float64 (H, W), the distance to the middle of the nearest membrane.  darkness: float64
    (H, W), what the membrane takes from the grey value.
    """
    border = np.zeros(owner.shape, dtype=bool)
    border[:-1] |= owner[:-1] != owner[1:]
    border[:, :-1] |= owner[:, :-1] != owner[:, 1:]
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(~border), 0.7)
    half_width = smooth_between(rng, owner.shape, 14, *MEMBRANE_HALF_WIDTH)
    is_cell = depth > half_width
    # Rounded corners: where three cells meet, the membrane fills the gap.  Slivers vanish in it.
    is_cell = is_cell & (ndimage.gaussian_filter(is_cell.astype(np.float64), 1.5) > 0.47)
    outside = ndimage.distance_transform_edt(is_cell)
    inside = ndimage.distance_transform_edt(~is_cell)
    profile = 1 / (1 + np.exp((outside - inside) / 0.8))
    strength = smooth_between(rng, owner.shape, 11, *MEMBRANE_DARKNESS)
    return is_cell, outside, profile * strength
