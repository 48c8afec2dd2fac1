"""Draw pictures that look like electron micrographs of neural tissue, with their labels.

`python MakeData.py sample` writes a data set of them.  Labels are as in ISBI 2012: 255 inside a
cell, 0 on membrane.

Nothing here is a photograph.  A picture is drawn in the order of the sections below.  The tissue is
divided into cells of very different sizes.  The membrane between them changes its width and its
contrast along its way.  The cells are filled with organelles.  The microscope adds uneven light,
blur and shot noise.  The organelles are as dark as the membrane, but they belong to the cell: grey
values alone do not solve the task, the shape of the neighbourhood does.

Each picture has a random generator of its own, np.random.default_rng([seed, split, index]).  The
same arguments give the same pixels, and more pictures leave the first ones as they were.
"""
from typing import NamedTuple

import numpy as np
import scipy  # its parts load when they are first used, which keeps --help fast

MARGIN = 32  # px drawn around a picture and cut off: cells and organelles go on beyond its border

# Lengths in pixels, grey values on the scale 0 ... 255.
CELL_RADIUS = (8.0, 44.0)      # smallest and largest cell
CELL_RARITY = 2.6              # a higher number makes large cells rarer
CELL_CROWDING = 0.62           # least distance of two centres, as a part of the sum of their radii
CELL_STRETCH = 2.4             # a cell is up to this many times longer than wide
SMALLEST_PIECE = 40            # pixels: a smaller piece of a cell becomes membrane
WOBBLE = ((5.0, 17.0), (1.1, 4.0))  # (amplitude, smoothness) of both fields that bend membranes
MEMBRANE_HALF_WIDTH = (1.6, 3.7)
MEMBRANE_DARKNESS = (34.0, 90.0)    # where it is faint, where it is strong
MEMBRANE_SOFTNESS = (0.5, 1.6)      # of its edge, where it is cut straight, where at a slant
CYTOPLASM = (176.0, 11.0)      # mean and spread of the cells' grey values
DARK_CELLS, DARKER_BY = 0.16, 34.0  # part of the cells with darker cytoplasm, and by how much
MITOCHONDRIA_PER_PIXEL = 1 / 7000
TUBULES_PER_PIXEL = 1 / 6000
VESICLE_CLOUDS_PER_PIXEL = 1 / 4500
LIGHT = 0.07                   # spread of the illumination, as a part of its mean
BLUR, DETECTOR_BLUR = 0.7, 0.45
ELECTRONS_PER_GREY_VALUE = 0.6  # fewer electrons make more shot noise


# ---------------------------------------------------------------------------------------- helpers
def smooth_noise(rng, shape, sigma):
    """White noise behind a Gaussian filter of `sigma` px: float64 of `shape`.

    Its mean is 0, its standard deviation about 1.  The filter uses an FFT: `sigma` may be large.
    """
    vertical, horizontal = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])
    response = np.exp(-2 * (np.pi * sigma) ** 2 * (vertical ** 2 + horizontal ** 2))
    response[0, 0] = 0
    filtered = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * response, shape)
    return filtered * (2 * np.sqrt(np.pi) * sigma)


def smooth_between(rng, shape, sigma, low, high):
    """A smooth field with values spread evenly, about, between two limits: float64 of `shape`."""
    return low + (high - low) / (1 + np.exp(-1.7 * smooth_noise(rng, shape, sigma)))


class Window(NamedTuple):
    """The pixels around a centre."""
    pixels: tuple   # (rows, columns), two slices
    dy: np.ndarray  # (h, 1) px: how far each row is below the centre
    dx: np.ndarray  # (1, w) px: how far each column is to the right of the centre


def cut_window(shape, centre, reach):
    """The Window of the pixels within `reach` px of a centre (y, x), in an image of `shape`."""
    rows, columns = (slice(int(np.clip(place - reach, 0, length)),
                           int(np.clip(place + reach + 2, 0, length)))
                     for place, length in zip(centre, shape))
    y, x = np.ogrid[rows, columns]
    return Window((rows, columns), y - centre[0], x - centre[1])


def pick_pixel(rng, allowed):
    """A random pixel (y, x) of those that are True in `allowed`, or None where none is."""
    pixels = np.flatnonzero(allowed)
    if not pixels.size:
        return None
    return np.unravel_index(pixels[rng.integers(pixels.size)], allowed.shape)


