"""Make a small sample data set: images that look like electron micrographs of neural tissue, with their labels.

    python MakeData.py sample                            # 12 training and 4 test pairs of 256 x 256 in ./data/sample
    python MakeData.py sample --Data_directory ./data/large --size 512 --train 30 --test 10

Layout: `{train,test}/{imgs,labels}/cell_01.png` ..., 8-bit grey.  Labels, as in ISBI 2012: 255
inside a cell, 0 on membrane.
"""
import re
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from Common import DataError, Parser, list_images, make_folder, number, read_image, run, write_png
from MakeTxt import SPLITS
from SampleData import make_pair


# ----------------------------------------------------------------------------------------------------------- the set
def sample_pairs(folder, counts):
    """Where the pairs of a set lie: yields (split, index, image_path, label_path), split and index from 0."""
    for split, (name, count) in enumerate(zip(SPLITS, counts)):
        for index in range(count):
            file = f"cell_{index + 1:02d}.png"
            yield split, index, folder / name / "imgs" / file, folder / name / "labels" / file


def check_folder(folder, counts, seed, size):
    """The pairs of which a file is still missing, as `sample_pairs` yields them.

    Raises DataError naming a file that would be overwritten by other pixels, or, where anything is missing, an image
    that belongs to some other set.  Augmented copies (`cell_01-0.png`) may stay.
    """
    missing, ours = [], set()
    for pair in sample_pairs(folder, counts):
        split, index, *paths = pair
        ours.update(paths)
        there = [path.exists() for path in paths]
        if not all(there):
            missing.append(pair)
        if any(there):
            for path, pixels in zip(paths, make_pair(seed, split, index, size)):
                if path.exists() and not np.array_equal(read_image(path), pixels):
                    raise DataError(f"{path}: another file of this name is there already and is left as it is; "
                                    "choose another --Data_directory")
    for parent in sorted({path.parent for path in ours}) if missing else ():
        for path in list_images(parent).values() if parent.is_dir() else ():
            original = path.with_name(re.sub(r"-\d+\.png$", ".png", path.name))
            if original not in ours:
                raise DataError(f"{path}: not of this sample set; choose another --Data_directory")
    return missing


def make_sample(options):
    """Write the set; files that are there with the same pixels are used as they are."""
    folder, counts = Path(options.Data_directory), (options.train, options.test)
    missing = check_folder(folder, counts, options.seed, options.size)
    for split, index, *paths in tqdm(missing, "drawing", unit="pair", delay=2, leave=False, disable=None):
        for path, pixels in zip(paths, make_pair(options.seed, split, index, options.size)):
            if not path.exists():
                make_folder(path.parent)
                write_png(path, pixels)
    print(f"{folder}: {options.train} training and {options.test} test pairs of {options.size} x {options.size}, "
          + (f"{len(missing)} of them new" if missing else "all there already: used as they are"))


# ----------------------------------------------------------------------------------------------------- the command line
def parse_arguments():
    """The command's flags; `options.make` is the function to call with them."""
    parser = Parser("Make a data set in the layout that the other commands read.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    sample = commands.add_parser("sample", help="draw pictures like electron micrographs, with their labels",
                                 description="Draw a sample set that looks like electron micrographs of neural tissue.")
    sample.add_argument("--Data_directory", type=Path, default="./data/sample", help="folder of the set")
    sample.add_argument("--seed", type=number(int, 0), default=0, help="same seed, same pictures")
    sample.add_argument("--size", type=number(int, 64, 1025), default=256, help="height and width in pixels")
    sample.add_argument("--train", type=number(int, 1, 1000), default=12, help="training pairs")
    sample.add_argument("--test", type=number(int, 1, 1000), default=4, help="test pairs")
    sample.set_defaults(make=make_sample)
    return parser.parse_args()


def main():
    """Read the flags and make the set."""
    options = parse_arguments()
    return options.make(options)


if __name__ == "__main__":
    sys.exit(run(main))
