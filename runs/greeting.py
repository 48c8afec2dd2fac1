"""What a run says before its first step: what is trained on what, and what may not be meant."""
import re

from backend import ranks, start
from nets.catalogue import NET_FLAGS
from runs.log import describe_crops
from runs.recorder import describe_constant


def greet(recorder, request, prepared):
    """Say what is trained on what, and how.

    recorder: recorder.Recorder.  request: request.Request.  prepared: Main.Prepared.
    """
    say, choice, data = recorder.say, prepared.choice, prepared.data
    settings = choice.settings
    for remark in data.remarks:
        say(remark)
    if not data.statistics.is_scaled:
        say(describe_units(data.statistics))
    held = ""
    if data.holds_back:
        held = f"{len(data.choosing)} held back to choose the best model, "
    device = start.device_name()
    if ranks.size() > 1:
        device += f", {ranks.size()} ranks"
    pairs = f"{len(data.loader.dataset)} training pairs{describe_crops(data.loader)}"
    say(f"{settings.net.mode} on {settings.data.Data_directory}: {pairs}, {held}"
        f"{len(data.test_set)} test pairs; {device}")
    say(describe_training(settings, prepared.facts, recorder))
    if choice.reasons:
        flags = settings.flags()
        say("Chosen: " + ", ".join(f"--{flag} {flags[flag]} ({why})"
                                   for flag, why in choice.reasons.items()))
    say("Settings: " + "  ".join(f"{flag}={value}" for flag, value in settings.flags().items()))
    for line in doubts(settings, request.given, data):
        say(line)
    say(describe_constant(data.baselines))
    say("The first steps also compile the net's operators: 1 to 3 minutes, once for this "
        "environment.")


def describe_units(statistics):
    """Values that stay in units of their own, in one line."""
    mean, std = (", ".join(f"{value:.4g}" for value in values)
                 for values in (statistics.mean, statistics.std))
    return (f"Values of {statistics.dtype} stay in their own units: mean {mean}; "
            f"standard deviation {std}")


def describe_training(settings, facts, recorder):
    """The net's size, what it sees of an image, and its loss, in one line."""
    tile, geometry = settings.training.tile, settings.net.geometry
    sides = tile.sides(facts.height, facts.width)
    inputs = tile.input_sides(geometry, facts.height, facts.width)
    return (f"{recorder.count_parameters():,} trainable parameters; {sides[0]} x {sides[1]} px of "
            f"an image are an input of {inputs[0]} x {inputs[1]} px; loss: {recorder.loss_title}")


def doubts(settings, given, data):
    """Yield a line for what may not be meant: flags without effect, slides that may be split.

    given: the flags that stand on the command line.
    """
    idle = [flag for flag in NET_FLAGS if flag not in settings.net.row.flags]
    if "bilinear" in settings.net.row.flags and not settings.net.bilinear:
        idle.append("align_corners")
    if data.loader.maps is None:
        idle += ["Loss_w0", "Loss_sigma"]
    idle = [f"--{flag}" for flag in idle if flag in given]
    if idle:
        yield (f"Without effect for --mode {settings.net.mode} --loss {settings.training.loss}: "
               f"{', '.join(idle)}")
    # of copies too: slide_3-0 is one of slide_3
    slides = [re.sub(r"_\d+(-\d+)?$", "", image.stem) for image, _ in data.loader.dataset.pairs]
    some_alike = 1 < len(set(slides)) < len(slides)
    if data.holds_back and not settings.data.group and some_alike:
        flag = "--fold" if settings.data.fold else "--val_fraction"
        yield (f"Names look like parts of slides, which {flag} may have split: "
               "--group '(.*)_' keeps those of one name together")
