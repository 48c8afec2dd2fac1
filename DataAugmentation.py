r"""Write warped copies of training pairs beside the originals: elastic deformation, affine map.

    python DataAugmentation.py --img_path "./data/ISBC2012/train/imgs" \
        --mask_path "./data/ISBC2012/train/labels" \
        --sum 2 --alpha_lv 2.0 --sigma_lv 0.08 --alpha_affine_lv 0.08
    python DataAugmentation.py --preview warp.png      # draws one pair; writes nothing else
    python DataAugmentation.py --clean                 # removes every copy

`cell.png` gets the copies `cell-0.png`, `cell-1.png`, ... in both folders.  One field warps an
image and its label.  The image is interpolated with cubic splines.  The label takes the value of
the nearest pixel, so that no new class appears.

`augmentation_manifest.jsonl` in the image folder lists every copy with the SHA-256 of its content,
before the copy is written.  A file counts as a copy only while its content has a listed hash.  A
new run replaces the copies, `--clean` removes them, and neither changes any other file.

Elastic deformation: Simard, Steinkraus and Platt, "Best Practices for Convolutional Neural Networks
Applied to Visual Document Analysis", ICDAR 2003, section 2.  `--method grid`: Ronneberger, Fischer
and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
section 3.1.
"""
import contextlib
import io
import os
import shlex
import sys
import time
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import scipy  # its parts load when they are first used, which keeps --help fast

from command.bars import progress_bar
from command.errors import DataError, run
from command.files import make_folder
from command.flags import Parser, number, picture
from command.names import canonical
from command.processes import process_pool
from datasets.copies import Manifest
from datasets.pairs import check_folders_differ, check_pair
from images.figures import figure
from images.formats import list_images, png_bytes
from images.reading import read_image, read_label
from images.warp import gaussian_smooth, spline_weights, spread_vectors
from Transforms import GRID_SIGMA, GRID_SIZE


# ----------------------------------------------------------------------------- coordinate fields
def random_affine(shape, amount, rng):
    """A^-1 of a random affine map A, which moves three points by up to `amount` px on each axis.

    Returns float64 (3, 2): `[row, column, 1] @ matrix` is the place where the pixel comes from.
    """
    center, reach = np.array(shape) // 2, max(1, min(shape) // 3)
    points = center + reach * np.array([[1, 1], [-1, 1], [-1, -1]])
    moved = points + rng.uniform(-amount, amount, points.shape)
    return np.linalg.solve(np.column_stack([moved, np.ones(3)]), points)


def elastic_field(shape, alpha, sigma, alpha_affine, rng):
    """Where each pixel comes from: out(x) = in(A^-1(x + d(x))), Simard et al. 2003, section 2.

    d is uniform noise from -1 to 1 for each pixel and axis, smoothed by a Gaussian of `sigma` px,
    times `alpha` px.  A moves three points by up to `alpha_affine` px along each axis.
    Returns float64 (2, H, W): rows and columns, in px.
    """
    matrix = random_affine(shape, alpha_affine, rng)
    moves = gaussian_smooth(rng.uniform(-1, 1, (2, *shape)), sigma)
    rows, columns = np.indices(shape) + alpha * moves
    return np.stack([matrix[0, axis] * rows + matrix[1, axis] * columns + matrix[2, axis]
                     for axis in (0, 1)])


def grid_field(shape, rng, sigma=GRID_SIGMA):
    """Where each pixel comes from: out(x) = in(x + d(x)), Ronneberger et al. 2015, section 3.1.

    d has a 3 x 3 grid of Gaussian vectors (standard deviation `sigma` px) from corner to corner of
    the image.  Bicubic splines interpolate between them.
    Returns float64 (2, H, W): rows and columns, in px.
    """
    vectors = rng.normal(0, sigma, (2, GRID_SIZE, GRID_SIZE))
    rows, columns = (spline_weights(length, GRID_SIZE) for length in shape)
    return np.indices(shape) + spread_vectors(vectors, rows, columns)


# ---------------------------------------------------------------------------------------- warping
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


