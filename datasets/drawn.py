"""Draw pictures that look like electron micrographs of neural tissue, with their labels.

`python MakeData.py sample` writes a data set of them.  Labels, as in ISBI 2012: 255 inside a cell, 0 on membrane.

Nothing here is a photograph.  A picture is drawn in the order of the sections below: the tissue is parted into cells of
very different sizes, the membrane between them gets a width and a contrast that change along its way, the cells are
filled with organelles, and the microscope adds uneven light, blur and shot noise.  The organelles are as dark as the
membrane but belong to the cell: grey values alone do not solve the task, the shape of the neighbourhood does.

Each picture has a random stream of its own, np.random.default_rng([seed, split, index]): the same arguments give the
same pixels, and more pictures leave the first ones as they were.
"""
import numpy as np
import scipy  # its parts load when they are first used, which keeps --help fast

MARGIN = 32  # pixels drawn around a picture and cut off: cells and organelles run on beyond its border

# Lengths in pixels, grey values on the scale 0 ... 255.
CELL_RADIUS = (8.0, 44.0)      # smallest and largest cell
CELL_RARITY = 2.6              # the higher, the rarer are large cells
CELL_CROWDING = 0.62           # two centres come no closer than this part of the sum of their radii
CELL_STRETCH = 2.4             # a cell is up to this many times longer than wide
SMALLEST_PIECE = 40            # pixels: less of a cell than this is lost in the membrane around it
WOBBLE = ((5.0, 17.0), (1.1, 4.0))  # (amplitude, smoothness) of the two fields that bend the membranes
MEMBRANE_HALF_WIDTH = (1.6, 3.7)
MEMBRANE_DARKNESS = (34.0, 90.0)    # faint stretches, strong stretches
MEMBRANE_SOFTNESS = (0.5, 1.6)      # of its edge: cut straight across, cut at a slant
CYTOPLASM = (176.0, 11.0)      # mean and spread of the cells' grey values
DARK_CELLS, DARKER_BY = 0.16, 34.0  # part of the cells with darker cytoplasm, and by how much
MITOCHONDRIA_PER_PIXEL = 1 / 7000
TUBULES_PER_PIXEL = 1 / 6000
VESICLE_CLOUDS_PER_PIXEL = 1 / 4500
LIGHT = 0.07                   # spread of the illumination, as a part of its mean
BLUR, DETECTOR_BLUR = 0.7, 0.45
ELECTRONS_PER_GREY_VALUE = 0.6  # the fewer, the more shot noise


# -------------------------------------------------------------------------------------------------------------- helpers
def smooth_noise(rng, shape, sigma):
    """White noise behind a Gaussian filter (by FFT: `sigma` may be wide): float64, mean 0, deviation about 1."""
    vertical, horizontal = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])
    response = np.exp(-2 * (np.pi * sigma) ** 2 * (vertical ** 2 + horizontal ** 2))
    response[0, 0] = 0
    return np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * response, shape) * (2 * np.sqrt(np.pi) * sigma)


def smooth_between(rng, shape, sigma, low, high):
    """A smooth field whose values spread about evenly between `low` and `high`: float64 of `shape`."""
    return low + (high - low) / (1 + np.exp(-1.7 * smooth_noise(rng, shape, sigma)))


def window(shape, centre, reach):
    """The pixels within `reach` of a centre: (slices, dy, dx), with their offsets from it as open grids."""
    rows, columns = (slice(int(np.clip(c - reach, 0, length)), int(np.clip(c + reach + 2, 0, length)))
                     for c, length in zip(centre, shape))
    y, x = np.ogrid[rows, columns]
    return (rows, columns), y - centre[0], x - centre[1]


def pick(rng, allowed):
    """A random pixel (y, x) among those that are True, or None where there is none."""
    pixels = np.flatnonzero(allowed)
    return np.unravel_index(pixels[rng.integers(pixels.size)], allowed.shape) if pixels.size else None