# ----------------------------------------------------------------------------- cells and membrane
def place_cells(rng, shape):
    """Discs of random radius that do not crowd: (centres (N, 2), radii (N,)), float64, in px.

    They are thrown one after the other, the largest first.  One that comes too close is left out.
    """
    area = shape[0] * shape[1]
    low, high = CELL_RADIUS
    radii = np.sort(low * (high / low) ** (rng.random(int(area / 40)) ** CELL_RARITY))[::-1]
    points = rng.random((radii.size, 2)) * shape
    centres, kept = np.empty_like(points), np.empty_like(radii)
    count = 0
    for point, radius in zip(points, radii):
        gap = np.hypot(*(centres[:count] - point).T)
        if (gap > CELL_CROWDING * (kept[:count] + radius)).all():
            centres[count], kept[count] = point, radius
            count += 1
    return centres[:count], kept[:count]


def divide_into_cells(rng, shape):
    """The number of the cell that owns each pixel: int64 (H, W).

    This is a weighted Voronoi diagram: a pixel goes to the disc whose rim is nearest.  A smooth
    random field bends the coordinates.  Distances count less along a cell's axis than across it.
    """
    centres, radii = place_cells(rng, shape)
    y, x = np.indices(shape, dtype=np.float64)
    for amplitude, sigma in WOBBLE:
        y += amplitude * smooth_noise(rng, shape, sigma)
        x += amplitude * smooth_noise(rng, shape, sigma)
    nearest, owner = np.full(shape, np.inf), np.zeros(shape, dtype=np.int64)
    for cell, (centre, radius) in enumerate(zip(centres, radii)):
        angle, stretch = rng.random() * np.pi, CELL_STRETCH ** rng.random()
        square = cut_window(shape, centre, 2.5 * radius + 40).pixels
        dy, dx = y[square] - centre[0], x[square] - centre[1]
        along = (np.cos(angle) * dx + np.sin(angle) * dy) / np.sqrt(stretch)
        across = (np.cos(angle) * dy - np.sin(angle) * dx) * np.sqrt(stretch)
        distance = np.sqrt(along ** 2 + across ** 2) - radius
        closer = distance < nearest[square]
        nearest[square][closer], owner[square][closer] = distance[closer], cell
    return owner


def draw_membrane(rng, owner):
    """The membrane between cells: (depth, darkness), both float64 (H, W).

    owner: what `divide_into_cells` gives.  depth: px to the nearest membrane, 0 on it.
    darkness: what the membrane takes from the grey value; where it is cut at a slant, its edge is
    soft.
    """
    border = np.zeros(owner.shape, dtype=bool)
    border[:-1] |= owner[:-1] != owner[1:]
    border[:, :-1] |= owner[:, :-1] != owner[:, 1:]
    to_middle = scipy.ndimage.gaussian_filter(scipy.ndimage.distance_transform_edt(~border), 0.7)
    is_cell = to_middle > smooth_between(rng, owner.shape, 14, *MEMBRANE_HALF_WIDTH)
    # Corners become round: membrane fills the gap where three cells meet, and slivers vanish in it.
    is_cell &= scipy.ndimage.gaussian_filter(is_cell.astype(np.float64), 1.5) > 0.47
    pieces, _ = scipy.ndimage.label(is_cell)
    is_cell &= (np.bincount(pieces.ravel()) >= SMALLEST_PIECE)[pieces]
    depth = scipy.ndimage.distance_transform_edt(is_cell)
    softness = smooth_between(rng, owner.shape, 16, *MEMBRANE_SOFTNESS)
    edge = depth - scipy.ndimage.distance_transform_edt(~is_cell)
    strength = smooth_between(rng, owner.shape, 11, *MEMBRANE_DARKNESS)
    return depth, strength / (1 + np.exp(edge / softness))


# ------------------------------------------------------------------------------------- organelles
# Each function darkens `darkness`, float64 (H, W), in its place; depth: of `draw_membrane`.
def draw_mitochondrion(rng, darkness, depth):
    """Darken an oval with a wobbly rim and stripes (cristae) in a cell that has room for it."""
    half_width = rng.uniform(5.5, 10)
    centre = pick_pixel(rng, depth > half_width + 2)
    if centre is None:
        return
    half_length, angle = half_width * rng.uniform(1.0, 1.7), rng.random() * np.pi
    square, dy, dx = cut_window(depth.shape, centre, 1.3 * half_length)
    along = np.cos(angle) * dx + np.sin(angle) * dy
    across = np.cos(angle) * dy - np.sin(angle) * dx
    bent = 1 + 0.07 * smooth_noise(rng, along.shape, 4)
    # The oval gives way to a membrane and never covers one.
    oval = (1 - np.hypot(along / half_length, across / half_width) * bent) * half_width
    inside = np.minimum(oval, depth[square] - 2)
    filled = 1 / (1 + np.exp(-inside / 0.5))
    rim = np.exp(-0.5 * ((inside - 0.8) / 0.9) ** 2)
    waves = along * np.cos(0.6) + across * np.sin(0.6)
    stripes = np.sin(2 * np.pi * waves / rng.uniform(3.6, 5.2)
                     + 1.2 * smooth_noise(rng, along.shape, 3))
    matrix, cristae, outline = rng.uniform(22, 70), rng.uniform(8, 22), rng.uniform(22, 55)
    drawn = filled * (matrix + cristae * stripes) + outline * rim
    darkness[square] = np.maximum(darkness[square], drawn)


