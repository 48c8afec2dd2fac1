"""Score a folder of predictions against their labels.

    python Metrics.py --Prediction_directory results --Label_directory data/ISBC2012/test/labels

masks/pixel_scores.py has the scores of pixels, masks/object_scores.py those of objects (ISBI 2012's
and CoNSeP's).  A set's score is the mean of its images' scores, where nothing else is said.
"""
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np

from command.bars import progress_bar
from command.errors import DataError, run
from command.files import make_folder
from command.flags import Parser, csv_file, number, picture
from datasets.label_values import check_classes, classes_in, count_label_values
from datasets.labels import IGNORED
from images.reading import read_label
from masks.object_scores import at_best_threshold, instance_scores, isbi_scores
from masks.pixel_scores import (CHOOSING, DISTINCT, SCORES, average_defined, average_precision,
                                class_scores, confusion_matrix, mean_scores, precision_at_recalls,
                                precision_recall_curve, scores)
from masks.prediction_files import Answer, pair_predictions, probability_path, read_answers
from masks.score_tables import draw_precision_recall, print_classes, print_table, write_csv

METRICS = {  # what --metric chooses: {key of a score: title of its column}
    "pixel": {**{score.key: score.title for score in SCORES}, "mean_iou": "mean IoU"},
    "isbi": {"v_rand": "V_rand", "v_info": "V_info", "pixel_error": "pixel error"},
    "instances": {"aji": "AJI", "dq": "DQ", "sq": "SQ", "pq": "PQ", "binary_dice": "bin. Dice"},
    "curve": {"ap": "AP"}}


@dataclass(frozen=True)
class Task:
    """What to score, and how, as flags and files say it."""
    pairs: list                  # of PredictedPairs
    metrics: tuple               # keys of METRICS
    n_classes: int
    ignore_label: Optional[int]  # stored value of label pixels that are not scored
    with_probability: bool       # whether probabilities are read


# --------------------------------------------------------------------------------------- the scores
class Scorer:
    """Scores the answers of one kind (predictions, or a constant answer), image by image.

    rows: a dict of floats per image.  matrix: the confusion matrix, summed over the images.
    curves: the precision at RECALLS of each image and foreground class.  thresholds, set by
    `finish`: {score of ISBI 2012: the best threshold for the set}.
    """

    def __init__(self, metrics, n_classes):
        self.metrics, self.n_classes = metrics, n_classes
        self.rows, self.curves, self.isbi, self.thresholds = [], [], [], {}
        self.matrix = np.zeros((n_classes, n_classes), np.int64)

    def add(self, answer, truth):
        """Score one image.  answer, truth: Answers, the second made of the label."""
        row = {}
        if "pixel" in self.metrics:
            matrix = confusion_matrix(answer.classes, truth.classes, self.n_classes, IGNORED)
            row.update(scores(answer.classes, truth.classes, self.n_classes, IGNORED))
            row.update(class_columns(matrix))
            self.matrix += matrix
        if "isbi" in self.metrics:
            cell = answer.classes > 0
            if answer.probability is not None:
                cell = answer.probability[1:].sum(axis=0)
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
            curve = precision_recall_curve(probability[value][known], classes[known] == value)
            values.append(average_precision(curve.precision, curve.recall))
            if len(curve.recall):
                self.curves.append(precision_at_recalls(curve.precision, curve.recall))
        return average_defined(values)

    def finish(self):
        """Add ISBI 2012's scores, with one threshold for the whole set; return the rows' mean."""
        if self.isbi:
            best, self.thresholds = at_best_threshold(self.isbi)
            for row, found in zip(self.rows, best):
                row.update(found)
        return mean_scores(self.rows)


def class_columns(matrix):
    """`class_scores` as a dict of floats: mean_iou, iou_0, dice_0, iou_1, dice_1 ..."""
    found = class_scores(matrix)
    return {"mean_iou": found["mean_iou"],
            **{f"{score.key}_{value}": float(found[score.key][value])
               for value in range(len(matrix)) for score in DISTINCT}}


def constant_answer(value, shape, n_classes):
    """The Answer that gives one class to every pixel, as one object."""
    classes = np.full(shape, value, np.int32)
    probability = (np.arange(n_classes)[:, None, None] == classes).astype(np.float32)
    return Answer(classes, np.minimum(classes, 1), probability)


def score_pairs(task):
    """(Scorer of the predictions, [(name, scores)]: their mean and the constant answers')."""
    predictions, *constants = (Scorer(task.metrics, task.n_classes) for _ in range(3))
    if "pixel" in task.metrics:  # only these scores depend on which foreground class is answered
        constants += [Scorer(("pixel",), task.n_classes) for _ in range(2, task.n_classes)]
    for pair in progress_bar(task.pairs, "scoring", unit="image"):
        answer, truth = read_answers(pair, task.n_classes, task.ignore_label,
                                     "instances" in task.metrics, task.with_probability)
        predictions.add(answer, truth)
        for value, constant in enumerate(constants):
            constant.add(constant_answer(value, truth.classes.shape, task.n_classes), truth)
    mean, background, *foreground = (scorer.finish() for scorer in (predictions, *constants))
    best = max(foreground, key=lambda constant: constant.get(CHOOSING, 0))
    return predictions, [("mean", mean), ("all foreground", {**foreground[0], **best}),
                         ("all background", background)]


