"""Score a folder of predictions against their labels.

    python Metrics.py --Prediction_directory results --Label_directory data/ISBC2012/test/labels

masks/pixel_scores.py has the scores of pixels, masks/object_scores.py those of objects (ISBI 2012's
and CoNSeP's).  A set's score is the mean of its images' scores, where nothing else is said.
"""
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from command.bars import progress_bar
from command.errors import DataError, run
from command.files import make_folder
from command.flags import Parser, csv_file, number, picture
from datasets.label_values import KINDS_OF_LABELS, refuse_label_kind
from datasets.labels import IGNORED
from masks.object_scores import at_best_threshold, instance_scores, isbi_scores
from masks.pixel_scores import (CHOOSING, DISTINCT, SCORES, average_defined, average_precision,
                                class_scores, confusion_matrix, mean_scores, precision_at_recalls,
                                precision_recall_curve, scores)
from masks.prediction_files import (Answer, Wanted, pair_predictions, probability_path,
                                    read_answers)
from masks.prediction_kinds import decide_kinds
from masks.score_tables import draw_precision_recall, print_classes, print_table, write_csv

METRICS = {  # what --metric chooses: {key of a score: title of its column}
    "pixel": {**{score.key: score.title for score in SCORES}, "mean_iou": "mean IoU"},
    "isbi": {"v_rand": "V_rand", "v_info": "V_info", "pixel_error": "pixel error"},
    "instances": {"aji": "AJI", "dq": "DQ", "sq": "SQ", "pq": "PQ", "binary_dice": "bin. Dice"},
    "curve": {"ap": "AP"}}


@dataclass(frozen=True)
class Task:
    """What to score, and how, as flags and files say it."""
    pairs: list      # of PredictedPairs
    metrics: tuple   # keys of METRICS
    wanted: Wanted   # what is read


# --------------------------------------------------------------------------------------- the scores
class Scorer:
    """Scores the answers of one kind (predictions, or a constant answer), image by image.

    rows: a dict of floats per image.  names: of the images.  matrix: the confusion matrix, summed
    over the images.  curves: the precision at RECALLS of each image and foreground class.
    thresholds, set by `finish`: {score of ISBI 2012: the best threshold for the set}.
    """

    def __init__(self, metrics, n_classes):
        self.metrics, self.n_classes = metrics, n_classes
        self.names, self.rows, self.curves, self.isbi, self.thresholds = [], [], [], [], {}
        self.matrix = np.zeros((n_classes, n_classes), np.int64)

    def add(self, name, answer, truth):
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
        self.names.append(name)
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
    n_classes = task.wanted.n_classes
    predictions, *constants = (Scorer(task.metrics, n_classes) for _ in range(3))
    if "pixel" in task.metrics:  # only these scores depend on which foreground class is answered
        constants += [Scorer(("pixel",), n_classes) for _ in range(2, n_classes)]
    for pair in progress_bar(task.pairs, "scoring", unit="image"):
        for name, answer, truth in read_answers(pair, task.wanted):
            predictions.add(name, answer, truth)
            for value, constant in enumerate(constants):
                answer = constant_answer(value, truth.classes.shape, n_classes)
                constant.add(name, answer, truth)
    mean, background, *foreground = (scorer.finish() for scorer in (predictions, *constants))
    best = max(foreground, key=lambda constant: constant.get(CHOOSING, 0))
    return predictions, [("mean", mean), ("all foreground", {**foreground[0], **best}),
                         ("all background", background)]


# --------------------------------------------------------------------------------------- the report
def report_scores(task, predictions, summary):
    """Print the tables of `score_pairs`; return the rows of the CSV, [(name, {key: score})]."""
    columns = {key: title for name in task.metrics for key, title in METRICS[name].items()}
    rows = [*zip(predictions.names, predictions.rows), *summary]
    print("Scores from 0 to 1; the higher the better, but for the pixel error.")
    print_table(columns, rows)
    if predictions.thresholds and task.wanted.probability:
        found = ", ".join(f"{columns[key]} {value:.1f}"
                          for key, value in predictions.thresholds.items())
        print(f"Best thresholds of the probabilities, one for all images: {found}")
        rows.append(("best threshold", predictions.thresholds))
    if "pixel" in task.metrics:
        together = class_columns(predictions.matrix)
        print_classes(together, summary[0][1], task.wanted.n_classes)
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
        help="folder of the labels; their names may share an ending, such as _mask")
    add("--metric", choices=("all", *METRICS), default="all",
        help="scores to compute; pixel: IoU, Dice, F1, mean IoU; isbi: V_rand, V_info, pixel error "
             "(ISBI 2012); instances: AJI, DQ, SQ, PQ, binary Dice (CoNSeP); curve: average "
             "precision, which needs probabilities")
    add("--n_classes", type=number(int, 2, 256),
        help="number of classes, background included (default: as the stored values show it)")
    add("--label_kind", choices=KINDS_OF_LABELS,
        help="what the values of labels and predictions are, as for Main.py; objects: IoU of the "
             "foreground, AJI and PQ of the numbers (default: as the values show it; files of 16 "
             "bits and more hold numbers)")
    add("--ignore_label", type=number(int, 0, 2 ** 32),
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


def main():
    parser = build_parser()
    args = parser.parse_args()
    if args.curve_picture and args.metric not in ("all", "curve"):
        parser.error(f"--curve_picture needs --metric curve or all, not {args.metric}")
    refuse_label_kind(args.label_kind, args.n_classes, parser)
    pairs = pair_predictions(args.Prediction_directory, args.Label_directory)
    missing = next((path for path in map(probability_path, pairs) if not path.exists()), None)
    metrics = choose_metrics(args.metric, missing, args.curve_picture is not None)
    for path in filter(None, (args.csv, args.curve_picture)):
        make_folder(path.parent)
    kinds = decide_kinds(pairs, args.n_classes, args.label_kind, args.ignore_label)
    with_probability = missing is None and ("isbi" in metrics or "curve" in metrics)
    task = Task(pairs, metrics, Wanted(kinds.n_classes, args.ignore_label, "instances" in metrics,
                                       with_probability, kinds.predictions_are_numbers,
                                       kinds.labels_are_numbers))
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
