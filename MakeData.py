r"""Make a data set in the layout that the other commands read, or check one.

    python MakeData.py sample         # draws 12 training and 4 test pairs into ./data/sample
    python MakeData.py isbi --Source_directory ~/Downloads/ISBI-2012-challenge
    python MakeData.py consep --Source_directory ~/Downloads/CoNSeP --labels typed
    python MakeData.py folders --images ~/scans --labels ~/masks --Data_directory ./data/mine
    python MakeData.py annotations --images ~/scans --annotations ~/shapes --from labelme \
        --label_kind classes --Data_directory ./data/mine
    python MakeData.py check --Data_directory ./data/mine

The layout is `{train,test}/{imgs,labels}`.  A file that is already there is never replaced.  Where
its pixels are the same, it is used.  Where they differ, the command ends with an error.  So running
a command again does no harm.  The last line says what to run next.
"""
import contextlib
import shlex
import sys
from functools import partial
from pathlib import Path

from command.errors import DataError, run
from command.files import make_folder
from command.flags import Parser, csv_file, expression, number
from images.channels import MOST_CHANNELS

# Each function imports the modules that it needs, so that --help and mistakes are answered fast.


def flags_of_set(folder, n_channels, n_classes, ignore_label, label_kind):
    """The flags of a set, as Main.py and `MakeData.py check` take them; None: not given."""
    flags = {"Data_directory": folder, "n_channels": n_channels, "n_classes": n_classes,
             "label_kind": label_kind, "ignore_label": ignore_label}
    return " ".join(f"--{flag} {shlex.quote(str(value))}" for flag, value in flags.items()
                    if value is not None)


def print_next(folder, n_channels, n_classes, ignore_label=None, label_kind=None):
    """Print the command that trains on the new set."""
    flags = flags_of_set(folder, n_channels, n_classes, ignore_label, label_kind)
    print(f"next: python Main.py {flags} --protocol fast")


def make_sample(options):
    """Draw the sample set."""
    from datasets.drawn import make_pair
    from datasets.entries import Entry, write_set
    from datasets.pairs import SPLITS
    folder, size, entries = options.Data_directory, options.size, []
    for split, count in enumerate((options.train, options.test)):
        for index in range(count):
            paths = tuple(folder / SPLITS[split] / kind / f"cell_{index + 1:02d}.png"
                          for kind in ("imgs", "labels"))
            entries.append(Entry(paths, partial(make_pair, options.seed, split, index, size)))
    write_set(entries, f"{folder}: {options.train} training and {options.test} test pairs of "
                       f"{size} x {size}")
    print_next(folder, n_channels=1, n_classes=2)


def make_isbi(options):
    """Lay out ISBI 2012's stacks."""
    from datasets.isbi import import_isbi
    import_isbi(options.Source_directory, options.Data_directory, options.test_slices,
                options.hold_out, options.seed)
    print_next(options.Data_directory, n_channels=1, n_classes=2)


def make_consep(options):
    """Lay out CoNSeP's images and MATLAB files."""
    from datasets.consep import CONSEP_MERGED, import_consep
    import_consep(options.Source_directory, options.Data_directory, options.layout, options.labels)
    classes = CONSEP_MERGED.max() + 1 if options.labels == "typed" else 2
    label_kind = "objects" if options.labels == "objects" else None
    print_next(options.Data_directory, 3, classes, label_kind=label_kind)


def make_folders(options):
    """Lay out two folders of images and labels, and check the new set; returns the exit code."""
    if options.colours and options.split_pages:
        build_parser().error("--colours and --split_pages do not go together; split the pages of "
                             "the stacks first")
    from datasets.folders import FoldersWish, import_folders, propose_colours
    from datasets.splits import SplitRule
    if options.colours and not options.colours.exists():
        propose_colours(options.images, options.labels, options.colours)
        again = shlex.join(["python", "MakeData.py", *sys.argv[1:]])
        print(f"next: name the classes in {options.colours}, then {again}")
        return 1
    rule = SplitRule(options.test_fraction, options.seed, options.group)
    classes = import_folders(options.images, options.labels, options.Data_directory, rule,
                             FoldersWish(options.colours, options.split_pages,
                                         options.n_channels))
    classes = classes and max(2, 1 + max(classes - {options.ignore_label}))
    return report_set(options, options.n_channels, classes)


