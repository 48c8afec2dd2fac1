"""Make a data set in the layout that the other commands read, `{train,test}/{imgs,labels}`, and check one.

    python MakeData.py sample                            # drawn: 12 training and 4 test pairs in ./data/sample
    python MakeData.py isbi --Source_directory ~/Downloads/ISBI-2012-challenge
    python MakeData.py consep --Source_directory ~/Downloads/CoNSeP --labels typed
    python MakeData.py folders --images ~/scans --labels ~/masks --Data_directory ./data/mine
    python MakeData.py check --Data_directory ./data/mine

A file that is there with equal pixels is used as it is, one with others is never replaced: running a command again does
no harm.  The last line says what to run next.
"""
import shlex
import sys
from functools import partial
from pathlib import Path

from command.errors import run
from command.flags import Parser, expression, number

# The modules that do the work are imported by the functions that use them: --help and a mistake are answered at once.


def say_next(folder, n_channels, n_classes, ignore_label=None):
    """Print the command that comes next."""
    print(f"next: python Main.py --Data_directory {shlex.quote(str(folder))} --n_channels {n_channels} --n_classes {n_classes}"
          + (f" --ignore_label {ignore_label}" if ignore_label is not None else ""))


def make_sample(options):
    """Draw the sample set."""
    from datasets.drawn import make_pair
    from datasets.entries import Entry, write_set
    from datasets.pairs import SPLITS
    folder, entries = options.Data_directory, []
    for split, (name, count) in enumerate(zip(SPLITS, (options.train, options.test))):
        for index in range(count):
            paths = tuple(folder / name / kind / f"cell_{index + 1:02d}.png" for kind in ("imgs", "labels"))
            entries.append(Entry(paths, partial(make_pair, options.seed, split, index, options.size)))
    write_set(entries, f"{folder}: {options.train} training and {options.test} test pairs of "
                       f"{options.size} x {options.size}")
    say_next(folder, n_channels=1, n_classes=2)


def make_isbi(options):
    """Lay out ISBI 2012's stacks."""
    from datasets.imports import import_isbi
    import_isbi(options.Source_directory, options.Data_directory, options.test_slices, options.hold_out, options.seed)
    say_next(options.Data_directory, n_channels=1, n_classes=2)


def make_consep(options):
    """Lay out CoNSeP's images and MATLAB files."""
    from datasets.imports import CONSEP_MERGED, import_consep
    import_consep(options.Source_directory, options.Data_directory, options.layout, options.labels)
    classes = CONSEP_MERGED.max() + 1 if options.labels == "typed" else 2
    say_next(options.Data_directory, n_channels=3, n_classes=classes)


def make_folders(options):
    """Lay out two folders of images and labels, and check what came out."""
    from datasets.imports import import_folders
    import_folders(options.images, options.labels, options.Data_directory, options.test_fraction, options.seed,
                   options.group)
    return report(options.Data_directory, options.ignore_label)


def check(options):
    """Check a data set; returns the exit code."""
    return report(options.Data_directory, options.ignore_label, options.n_channels, options.n_classes)


def report(folder, ignore_label, *numbers):
    """Print what CheckData says of a set (of these numbers of channels and classes); returns the exit code."""
    from datasets.check import check_set
    sound, n_channels, n_classes = check_set(folder, *numbers, ignore_label=ignore_label)
    if sound:
        say_next(folder, n_channels, n_classes, ignore_label)
    else:
        print(f"next: mend these, then python MakeData.py check --Data_directory {shlex.quote(str(folder))}")
    return 0 if sound else 1


# ----------------------------------------------------------------------------------------------------- the command line
def parse_arguments():
    """The command's flags; `options.make` is the function to call with them."""
    parser = Parser("Make a data set in the layout that the other commands read, or check one.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name, make, summary, data_directory):
        """A subcommand; its function for adding flags."""
        child = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        child.set_defaults(make=make)
        child.add_argument("--Data_directory", type=Path, default=data_directory, required=data_directory is None,
                           help="folder of the set: {train,test}/{imgs,labels}")
        return child.add_argument

    ignored = {"type": number(int, 0, 2 ** 16), "help": "as for Main.py: pixels of this value in a label count nowhere"}

    add = command("sample", make_sample, "draw pictures like electron micrographs, with their labels", "./data/sample")
    add("--seed", type=number(int, 0), default=0, help="same seed, same pictures")
    add("--size", type=number(int, 64, 1025), default=256, help="height and width in pixels")
    add("--train", type=number(int, 1, 1000), default=12, help="training pairs")
    add("--test", type=number(int, 1, 1000), default=4, help="test pairs")

    add = command("isbi", make_isbi, "lay out ISBI 2012's stacks, some sections held out to test", "./data/ISBI2012")
    add("--Source_directory", type=Path, required=True,
        help="folder of train-volume.tif, train-labels.tif and test-volume.tif")
    add("--test_slices", type=number(int, 1, 30), default=6, help="training sections held out for testing")
    add("--hold_out", choices=("last", "spread"), default="last",
        help="which: the last ones, or one of each of equally long runs of sections")
    add("--seed", type=number(int, 0), default=0, help="same seed, same sections (--hold_out spread)")

    add = command("consep", make_consep, "lay out CoNSeP: images, labels, instance maps", "./data/CoNSeP")
    add("--Source_directory", type=Path, required=True, help="folder of Train and Test, each with Images and Labels")
    add("--layout", choices=("tiles", "whole"), default="tiles",
        help="tiles: four of 512 x 512 px at each image's corners; whole: the images as they are")
    add("--labels", choices=("binary", "typed"), default="binary",
        help="binary: 0 and 255 (nuclei); typed: 0, 1 other, 2 inflammatory, 3 epithelial, 4 spindle-shaped")

    add = command("folders", make_folders, "lay out images and labels of your own, paired by name", None)
    add("--images", type=Path, required=True, help="folder of the images")
    add("--labels", type=Path, required=True, help="folder of the labels; their names may share an ending (_mask, say)")
    add("--test_fraction", type=number(float, 0, 1, include_low=False), default=0.2, help="share of the test split")
    add("--seed", type=number(int, 0), default=0, help="same seed, same split")
    add("--group", type=expression, metavar="REGEX",
        help="its first group names the slide (the patient) in an image's name; slides are not split")
    add("--ignore_label", **ignored)

    add = command("check", check, "say that a data set is sound, or name each file that is not", None)
    add("--n_channels", type=int, choices=(1, 3), help="as for Main.py (default: as most images)")
    add("--n_classes", type=number(int, 2, 256), help="as for Main.py (default: as the labels have it)")
    add("--ignore_label", **ignored)
    return parser.parse_args()


def main():
    """Read the flags and do what they say."""
    options = parse_arguments()
    return options.make(options)


if __name__ == "__main__":
    sys.exit(run(main))