# --------------------------------------------------------------------------------------------------- cells and membrane
def place_cells(rng, shape):
    """Throw discs of random radius, large ones first, and keep those that do not crowd: centres (N, 2), radii (N,)."""
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


def part_into_cells(rng, shape):
    """The number of the cell that owns each pixel: int64 (H, W).

    A weighted Voronoi diagram: a pixel goes to the disc whose rim is nearest.  Distances are taken in coordinates that
    a smooth random field has bent, and count less along a cell's own axis than across it.
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
    """The membrane between cells: (depth, darkness).

    depth: float64 (H, W), the distance to the nearest membrane, 0 on it.  darkness: float64 (H, W), what the membrane
    takes from the grey value; where it was cut at a slant its edge is soft.
    """
    border = np.zeros(owner.shape, dtype=bool)
    border[:-1] |= owner[:-1] != owner[1:]
    border[:, :-1] |= owner[:, :-1] != owner[:, 1:]
    to_middle = scipy.ndimage.gaussian_filter(scipy.ndimage.distance_transform_edt(~border), 0.7)
    is_cell = to_middle > smooth_between(rng, owner.shape, 14, *MEMBRANE_HALF_WIDTH)
    # Rounded corners: where three cells meet, membrane fills the gap.  Slivers of cells vanish in it.
    is_cell &= scipy.ndimage.gaussian_filter(is_cell.astype(np.float64), 1.5) > 0.47
    pieces, _ = scipy.ndimage.label(is_cell)
    is_cell &= (np.bincount(pieces.ravel()) >= SMALLEST_PIECE)[pieces]
    depth = scipy.ndimage.distance_transform_edt(is_cell)
    softness = smooth_between(rng, owner.shape, 16, *MEMBRANE_SOFTNESS)
    edge = depth - scipy.ndimage.distance_transform_edt(~is_cell)
    strength = smooth_between(rng, owner.shape, 11, *MEMBRANE_DARKNESS)
    return depth, strength / (1 + np.exp(edge / softness))


# ----------------------------------------------------------------------------------------------------------- organelles
def draw_mitochondrion(rng, darkness, depth):
    """Darken an oval with a wobbly rim and stripes (cristae) somewhere inside a cell, where there is room for it."""
    half_width = rng.uniform(5.5, 10)
    centre = pick(rng, depth > half_width + 2)
    if centre is None:
        return
    half_length, angle = half_width * rng.uniform(1.0, 1.7), rng.random() * np.pi
    square, dy, dx = window(depth.shape, centre, 1.3 * half_length)
    along, across = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
    bent = 1 + 0.07 * smooth_noise(rng, along.shape, 4)
    # Towards a membrane the oval gives way, so that it never covers one.
    inside = np.minimum((1 - np.hypot(along / half_length, across / half_width) * bent) * half_width,
                        depth[square] - 2)
    filled = 1 / (1 + np.exp(-inside / 0.5))
    rim = np.exp(-0.5 * ((inside - 0.8) / 0.9) ** 2)
    stripes = np.sin(2 * np.pi * (along * np.cos(0.6) + across * np.sin(0.6)) / rng.uniform(3.6, 5.2)
                     + 1.2 * smooth_noise(rng, along.shape, 3))
    matrix, cristae, outline = rng.uniform(22, 70), rng.uniform(8, 22), rng.uniform(22, 55)
    oval = filled * (matrix + cristae * stripes) + outline * rim
    darkness[square] = np.maximum(darkness[square], oval)


def draw_vesicle(rng, darkness, depth, centre):
    """Darken a small ring, or a dot where the radius is small, inside a cell."""
    radius, strength = rng.uniform(0.2, 3.0), rng.uniform(22, 75)
    square, dy, dx = window(depth.shape, centre, 6)
    distance = np.hypot(dy * rng.uniform(0.8, 1.2), dx)
    ring = strength * np.exp(-0.5 * ((distance - radius) / 0.85) ** 2) * (depth[square] > 1)
    darkness[square] = np.maximum(darkness[square], ring)


def draw_tubule(rng, darkness, depth):
    """Darken a curved line with free ends (endoplasmic reticulum) inside a cell: a membrane never ends in a cell."""
    centre = pick(rng, depth > 6)
    if centre is None:
        return
    steps = np.arange(0, rng.uniform(9, 26), 0.7)
    direction = rng.random() * 2 * np.pi + np.cumsum(rng.normal(0, 0.1, steps.size) + rng.normal(0, 0.07))
    line = np.stack([np.sin(direction), np.cos(direction)], axis=1).cumsum(axis=0) * 0.7 + centre
    strength, thickness = rng.uniform(30, 80), rng.uniform(0.8, 1.5)
    for point in line:
        square, dy, dx = window(depth.shape, point, 5)
        stroke = strength * np.exp(-0.5 * (dy ** 2 + dx ** 2) / thickness ** 2) * (depth[square] > 4)
        darkness[square] = np.maximum(darkness[square], stroke)


def draw_organelles(rng, depth):
    """All that is dark inside cells yet no membrane: float64 (H, W), what it takes from the grey value."""
    darkness = np.zeros(depth.shape)
    for _ in range(rng.poisson(TUBULES_PER_PIXEL * depth.size)):
        draw_tubule(rng, darkness, depth)
    for _ in range(rng.poisson(VESICLE_CLOUDS_PER_PIXEL * depth.size)):
        middle = pick(rng, depth > 5)
        if middle is None:
            continue
        for centre in rng.normal(middle, rng.uniform(6, 18), (rng.poisson(14), 2)):
            if (centre >= 0).all() and (centre < depth.shape).all() and depth[tuple(centre.astype(int))] > 3:
                draw_vesicle(rng, darkness, depth, centre)
    for _ in range(rng.poisson(MITOCHONDRIA_PER_PIXEL * depth.size)):
        draw_mitochondrion(rng, darkness, depth)
    return darkness


# ----------------------------------------------------------------------------------------------------------- microscope
def expose(rng, grey):
    """What the microscope makes of a section: uneven light, slight blur, shot noise.  (H, W) float64 -> uint8."""
    light = 1 + LIGHT * smooth_noise(rng, grey.shape, 55)
    blurred = scipy.ndimage.gaussian_filter(grey * light, BLUR)
    electrons = rng.poisson(np.clip(blurred, 5, None) * ELECTRONS_PER_GREY_VALUE)
    detected = scipy.ndimage.gaussian_filter(electrons / ELECTRONS_PER_GREY_VALUE, DETECTOR_BLUR)
    return np.clip(np.rint(detected), 0, 255).astype(np.uint8)


def make_pair(seed, split, index, size):
    """One image and its label: uint8 (size, size) each, the label 255 inside a cell and 0 on membrane.

    split: 0 for training, 1 for test.  The same four numbers give the same pixels.
    """
    rng = np.random.default_rng([seed, split, index])
    shape = (size + 2 * MARGIN, size + 2 * MARGIN)
    owner = part_into_cells(rng, shape)
    depth, membrane = draw_membrane(rng, owner)
    mean, spread = CYTOPLASM
    cells = rng.normal(mean, spread, owner.max() + 1)
    cells[rng.random(cells.size) < DARK_CELLS] -= DARKER_BY
    cytoplasm = scipy.ndimage.gaussian_filter(cells[owner], 1.5) + 6 * smooth_noise(rng, shape, 12)
    grain = 9 * smooth_noise(rng, shape, 1.1) + 6 * smooth_noise(rng, shape, 2.5)
    grey = cytoplasm + grain - np.maximum(membrane, draw_organelles(rng, depth))
    inner = (slice(MARGIN, MARGIN + size),) * 2
    return expose(rng, grey)[inner], np.where(depth[inner] > 0, 255, 0).astype(np.uint8)
