"""How well predictions match their labels, and the command that scores a folder of them.

    python Metrics.py --Prediction_directory results --Label_directory data/ISBC2012/test/labels

    scores(prediction, label)["iou"]                   of one image
    mean_scores([scores(...), ...])                    of a set of images
    constant_baselines(labels)                         what a constant answer would score: print it beside every result
    class_scores(confusion_matrix(...))                IoU and Dice of each class
    average_precision(precision, recall)               from precision_recall_curve(probability, label)

These are scores of pixels; the command also computes those of objects (InstanceMetrics.py: ISBI 2012's and CoNSeP's).
Where nothing else is said, a score of a set is the mean of its images' scores.
"""
import csv
import math
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from command.errors import DataError, run
from command.files import atomic_write, make_folder
from command.flags import Parser, csv_file, number, picture
from datasets.labels import IGNORED
from images.figures import use_agg
from images.formats import read_label
from masks.object_scores import at_best_threshold, instance_scores, isbi_scores
from masks.pixel_scores import (RECALLS, _mean, average_precision, class_scores, confusion_matrix,
                                mean_scores, precision_at_recalls, precision_recall_curve, scores)
from masks.prediction_files import Answer, find_pairs, probability_file, read_pair

METRICS = {  # what --metric chooses: the columns of the table
    "pixel": {"iou": "IoU", "dice": "Dice", "f1": "F1", "mean_iou": "mean IoU"},
    "isbi": {"v_rand": "V_rand", "v_info": "V_info", "pixel_error": "pixel error"},
    "instances": {"aji": "AJI", "dq": "DQ", "sq": "SQ", "pq": "PQ", "binary_dice": "bin. Dice"},
    "curve": {"ap": "AP"}}


# ------------------------------------------------------------------------------------------------------------- a folder
class Scorer:
    """Scores one kind of answer image by image.

    rows: a dict of floats per image; matrix: the confusion matrix summed over the images; curves: the precision at
    RECALLS of each image and foreground class; thresholds: {ISBI 2012's score: the set's best}, after `finish`.
    """

    def __init__(self, metrics, n_classes):
        self.metrics, self.n_classes = metrics, n_classes
        self.rows, self.curves, self.isbi, self.thresholds = [], [], [], {}
        self.matrix = np.zeros((n_classes, n_classes), np.int64)

    def add(self, answer, truth):
        row = {}
        if "pixel" in self.metrics:
            matrix = confusion_matrix(answer.classes, truth.classes, self.n_classes, IGNORED)
            row.update(scores(answer.classes, truth.classes, self.n_classes, IGNORED), **class_columns(matrix))
            self.matrix += matrix
        if "isbi" in self.metrics:
            cell = answer.classes > 0 if answer.probability is None else answer.probability[1:].sum(axis=0)
            self.isbi.append(isbi_scores(cell, truth.classes, IGNORED))
        if "instances" in self.metrics:
            row.update(instance_scores(answer.instances, truth.instances, IGNORED))
        if "curve" in self.metrics:
            row["ap"] = self.add_curves(answer.probability, truth.classes)
        self.rows.append(row)

    def add_curves(self, probability, classes):
        """One image's AP: the mean over the foreground classes in its label."""
        known, values = classes != IGNORED, []
        for value in range(1, self.n_classes):
            precision, recall, _ = precision_recall_curve(probability[value][known], classes[known] == value)
            values.append(average_precision(precision, recall))
            if len(recall):
                self.curves.append(precision_at_recalls(precision, recall))
        return _mean(values)

    def finish(self):
        """Add ISBI 2012's scores, whose threshold the whole set chooses; returns the mean of the rows."""
        if self.isbi:
            best, self.thresholds = at_best_threshold(self.isbi)
            for row, found in zip(self.rows, best):
                row.update(found)
        return mean_scores(self.rows)


def constant_answer(value, shape, n_classes):
    """The Answer that gives one class to every pixel, as one object."""
    classes = np.full(shape, value, np.int32)
    return Answer(classes, np.minimum(classes, 1), (np.arange(n_classes)[:, None, None] == classes).astype(np.float32))


def class_columns(matrix):
    """`class_scores` as a dict of floats: mean_iou, iou_0, dice_0, iou_1, dice_1 ..."""
    found = class_scores(matrix)
    return {"mean_iou": found["mean_iou"], **{f"{key}_{value}": float(found[key][value])
                                              for value in range(len(matrix)) for key in ("iou", "dice")}}


