"""Draw runs side by side.

    python Report.py --compare logs/Unet_2025-01-31_12-00-00 logs/U2netS_2025-01-31_14-30-00

Writes one picture: training loss and scores of every run, and a table of the best epochs.
"""
import sys
from pathlib import Path

from command.errors import run
from command.files import make_folder
from command.flags import Parser, picture
from runs.curves import draw_comparison
from runs.log import read_records


def build_parser():
    parser = Parser("Draw runs side by side: training loss, IoU, Dice, and their best epochs.")
    parser.add_argument("--compare", type=Path, nargs="+", required=True, metavar="RUN",
                        help="runs of Main.py: the paths of their CSV files, with or without .csv")
    parser.add_argument("--picture", type=picture, default=Path("logs/comparison.png"),
                        help="picture to write")
    return parser


def name_runs(paths):
    """The runs' names in the picture: file names, or whole paths where two file names are equal."""
    stems = [path.stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else map(str, paths)
    return [name.replace("$", r"\$") for name in names]  # Matplotlib: $ begins a formula


def main():
    args = build_parser().parse_args()
    paths = [path if path.suffix == ".csv" else Path(f"{path}.csv") for path in args.compare]
    runs = dict(zip(name_runs(paths), map(read_records, paths)))
    make_folder(args.picture.parent)
    draw_comparison(runs, args.picture)
    print(f"Wrote {args.picture}")


if __name__ == "__main__":
    sys.exit(run(main))