def draw_vesicle(rng, darkness, depth, centre):
    """Darken a small ring inside a cell; one of small radius is a dot."""
    radius, strength = rng.uniform(0.2, 3.0), rng.uniform(22, 75)
    square, dy, dx = cut_window(depth.shape, centre, 6)
    distance = np.hypot(dy * rng.uniform(0.8, 1.2), dx)
    ring = strength * np.exp(-0.5 * ((distance - radius) / 0.85) ** 2) * (depth[square] > 1)
    darkness[square] = np.maximum(darkness[square], ring)


def draw_tubule(rng, darkness, depth):
    """Darken a curved line inside a cell (endoplasmic reticulum).

    Its ends are free.  A membrane never ends inside a cell.
    """
    centre = pick_pixel(rng, depth > 6)
    if centre is None:
        return
    steps = np.arange(0, rng.uniform(9, 26), 0.7)
    first = rng.random() * 2 * np.pi
    direction = first + np.cumsum(rng.normal(0, 0.1, steps.size) + rng.normal(0, 0.07))
    line = np.stack([np.sin(direction), np.cos(direction)], axis=1).cumsum(axis=0) * 0.7 + centre
    strength, thickness = rng.uniform(30, 80), rng.uniform(0.8, 1.5)
    for point in line:
        square, dy, dx = cut_window(depth.shape, point, 5)
        stroke = strength * np.exp(-0.5 * (dy ** 2 + dx ** 2) / thickness ** 2)
        darkness[square] = np.maximum(darkness[square], stroke * (depth[square] > 4))


def draw_organelles(rng, depth):
    """What is dark inside cells, yet no membrane: float64 (H, W), taken from the grey value."""
    darkness = np.zeros(depth.shape)
    for _ in range(rng.poisson(TUBULES_PER_PIXEL * depth.size)):
        draw_tubule(rng, darkness, depth)
    for _ in range(rng.poisson(VESICLE_CLOUDS_PER_PIXEL * depth.size)):
        middle = pick_pixel(rng, depth > 5)
        if middle is None:
            continue
        for centre in rng.normal(middle, rng.uniform(6, 18), (rng.poisson(14), 2)):
            is_inside = (centre >= 0).all() and (centre < depth.shape).all()
            if is_inside and depth[tuple(centre.astype(int))] > 3:
                draw_vesicle(rng, darkness, depth, centre)
    for _ in range(rng.poisson(MITOCHONDRIA_PER_PIXEL * depth.size)):
        draw_mitochondrion(rng, darkness, depth)
    return darkness


# ------------------------------------------------------------------------------------- microscope
def expose(rng, grey):
    """What the microscope makes of a section: uneven light, slight blur, shot noise.

    grey: float64 (H, W), grey values.  Returns uint8 (H, W).
    """
    light = 1 + LIGHT * smooth_noise(rng, grey.shape, 55)
    blurred = scipy.ndimage.gaussian_filter(grey * light, BLUR)
    electrons = rng.poisson(np.clip(blurred, 5, None) * ELECTRONS_PER_GREY_VALUE)
    detected = scipy.ndimage.gaussian_filter(electrons / ELECTRONS_PER_GREY_VALUE, DETECTOR_BLUR)
    return np.clip(np.rint(detected), 0, 255).astype(np.uint8)


def make_pair(seed, split, index, size):
    """(image, label) of one picture: uint8 (size, size) each, the label 255 in a cell, else 0.

    split: 0 for training, 1 for test; index: of the picture, from 0; size: px.  The same four
    numbers give the same pixels.
    """
    rng = np.random.default_rng([seed, split, index])
    shape = (size + 2 * MARGIN, size + 2 * MARGIN)
    owner = divide_into_cells(rng, shape)
    depth, membrane = draw_membrane(rng, owner)
    mean, spread = CYTOPLASM
    cells = rng.normal(mean, spread, owner.max() + 1)
    cells[rng.random(cells.size) < DARK_CELLS] -= DARKER_BY
    cytoplasm = scipy.ndimage.gaussian_filter(cells[owner], 1.5) + 6 * smooth_noise(rng, shape, 12)
    grain = 9 * smooth_noise(rng, shape, 1.1) + 6 * smooth_noise(rng, shape, 2.5)
    grey = cytoplasm + grain - np.maximum(membrane, draw_organelles(rng, depth))
    inner = (slice(MARGIN, MARGIN + size),) * 2
    return expose(rng, grey)[inner], np.where(depth[inner] > 0, 255, 0).astype(np.uint8)