def count_classes(pairs, ignore_label):
    """The number of classes in predictions and labels, as Main.py chooses it; says so where it is not two.

    Files of 16 bits hold numbered objects, of two classes, as `read_instances` takes them.
    """
    from datasets.label_values import check_classes, classes_in, count_label_values
    _, *folders = zip(*pairs)
    found = []
    for paths, ignored in zip(folders, (None, ignore_label)):
        n_classes = classes_in(count_label_values(paths, ignored))
        if n_classes > 2 and all(read_label(path).dtype == np.uint16 for path in paths):
            print(f"{paths[0].parent}: 16 bits, taken for numbered objects of one class; --n_classes N takes them for classes")
            n_classes = 2
        check_classes(n_classes, paths[0].parent)
        found.append(n_classes)
    if max(found) > 2:
        print(f"{max(found)} classes, by the stored values; --n_classes 2 takes every value above 0 for foreground")
    return max(found)


def choose_metrics(pairs, args):
    """(names of the metrics to compute, whether to read probabilities); tells where the curve has to be left out."""
    metrics = list(METRICS) if args.metric == "all" else [args.metric]
    files = (probability_file(prediction, stem) for stem, prediction, _ in pairs)
    missing = next((path for path in files if not path.exists()), None)
    if missing and "curve" in metrics:
        reason = f"{missing}: no such file; write probabilities with `python Predict.py --probabilities`"
        if args.metric == "curve" or args.curve_picture:
            raise DataError(reason)
        print(f"AP left out: {reason}", file=sys.stderr)
        metrics.remove("curve")
    return metrics, not missing and ("isbi" in metrics or "curve" in metrics)


def score_pairs(pairs, args):
    """(Scorer of the predictions, [(name of a row, its scores)]: their mean and the constant answers')."""
    predictions, *constants = (Scorer(args.metrics, args.n_classes) for _ in range(3))
    if "pixel" in args.metrics:  # only there it matters which foreground class is answered
        constants += [Scorer(["pixel"], args.n_classes) for _ in range(2, args.n_classes)]
    for pair in tqdm(pairs, "scoring", unit="image", leave=False, disable=None):
        answer, truth = read_pair(*pair, args.n_classes, args.ignore_label, "instances" in args.metrics,
                                  args.with_probability)
        predictions.add(answer, truth)
        for value, constant in enumerate(constants):
            constant.add(constant_answer(value, truth.classes.shape, args.n_classes), truth)
    mean, background, *foreground = (scorer.finish() for scorer in (predictions, *constants))
    best = max(foreground, key=lambda constant: constant.get("iou", 0))
    return predictions, [("mean", mean), ("all foreground", {**foreground[0], **best}), ("all background", background)]


# -------------------------------------------------------------------------------------------------------------- results
def print_table(columns, rows):
    """columns: {key: title}; rows: [(name, {key: score})].  A score that is undefined or not there is a dash."""
    lines = [["", *columns.values()]]
    for name, row in rows:
        values = (row.get(key, math.nan) for key in columns)
        lines.append([name, *("-" if math.isnan(value) else f"{value:.4f}" for value in values)])
    first, *widths = (max(map(len, column)) for column in zip(*lines))
    for name, *cells in lines:
        print(name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, widths)), sep="  ")


