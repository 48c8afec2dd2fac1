"""How fast training data of large images loads, beside that of small files with the same crops.

    python benchmarks/LargeImages.py        # some minutes, 1.5 GB of disk for as long

Ten RGB images of 4,000 x 4,000 px are pieces of 512 x 512 px side by side.  The small files are
these pieces.  The loader alone works, as in a training of `--protocol fast`, in crops of 256 px.
Contenders run in turns, each in a process of its own that waits while the others load.  Prints
crops a second, medians over the turns, and the largest memory of each process.
"""
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import Root  # noqa: F401 - puts the repository's root on the path

from backend import start
from command.errors import run
from command.files import make_folder
from command.flags import Parser, number
from DataLoader import SegmentationSet, TrainingLoader
from datasets.decoded import DecodedFiles, decoding_tasks
from datasets.drawn import make_pair
from datasets.pairs import pair_by_name
from datasets.survey import Survey, statistics_of
from images.formats import write_png
from MirrorPadding import Tiles
from nets.geometry import UNET_PADDED
from Transforms import augmentation

PIECE, PIECES = 512, 40    # px, and how many are drawn
LARGE_SIDE, LARGE_IMAGES = 4000, 10
BATCH_OF_CROPS = 4


class Contender(NamedTuple):
    """A way to load crops."""
    folder: str   # of its images
    limit: float  # GB of decoded files
    steps: int    # batches a turn


WAYS = {"files of 512 x 512 px": Contender("small", 0, 25),
        "4,000 x 4,000 px, kept decoded": Contender("large", 20, 25),
        "4,000 x 4,000 px, decoded for each crop": Contender("large", 0, 2)}


# --------------------------------------------------------------------------------------- the images
def write_images(folder):
    """Write the pairs of both sets: folder/{small,large}/{imgs,labels}."""
    rng, pieces = np.random.default_rng(0), []
    for k in range(PIECES):
        grey, label = make_pair(0, 0, k, PIECE)
        noise = rng.normal(0, 6, (*grey.shape, 3))
        colour = (grey[..., None] * [0.7, 0.9, 0.8] + [70, 10, 50] + noise).clip(0, 255)
        pieces.append((colour.astype(np.uint8), label))
        write_pair(folder / "small", k, pieces[-1])
    across = -(-LARGE_SIDE // PIECE)
    for k in range(LARGE_IMAGES):
        chosen = rng.integers(0, PIECES, (across, across))
        write_pair(folder / "large", k, [
            np.vstack([np.hstack([pieces[one][kind] for one in row])
                       for row in chosen])[:LARGE_SIDE, :LARGE_SIDE] for kind in (0, 1)])


def write_pair(folder, number_of_pair, pair):
    for kind, pixels in zip(("imgs", "labels"), pair):
        write_png(make_folder(folder / kind) / f"{number_of_pair}.png",
                  np.ascontiguousarray(pixels))


# -------------------------------------------------------------------------------------- the loading
def make_dataset(folder, contender):
    """The SegmentationSet of a contender, and its DecodedFiles with all that it keeps."""
    place = folder / contender.folder
    pairs, survey = pair_by_name(place / "imgs", place / "labels"), Survey(place)
    survey.read(pairs)
    decoded = DecodedFiles(folder / f"decoded {contender.folder} {contender.limit}",
                           contender.limit)
    decoded.keep(decoding_tasks(survey, pairs, 3))
    images = [image for image, _ in pairs]
    return SegmentationSet(pairs, 3, 2, statistics_of(survey, images, 3), decoded=decoded)


def load_when_asked(folder, contender, connection):
    """A process: answer each message with the seconds of a turn, None with the peak memory."""
    dataset, epochs = make_dataset(folder, contender), iter(range(10 ** 6))
    crops = round(LARGE_SIDE ** 2 / 256 ** 2) if contender.folder == "large" else 4
    loader = TrainingLoader(dataset, UNET_PADDED, Tiles(256), BATCH_OF_CROPS,
                            augment=augmentation("light"), crops=[crops] * len(dataset))
    connection.send(None)
    while connection.recv():
        batches, started = loader.epoch(next(epochs)), time.perf_counter()
        for _ in range(contender.steps):
            next(batches)
        connection.send(time.perf_counter() - started)
        batches.close()
    with open("/proc/self/status", encoding="ascii") as file:
        peak = next(line for line in file if line.startswith("VmHWM:"))
    connection.send(1024 * int(peak.split()[1]))


def measure(folder, repeats):
    """Crops a second of all turns, and peak bytes: {way: ([crops/s], bytes)}."""
    context, rates = multiprocessing.get_context("spawn"), {way: [] for way in WAYS}
    connections = {}
    for way, contender in WAYS.items():
        # a process of its own surveys and decodes: this is no part of what loading takes
        first = context.Process(target=make_dataset, args=(folder, contender))
        first.start()
        first.join()
        connections[way], theirs = context.Pipe()
        process = context.Process(target=load_when_asked, args=(folder, contender, theirs),
                                  daemon=True)
        process.start()
        connections[way].recv()
    for turn in range(repeats + 1):
        for way, contender in WAYS.items():
            connections[way].send(True)
            rate = BATCH_OF_CROPS * contender.steps / connections[way].recv()
            print(f"turn {turn} of {repeats}, {way}: {rate:.1f} crops/s", file=sys.stderr,
                  flush=True)
            if turn:
                rates[way].append(rate)
    found = {}
    for way, connection in connections.items():
        connection.send(False)
        found[way] = rates[way], connection.recv()
    return found


def build_parser():
    parser = Parser("Measure how fast training data of large images loads.")
    parser.add_argument("--repeats", type=number(int, 1), default=7,
                        help="turns that count, after one that does not")
    return parser


def main():
    args = build_parser().parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        write_images(Path(scratch))
        found = measure(Path(scratch), args.repeats)
    print(f"{start.device_name()}; medians of {args.repeats} turns")
    print(f"{'Crops of 256 px from':<42}{'crops/s':>9}{'min ... max':>18}{'peak, MB':>10}")
    for way, (rates, peak) in found.items():
        spread = f"{min(rates):.1f} ... {max(rates):.1f}"
        print(f"{way:<42}{statistics.median(rates):>9.1f}{spread:>18}{peak / 1e6:>10,.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
