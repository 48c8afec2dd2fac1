"""List the image/label pairs of a data set, one path per line, for training and testing.

    python MakeTxt.py --Data_directory ./data/ISBC2012 --Datatxt_directory ./DataTxt

Reads `<Data_directory>/{train,test}/{imgs,labels}`, writes `train_image.txt`, `train_label.txt`,
`test_image.txt` and `test_label.txt`.  Line k of an image list belongs to line k of its label
list.  Pairs are matched by file name: `a.tif` may have the label `a.png`, and a file without a
partner is an error.  Paths are written as they were given.  Relative paths are relative to the
folder in which the command was run.

The lists are replaced only when both splits are sound.  Nothing else is ever deleted.  Main.py
writes the lists anew too, but it trains on a list that you have edited.
"""
import sys
from pathlib import Path

from command.errors import run
from command.flags import Parser
from datasets.lists import make_lists


def build_parser():
    parser = Parser("List the image/label pairs of a data set, matched by file name.")
    parser.add_argument("--Data_directory", type=Path, default="./data/ISBC2012",
                        help="folder of the data set: {train,test}/{imgs,labels}")
    parser.add_argument("--Datatxt_directory", type=Path, default="./DataTxt",
                        help="folder of the four lists")
    return parser


def main():
    args = build_parser().parse_args()
    pairs = make_lists(args.Data_directory, args.Datatxt_directory)
    print(f"{len(pairs['train'])} training pairs, {len(pairs['test'])} test pairs listed in "
          f"{args.Datatxt_directory}")


if __name__ == "__main__":
    sys.exit(run(main))