def make_annotations(options):
    """Draw labels from annotation files, and check the new set; returns the exit code."""
    from datasets.annotations import import_annotations
    from datasets.splits import SplitRule
    rule = SplitRule(options.test_fraction, options.seed, options.group)
    n_classes = import_annotations(options.images, options.annotations, options.format,
                                   options.Data_directory, rule, options.label_kind,
                                   options.n_channels)
    label_kind = "objects" if options.label_kind == "objects" else None
    return report_set(options, options.n_channels, n_classes, label_kind)


def check_folder(options):
    """Check a data set; returns the exit code."""
    from datasets.label_values import refuse_label_kind
    refuse_label_kind(options.label_kind, options.n_classes, build_parser())
    return report_set(options, options.n_channels, options.n_classes, options.label_kind)


def report_set(options, n_channels=None, n_classes=None, label_kind=None):
    """Print whether a data set is sound and what to run next; returns the exit code, 0 or 1.

    n_channels, n_classes, label_kind: what it should have; None: what its files have.  The facts
    about the files are kept for Main.py.
    """
    from datasets.check import check_set
    from datasets.survey import Survey
    folder, ignore_label = options.Data_directory, options.ignore_label
    with contextlib.suppress(DataError):  # a set can be checked where nothing can be kept
        make_folder(options.Datatxt_directory)
    survey = Survey(options.Datatxt_directory, n_channels)
    verdict = check_set(folder, survey, n_channels, n_classes, ignore_label, label_kind)
    if not verdict.is_sound:
        flags = flags_of_set(folder, n_channels, n_classes, ignore_label, label_kind)
        print(f"next: mend these, then python MakeData.py check {flags}")
        return 1
    if verdict.label_kind == "objects":
        label_kind = "objects"
    print_next(folder, verdict.n_channels, verdict.n_classes, ignore_label, label_kind)
    return 0