def make_field(shape, rng, method="elastic", alpha_lv=2.0, sigma_lv=0.08, alpha_affine_lv=0.08):
    """The field of a method, "elastic" or "grid": float64 (2, H, W).

    A level is a multiple of the image's width.  "grid" does not use the levels.
    """
    if method == "grid":
        return grid_field(shape, rng)
    width = shape[1]
    return elastic_field(shape, alpha_lv * width, sigma_lv * width, alpha_affine_lv * width, rng)


def augment_pair(image, label, rng, method="elastic", **levels):
    """(image, label), warped by one random field.

    image: (H, W) or (H, W, C); label: (H, W); method, levels: as for `make_field`.
    """
    field = make_field(label.shape, rng, method, **levels)
    return warp_image(image, field), warp_label(label, field)


def random_stream(seed, name, copy):
    """The random generator of one copy of the image of this name; each copy has its own."""
    return np.random.default_rng([seed, zlib.crc32(os.fsencode(name)), copy])


def make_copy(seed, options, task):
    """One copy of a pair: [bytes of the image's PNG file, bytes of the label's].

    task: ((image path, label path), number of the copy); options: of `augment_pair`.
    """
    (image_path, label_path), copy = task
    with contextlib.redirect_stderr(io.StringIO()):  # check_pair has already remarked on odd files
        image, label = read_image(image_path), read_label(label_path)
    rng = random_stream(seed, image_path.stem, copy)
    return [png_bytes(pixels) for pixels in augment_pair(image, label, rng, **options)]


# ------------------------------------------------------------------------------------ the command
def plan_copies(pairs, copies, own):
    """The paths of all copies: {(pair, number): (image path, label path)}.

    own: paths of earlier copies, which may be replaced.  Raises DataError where another file has
    the name of a copy.
    """
    taken = [list_images(path.parent, ignore=own) for path in pairs[0]]
    outputs = {}
    for pair in pairs:
        for k in range(copies):
            paths = tuple(path.with_name(f"{path.stem}-{k}.png") for path in pair)
            for path, stems in zip(paths, taken):
                blocker = stems.get(canonical(path.stem))
                if not blocker and os.path.lexists(path) and path not in own:
                    blocker = path
                if blocker:
                    raise DataError(f"{blocker}: in the way of a copy of {pair[0].name}, and not "
                                    "made here or changed since; move or rename it (and its "
                                    "partner)")
            outputs[pair, k] = paths
    return outputs


def write_copies(options, levels, manifest, own, pairs):
    """Check everything, then replace the copies of earlier runs, `own`, by those of this run."""
    outputs = plan_copies(pairs, options.sum, own)
    for folder in manifest.folders.values():
        make_folder(folder)  # the folder exists: this checks that it is writable
    start = time.perf_counter()
    with process_pool(min(options.workers, len(outputs))) as pool_map:
        for _ in pool_map(check_pair, pairs):
            pass
        for path in own.difference(*outputs.values()):
            path.unlink()
        results = pool_map(partial(make_copy, options.seed, levels), outputs)
        every = progress_bar(outputs.values(), unit="pair", leave=True)
        for paths, contents in zip(every, results):
            manifest.write_files(paths, contents)
    seconds = (time.perf_counter() - start) / len(outputs)
    print(f"{len(outputs)} pairs written to {options.img_path} and {options.mask_path}, "
          f"{seconds:.3f} s per pair; to remove them: python {shlex.join(sys.argv[:1])} "
          f"--img_path {shlex.quote(str(options.img_path))} "
          f"--mask_path {shlex.quote(str(options.mask_path))} --clean")


def remove_copies(manifest):
    """Remove the copies of earlier runs, then the manifest."""
    own = manifest.own_files()
    for path in own:
        path.unlink()
    manifest.path.unlink(missing_ok=True)
    print(f"{len(own)} augmented files removed from {manifest.folders['image']} "
          f"and {manifest.folders['label']}")
    for path in sorted(manifest.listed_files()):
        print(f"{path}: left, for it was changed since it was made here", file=sys.stderr)