def write_csv(path, rows):
    """rows: [(name, {key: score})], the first has all keys.  A score that is undefined or not there stays empty."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8",
                                               errors="surrogateescape") as file:
        writer = csv.DictWriter(file, ["image", *rows[0][1]], restval="")
        writer.writeheader()
        for name, row in rows:
            writer.writerow({"image": name, **{key: score for key, score in row.items() if not math.isnan(score)}})


def class_rows(together, mean, n_classes):
    """The rows of the table of classes, from two dicts of `class_columns`."""
    rows = []
    for value in range(n_classes):
        iou, dice = f"iou_{value}", f"dice_{value}"
        rows.append((f"class {value}", {"iou": together[iou], "dice": together[dice],
                                        "mean iou": mean[iou], "mean dice": mean[dice]}))
    return rows + [("all classes", {"iou": together["mean_iou"], "mean iou": mean["mean_iou"]})]


def report(pairs, predictions, summary, args):
    """Print the tables, write the CSV and the picture."""
    columns = {key: title for name in args.metrics for key, title in METRICS[name].items()}
    rows = [(stem, row) for (stem, _, _), row in zip(pairs, predictions.rows)] + summary
    print("Scores from 0 to 1; the higher the better, but for the pixel error.")
    print_table(columns, rows)
    if predictions.thresholds and args.with_probability:
        print("Best thresholds of the probabilities, one for all images: "
              + ", ".join(f"{columns[key]} {threshold:.1f}" for key, threshold in predictions.thresholds.items()))
        rows.append(("best threshold", predictions.thresholds))
    if "pixel" in args.metrics:
        together, mean = class_columns(predictions.matrix), summary[0][1]
        print("\nPer class, of the pixels of all images together; beside it the mean of the images' own scores.")
        print_table({"iou": "IoU", "dice": "Dice", "mean iou": "IoU, mean", "mean dice": "Dice, mean"},
                    class_rows(together, mean, args.n_classes))
        rows.append(("all pixels together", together))
    write_csv(args.csv, rows)
    print(f"\nWrote {args.csv}")
    if args.curve_picture and not predictions.curves:
        raise DataError(f"{args.Label_directory}: no label has foreground, so that there is no curve to draw")
    if args.curve_picture:
        draw_curves(predictions.curves, summary[0][1]["ap"], summary[1][1]["ap"], args.curve_picture)
        print(f"Wrote {args.curve_picture}")


def draw_curves(curves, ap, constant_ap, path):
    """Write the picture of several images' `precision_at_recalls`, with their mean.

    ap, constant_ap: mean average precision of the predictions, and of a constant probability, which becomes a line.
    """
    pyplot = use_agg()
    figure, axis = pyplot.subplots(figsize=(5.5, 5), layout="constrained")
    axis.plot(RECALLS, np.transpose(curves), color="#1f77b4", alpha=min(1, 3 / len(curves)), linewidth=0.8)
    axis.plot(RECALLS, np.mean(curves, axis=0), color="#1f77b4", linewidth=2, label=f"mean, AP {ap:.4f}")
    axis.axhline(constant_ap, color="black", linestyle=":", label=f"a constant, AP {constant_ap:.4f}")
    axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall (0 to 1)", ylabel="precision (0 to 1)")
    axis.grid(alpha=0.3)
    axis.legend(loc="lower left")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)


def parse_arguments():
    parser = Parser("Score a folder of predictions, <stem>_pred.png or <stem>.*, against their labels, <stem>.*. Beside "
                    "a prediction may lie <stem>_prob.npy (probabilities) and <stem>_instances.tif (numbered objects).")
    add = parser.add_argument
    add("--Prediction_directory", type=Path, default=Path("./results"), help="folder of the predictions")
    add("--Label_directory", type=Path, default=Path("./data/ISBC2012/test/labels"), help="folder of the labels")
    add("--metric", choices=("all", *METRICS), default="all",
        help="pixel: IoU, Dice, F1; isbi: V_rand, V_info, pixel error (ISBI 2012); instances: AJI, DQ, SQ, PQ, binary "
             "Dice (CoNSeP); curve: average precision, which needs probabilities")
    add("--n_classes", type=number(int, 2, 256), help="classes, background among them (default: by the stored values)")
    add("--ignore_label", type=number(int, 0, 2 ** 16), help="pixels of this value in a label count nowhere")
    add("--csv", type=csv_file, default=Path("./results/scores.csv"), metavar="FILE.csv", help="table to write")
    add("--curve_picture", type=picture, help="picture of the precision/recall curves to write")
    args = parser.parse_args()
    if args.curve_picture and args.metric not in ("all", "curve"):
        parser.error(f"--curve_picture needs --metric curve or all, not {args.metric}")
    return args


def main():
    args = parse_arguments()
    pairs = find_pairs(args.Prediction_directory, args.Label_directory)
    args.metrics, args.with_probability = choose_metrics(pairs, args)
    for path in filter(None, (args.csv, args.curve_picture)):
        make_folder(path.parent)
    if args.n_classes is None:
        args.n_classes = count_classes(pairs, args.ignore_label)
    report(pairs, *score_pairs(pairs, args), args)


if __name__ == "__main__":
    sys.exit(run(main))