# ------------------------------------------------------------------------------- the command line
def build_parser():
    """The command's flags.  `options.make` is the function that makes what `options` ask for."""
    parser = Parser("Make a data set in the layout that the other commands read, or check one.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add_command(name, make, add_flags, summary, data_directory=None):
        """Add a subcommand that calls `make`."""
        description = f"{summary[0].upper()}{summary[1:]}."
        child = commands.add_parser(name, help=summary, description=description)
        child.set_defaults(make=make)
        child.add_argument("--Data_directory", type=Path, default=data_directory,
                           required=data_directory is None,
                           help="folder of the set: {train,test}/{imgs,labels}")
        add_flags(child.add_argument)

    add_command("sample", make_sample, add_sample_flags,
                "draw pictures like electron micrographs, with their labels", "./data/sample")
    add_command("isbi", make_isbi, add_isbi_flags,
                "lay out ISBI 2012's stacks, with some sections held out for testing",
                "./data/ISBI2012")
    add_command("consep", make_consep, add_consep_flags,
                "lay out CoNSeP: images, labels, instance maps", "./data/CoNSeP")
    add_command("folders", make_folders, add_folders_flags,
                "lay out images and labels of your own, paired by name")
    add_command("annotations", make_annotations, add_annotations_flags,
                "lay out images of your own, and draw their labels from annotation files")
    add_command("check", check_folder, add_check_flags,
                "check a data set: say that it is sound, or name each file that is not")
    return parser


def add_sample_flags(add):
    """The flags of `sample`: what the pictures are like."""
    add("--seed", type=number(int, 0), default=0, help="the same seed gives the same pictures")
    add("--size", type=number(int, 64, 1025), default=256, help="height and width, in pixels")
    add("--train", type=number(int, 1, 1000), default=12, help="number of training pairs")
    add("--test", type=number(int, 1, 1000), default=4, help="number of test pairs")


def add_isbi_flags(add):
    """The flags of `isbi`: where the stacks are, and what is held out."""
    add("--Source_directory", type=Path, required=True,
        help="folder of train-volume.tif, train-labels.tif and test-volume.tif")
    add("--test_slices", type=number(int, 1, 30), default=6,
        help="number of training sections to hold out for testing")
    add("--hold_out", choices=("last", "spread"), default="last",
        help="last: hold out the last sections; spread: hold out one section from each of equally "
             "long parts of the stack")
    add("--seed", type=number(int, 0), default=0,
        help="for --hold_out spread: the same seed gives the same sections")


def add_consep_flags(add):
    """The flags of `consep`: where CoNSeP is, and how to lay it out."""
    add("--Source_directory", type=Path, required=True,
        help="folder of Train and Test, each with Images and Labels")
    add("--layout", choices=("tiles", "whole"), default="tiles",
        help="tiles: four tiles of 512 x 512 px, one at each corner of an image; "
             "whole: the images as they are")
    add("--labels", choices=("binary", "typed", "objects"), default="binary",
        help="binary: 0 and 255 (nuclei); typed: 0, 1 other, 2 inflammatory, 3 epithelial, "
             "4 spindle-shaped; objects: 0 and the nuclei's numbers")


def add_folders_flags(add):
    """The flags of `folders`: where the files are, and how to split them."""
    add("--images", type=Path, required=True, help="folder of the images")
    add("--labels", type=Path, required=True,
        help="folder of the labels; their names may share an ending, such as _mask")
    add("--colours", type=csv_file, metavar="FILE.csv",
        help="table of the classes that the labels' colours stand for: columns name, r, g, b, the "
             "background first; a column class lets several colours be one class; where there is "
             "no such file, the command writes one for you to edit, and no set")
    add("--split_pages", action="store_true",
        help="make an image of each page of a stack: <name>_z003_t001 by the axes of the file, or "
             "<name>_p003; the pages of a stack stay in one split unless --group says otherwise")
    add_flags_of_split(add)
    add_flags_of_facts(add)


def add_annotations_flags(add):
    """The flags of `annotations`: where the files are, and what their shapes mean."""
    add("--images", type=Path, required=True, help="folder of the images")
    add("--annotations", type=Path, required=True,
        help="coco: the file; else the folder with one file for each image, of the same name")
    add("--from", dest="format", required=True,
        choices=("labelme", "coco", "geojson", "imagej_roi"),
        help="labelme: .json files; coco: one .json file for all images; geojson: .geojson or "
             ".json files, as QuPath writes them; imagej_roi: .zip or .roi files")
    add("--label_kind", choices=("objects", "classes"), required=True,
        help="objects: number the shapes of an image 1 ... N; classes: number the names of the "
             "shapes, in alphabetical order")
    add_flags_of_split(add)
    add_flags_of_facts(add)


def add_flags_of_split(add):
    """The flags for how to split the pairs."""
    add("--test_fraction", type=number(float, 0, 1, include_low=False), default=0.2,
        help="share of the pairs that become test pairs")
    add("--seed", type=number(int, 0), default=0, help="the same seed gives the same split")
    add("--group", type=expression, metavar="REGEX",
        help="regular expression; its first group matches the name of the slide (the patient) in "
             "an image's name; the images of a slide stay together (default: each image for "
             "itself)")


def add_check_flags(add):
    """The flags of `check`: what the set should be like."""
    add("--n_classes", type=number(int, 2, 256),
        help="number of classes that the labels should have (default: as the labels show it)")
    add("--label_kind", choices=("classes", "objects"),
        help="what the labels' values are, as for Main.py (default: as the labels show it)")
    add_flags_of_facts(add)


def add_flags_of_facts(add):
    """The flags for what is to be known of a set's files, and where it is kept."""
    add("--n_channels", type=number(int, 1, MOST_CHANNELS + 1),
        help="channels that the images should have, up to 16 (default: those that most of them "
             "have); a TIFF without axes that has as many pages is one image (not for 1 and 3)")
    add("--ignore_label", type=number(int, 0, 2 ** 32),
        help="label value to ignore, in the loss and in all scores (default: none)")
    add("--Datatxt_directory", type=Path, default="./DataTxt",
        help="folder for facts about the files, so that Main.py need not read them")


def main():
    """Read the flags and do what they say; returns the exit code."""
    options = build_parser().parse_args()
    return options.make(options)


if __name__ == "__main__":
    sys.exit(run(main))
