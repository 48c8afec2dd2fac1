"""The comparisons of Compare.py; each adds a section to its DistanceTable."""
import statistics
import time
from operator import attrgetter

from Differences import GRADIENTS, WANTED, differences, largest_ratio, relative_to_range, worst_of
from Experiment import in_double
from Sides import Sides

from command.bars import progress_bar
from MirrorPadding import Tiles

DOUBLE_TILE = Tiles(20)  # small crops: Jittor's convolutions are slow in double precision


def compare_parameters(table, sides):
    """Whether both nets have as many trainable parameters."""
    ours, twin = (sum(array.size for name, array in side.arrays().items()
                      if "running_" not in name) for side in (sides.ours, sides.twin))
    table.say(f"trainable parameters: Jittor {ours:,}, PyTorch {twin:,}")
    table.sound &= ours == twin


def compare_in_double(table, experiment, steps=3):
    """Whether both sides compute the same; in double precision rounding hides nothing."""
    batches = [in_double(batch) for batch in experiment.batches(steps, DOUBLE_TILE)]
    sides = Sides(*(side.to_double() for side in experiment.sides(0, nudge=True)))
    side = batches[0].inputs.shape[2]
    table.section(f"Double precision, {side} x {side} px", "last bit")
    found, expected = sides.ours.examine(batches[0]), sides.twin.examine(batches[0])
    for kind, worst in worst_of(differences(found, expected)).items():
        table.add(f"{kind} ({worst.name})", worst.value, wanted=WANTED[kind])
    losses = Sides(*([side.step(batch) for batch in batches] for side in sides))
    add_losses(table, losses)


def add_losses(table, losses):
    """Add how far the losses of a series of steps are apart; losses: a Sides of lists."""
    table.add(f"loss over {len(losses.twin)} Adam steps, relative",
              largest_ratio(losses.ours, losses.twin), largest_ratio(losses.other, losses.twin),
              1e-3)


def compare_batches(table, experiment, batches):
    """How far rounding takes both sides apart, in single precision on real batches.

    Beside it stands how far PyTorch is from its own double precision, or from weights that are
    changed in the last bit.  Where rounding switches a ReLU or a maximum, a gradient changes by
    far more than a last bit.  This happens in some batches only, so the gradients are judged in
    the batch where it shows least.
    """
    ours, twin, near = experiment.sides(0, nudge=True)
    exact = experiment.sides(0).other.to_double()
    apart, own = [], []
    for batch in progress_bar(batches, "batches"):
        expected = twin.examine(batch)
        alone = [worst_of(differences(expected, other))
                 for other in (near.examine(batch), exact.examine(in_double(batch)))]
        apart.append(worst_of(differences(ours.examine(batch), expected)))
        own.append({kind: max((each[kind] for each in alone), key=attrgetter("value"))
                    for kind in WANTED})
    table.section(f"Single precision, the worst of {len(batches)} batches", "itself")
    for kind in WANTED:
        add_extreme(table, kind, max, apart, own, judged=kind != GRADIENTS)
        if kind == GRADIENTS:
            add_extreme(table, kind, min, apart, own, note=", in the best batch")


def add_extreme(table, kind, pick, apart, own, note="", judged=True):
    """Add the largest (pick: max) or the smallest (pick: min) number of a kind over all batches.

    apart, own: of each batch {kind: Worst}, between the sides and of PyTorch alone.
    """
    worst, alone = (pick((each[kind] for each in measured), key=attrgetter("value"))
                    for measured in (apart, own))
    table.add(f"{kind}{note} ({worst.name})", worst.value, alone.value, WANTED[kind],
              judged=judged)


def compare_steps(table, experiment, batches):
    """Compare Adam steps on the same batches, made in turns, and their speed.

    Afterwards each side's trained weights are loaded into the other.  Returns the losses of all
    steps, a Sides of lists.
    """
    sides = experiment.sides(0, nudge=True)
    losses, seconds = Sides([], [], []), Sides([], [], [])
    for batch in progress_bar(batches, "steps"):
        for side, its_losses, its_seconds in zip(sides, losses, seconds):
            started = time.perf_counter()
            its_losses.append(side.step(batch))
            its_seconds.append(time.perf_counter() - started)
    table.section("Training", "last bit")
    add_losses(table, losses)
    inputs = batches[0].inputs
    for source, other in ((sides.ours, sides.twin), (sides.twin, sides.ours)):
        expected, kept = source.logits(inputs), other.arrays()
        other.load(source.arrays())
        table.add(f"{source.name}'s trained weights in {other.name}: logits, of their range",
                  relative_to_range(other.logits(inputs), expected), wanted=1e-4)
        other.load(kept)
    if experiment.args.device == "cpu":  # the twin's
        ours, twin, _ = (1 / statistics.median(each[len(each) // 4:]) for each in seconds)
        table.say(f"  images/s, steps in turns: Jittor {ours:.3f}, PyTorch {twin:.3f}; "
                  f"ratio {ours / twin:.2f}")
    return losses