# --------------------------------------------------------------------------------------- the report
def report_scores(task, predictions, summary):
    """Print the tables of `score_pairs`; return the rows of the CSV, [(name, {key: score})]."""
    columns = {key: title for name in task.metrics for key, title in METRICS[name].items()}
    rows = [(pair.stem, row) for pair, row in zip(task.pairs, predictions.rows)] + summary
    print("Scores from 0 to 1; the higher the better, but for the pixel error.")
    print_table(columns, rows)
    if predictions.thresholds and task.with_probability:
        found = ", ".join(f"{columns[key]} {value:.1f}"
                          for key, value in predictions.thresholds.items())
        print(f"Best thresholds of the probabilities, one for all images: {found}")
        rows.append(("best threshold", predictions.thresholds))
    if "pixel" in task.metrics:
        together = class_columns(predictions.matrix)
        print_classes(together, summary[0][1], task.n_classes)
        rows.append(("all pixels together", together))
    return rows


# -------------------------------------------------------------------------------------- the command
def build_parser():
    parser = Parser("Score a folder of predictions, <stem>_pred.png or <stem>.*, against their "
                    "labels, <stem>.*. Beside a prediction may lie <stem>_prob.npy (probabilities) "
                    "and <stem>_instances.tif (numbered objects).")
    add = parser.add_argument
    add("--Prediction_directory", type=Path, default=Path("./results"),
        help="folder of the predictions")
    add("--Label_directory", type=Path, default=Path("./data/ISBC2012/test/labels"),
        help="folder of the labels")
    add("--metric", choices=("all", *METRICS), default="all",
        help="scores to compute; pixel: IoU, Dice, F1, mean IoU; isbi: V_rand, V_info, pixel error "
             "(ISBI 2012); instances: AJI, DQ, SQ, PQ, binary Dice (CoNSeP); curve: average "
             "precision, which needs probabilities")
    add("--n_classes", type=number(int, 2, 256),
        help="number of classes, background included (default: as the stored values show it)")
    add("--ignore_label", type=number(int, 0, 2 ** 16),
        help="label value to ignore, in all scores (default: none)")
    add("--csv", type=csv_file, default=Path("./results/scores.csv"), metavar="FILE.csv",
        help="table to write")
    add("--curve_picture", type=picture,
        help="picture of the precision/recall curves to write (default: none)")
    return parser


def choose_metrics(metric, missing, must_draw):
    """The keys of METRICS to compute.

    Without probabilities there is no curve, and a line on stderr says so.  Raises DataError where
    the flags ask for the curve.  metric: the flag; missing: the first file of probabilities that is
    not there, or None; must_draw: whether the flags ask for the curve's picture.
    """
    metrics = tuple(METRICS) if metric == "all" else (metric,)
    if "curve" not in metrics or missing is None:
        return metrics
    reason = (f"{missing}: no such file; "
              "write probabilities with `python Predict.py --probabilities`")
    if metric == "curve" or must_draw:
        raise DataError(reason)
    print(f"AP left out: {reason}", file=sys.stderr)
    return tuple(name for name in metrics if name != "curve")


def count_classes(pairs, ignore_label):
    """The number of classes in predictions and labels, as Main.py chooses it.

    Where it is not two, a line says so.  Files of 16 bits hold numbered objects, as for
    `read_instances`: two classes.
    """
    found = []
    for paths, ignored in (([pair.prediction for pair in pairs], None),
                           ([pair.label for pair in pairs], ignore_label)):
        folder, n_classes = paths[0].parent, classes_in([count_label_values(paths, ignored)])
        if n_classes > 2 and all(read_label(path).dtype == np.uint16 for path in paths):
            print(f"{folder}: 16 bits, taken for numbered objects of one class; "
                  "--n_classes N takes them for classes")
            n_classes = 2
        check_classes(n_classes, folder)
        found.append(n_classes)
    if max(found) > 2:
        print(f"{max(found)} classes, by the stored values; "
              "--n_classes 2 takes every value above 0 for foreground")
    return max(found)


def main():
    parser = build_parser()
    args = parser.parse_args()
    if args.curve_picture and args.metric not in ("all", "curve"):
        parser.error(f"--curve_picture needs --metric curve or all, not {args.metric}")
    pairs = pair_predictions(args.Prediction_directory, args.Label_directory)
    missing = next((path for path in map(probability_path, pairs) if not path.exists()), None)
    metrics = choose_metrics(args.metric, missing, args.curve_picture is not None)
    for path in filter(None, (args.csv, args.curve_picture)):
        make_folder(path.parent)
    task = Task(pairs, metrics, args.n_classes or count_classes(pairs, args.ignore_label),
                args.ignore_label, missing is None and ("isbi" in metrics or "curve" in metrics))
    predictions, summary = score_pairs(task)
    write_csv(args.csv, report_scores(task, predictions, summary))
    print(f"\nWrote {args.csv}")
    if args.curve_picture:
        if not predictions.curves:
            raise DataError(f"{args.Label_directory}: no label has foreground, "
                            "so that there is no curve to draw")
        (_, mean), (_, foreground), _ = summary
        draw_precision_recall(predictions.curves, mean["ap"], foreground["ap"], args.curve_picture)
        print(f"Wrote {args.curve_picture}")


if __name__ == "__main__":
    sys.exit(run(main))
