"""What a run leaves for people: log, CSV, curves, TensorBoard's events, pictures (and a page: HtmlReport.py).

    python Report.py --compare logs/Unet_2025-01-31_12-00-00 logs/U2netS_2025-01-31_14-30-00     draws runs side by side
"""
import sys
from pathlib import Path

from command.errors import run
from command.files import make_folder
from command.flags import Parser, picture
from runs.curves import draw_comparison
from runs.log import read_records


def main():
    parser = Parser("Draw runs side by side: training loss, IoU, Dice, and their best epochs.")
    parser.add_argument("--compare", type=Path, nargs="+", required=True, metavar="RUN",
                        help="each a CSV file of Main.py, or its path without .csv")
    parser.add_argument("--picture", type=picture, default=Path("logs/comparison.png"), help="picture to write")
    options = parser.parse_args()
    paths = [path if path.suffix == ".csv" else Path(f"{path}.csv") for path in options.compare]
    same = len({path.stem for path in paths}) < len(paths)
    names = [str(path if same else path.stem).replace("$", r"\$") for path in paths]  # to Matplotlib $ is mathematics
    runs = dict(zip(names, map(read_records, paths)))
    make_folder(options.picture.parent)
    draw_comparison(runs, options.picture)
    print(f"Wrote {options.picture}")


if __name__ == "__main__":
    sys.exit(run(main))