def draw_warped(pair, path, seed, levels):
    """Draw a pair before and after: the image, the image under a grid, the label.

    pair: the paths of image and label.  "After" is copy number 0 with this seed and these levels.
    """
    image, label = read_image(pair[0]), read_label(pair[1])
    field = make_field(label.shape, random_stream(seed, pair[0].stem, 0), **levels)
    (height, width), white = label.shape, image.max()
    lines = np.arange(-16, 33) * max(height, width) / 16  # also in the mirrored border
    colours = "gray" if len(np.unique(label)) < 3 else "viridis"

    def draw_row(row, when, shown, classes, coordinates):
        for axis, what in zip(row, ("image", "image and grid", "label")):
            axis.set_title(f"{what}, {when}", fontsize=10)
            axis.set_axis_off()
        row[0].imshow(shown, cmap="gray", vmin=0, vmax=white)
        row[1].imshow(shown, cmap="gray", vmin=0, vmax=white)
        if min(height, width) > 1:  # an image of one line has no contours
            for places in coordinates:
                row[1].contour(places, levels=lines, colors="tab:orange", linewidths=0.9)
        row[2].imshow(classes, cmap=colours, interpolation="nearest",
                      vmin=label.min(), vmax=label.max())

    with figure(path, 2, 3, (9, 6.6 * height / width), dpi=150) as axes:
        draw_row(axes[0], "before", image, label, np.indices(label.shape))
        draw_row(axes[1], "after", warp_image(image, field), warp_label(label, field), field)


def build_parser():
    parser = Parser("Write warped copies of training pairs (elastic deformation and a random "
                    "affine map).")
    add = parser.add_argument
    add("--img_path", type=Path, default="./data/ISBC2012/train/imgs", help="folder of the images")
    add("--mask_path", type=Path, default="./data/ISBC2012/train/labels",
        help="folder of the labels")
    add("--sum", type=number(int, 1), default=2, help="number of copies of each pair")
    add("--alpha_lv", type=number(float, 0, 1000), default=2.0,
        help="strength of the elastic field, as a multiple of the image's width")
    add("--sigma_lv", type=number(float, 0, 10), default=0.08,
        help="smoothness of the elastic field: sigma of its Gaussian, as a multiple of the "
             "image's width")
    add("--alpha_affine_lv", type=number(float, 0, 1), default=0.08,
        help="how far each of the affine map's three points moves at most, as a multiple of the "
             "image's width")
    add("--method", choices=("elastic", "grid"), default="elastic",
        help="elastic: Simard et al.; grid: the U-Net paper's 3 x 3 grid, without the three levels")
    add("--seed", type=number(int, 0), default=0,
        help="the same seed gives the same files, with any --workers")
    add("--workers", type=number(int, 1, 62), default=min(4, os.cpu_count() or 1),
        help="number of processes")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--preview", type=picture,
                         help="only draw the first pair before and after, into this file")
    instead.add_argument("--clean", action="store_true",
                         help="only remove what earlier runs wrote")
    return parser


def main():
    """Read the flags, find the pairs, write (or preview, or remove) their copies."""
    options = build_parser().parse_args()
    levels = {name: getattr(options, name)
              for name in ("method", "alpha_lv", "sigma_lv", "alpha_affine_lv")}
    folders = options.img_path, options.mask_path
    check_folders_differ(*folders, "--img_path and --mask_path")
    manifest = Manifest(*folders)
    if options.clean:
        return remove_copies(manifest)
    own = manifest.own_files()
    pairs = manifest.original_pairs(own)
    if not options.preview:
        return write_copies(options, levels, manifest, own, pairs)
    place = make_folder(options.preview.parent)
    if any(place.samefile(folder) for folder in folders):
        raise DataError(f"{options.preview}: lies among the training pairs; "
                        "choose another folder")
    check_pair(pairs[0])
    draw_warped(pairs[0], options.preview, options.seed, levels)
    print(f"{options.preview}: {pairs[0][0].name} before and after")


if __name__ == "__main__":
    sys.exit(run(main))
