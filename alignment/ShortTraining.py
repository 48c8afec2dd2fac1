"""The short training of Compare.py: a few epochs of either side, tested on whole images."""
import itertools
from operator import itemgetter

import numpy as np

from command.bars import progress_bar
from masks.pixel_scores import CHOOSING, DISTINCT, mean_scores, scores
from masks.score_rows import format_scores
from MirrorPadding import overlap_tile


def train_shortly(side, loader, test_set, geometry, epochs, name):
    """Train a side, and test it after each epoch: a list of records.

    A record has the keys epoch, train_loss and those of `scores`, as a run's CSV has.
    """
    records = []
    for epoch in range(epochs):
        batches = progress_bar(loader.epoch(epoch), f"{name}, epoch {epoch}", len(loader))
        losses = [side.step(batch) for batch in batches]
        results = []
        for index in range(len(test_set)):
            logits = overlap_tile(test_set.image(index), side.logits, geometry)
            results.append(scores(logits.argmax(axis=0), test_set.label(index)))
        records.append({"epoch": epoch, "train_loss": float(np.mean(losses)),
                        **mean_scores(results)})
    return records


def train_all_shortly(experiment):
    """The short training of ours, of the twin, and of the twin with two other seeds.

    Returns {name: records}, ours first.
    """
    sides, *others = (experiment.sides(seed) for seed in range(3))

    def records_of(name, side, seed):
        return train_shortly(side, experiment.loader(seed), experiment.test_set,
                             experiment.geometry, experiment.args.epochs, name)

    histories = {side.name: records_of(side.name, side, 0) for side in (sides.ours, sides.twin)}
    for seed, other in enumerate(others, start=1):
        name = f"PyTorch, seed {seed}"
        histories[name] = records_of(name, other.twin, seed)
    return histories


def best_record(records):
    """The first record with the highest score that chooses."""
    return max(records, key=itemgetter(CHOOSING))


def compare_training(table, histories, baseline):
    """Compare the scores after each epoch, beside PyTorch's own under other seeds."""
    epochs = len(next(iter(histories.values())))
    table.section(f"Short training, {epochs} epochs, tested on whole images", "other seeds")
    for score in DISTINCT:
        ours, *twins = (np.array([record[score.key] for record in records])
                        for records in histories.values())
        own = max(np.abs(one - other).max() for one, other in itertools.combinations(twins, 2))
        table.add(f"{score.title} after each epoch: largest difference",
                  np.abs(ours - twins[0]).max(), own, times=1)
    for name, records in histories.items():
        best = best_record(records)
        table.say(f"  best epoch of {name + ':':<24} loss {best['train_loss']:.4f}  "
                  f"{format_scores(best)}")
    table.say("  all foreground would score:                          "
              f"{format_scores(baseline, DISTINCT)}")
