"""Several runs, one after the other: the folds of a data set, or one net with several seeds.

    python Main.py --fold all/5 ...
    python Main.py --seeds 0 1 2 ...

Each run is a process of its own, with the command line that a person would give for this run alone.
So each can be stopped, resumed and repeated by itself.
"""
import sys
from pathlib import Path
from typing import NamedTuple

from command.errors import DataError, say_line
from command.relay import SignalRelay
from datasets.lists import current_pairs
from datasets.splits import Fold, Originals, deal_folds
from masks.score_rows import rows_of
from nets.checkpoint import load
from runs.clock import RunClock
from runs.log import best_of, page_of
from runs.resume import BEST, LAST, are_scores
from runs.series_summary import FinishedRun, Summary
from runs.settings import OWN_FOLDERS, own_folder


class SeriesRun(NamedTuple):
    """One run of a series."""
    name: str     # where it writes in the folders of the series: "seed_1/fold_0"
    words: list   # of its command line
    has_begun: bool


# -------------------------------------------------------------------------------- what is to be run
def plan_runs(request, words):
    """The SeriesRuns of a series, in their order.

    request: the request.Request of the series.  words: of its command line.
    """
    run, fold = request.settings.run, request.settings.data.fold
    folds = [fold]
    if fold and fold.number is None:
        folds = [Fold(number, fold.count) for number in range(fold.count)]
    dropped = {"--fold", "--seeds", "--resume", "--force"}
    if request.seeds:
        dropped |= {f"--{name}" for name in OWN_FOLDERS}
    runs, kept = [], without_flags(words, dropped)
    for seed in request.seeds or [None]:
        place, of_seed = Path(), []
        if seed is not None:
            place, of_seed = Path(f"seed_{seed}"), ["--seed", str(seed)]
            for name in OWN_FOLDERS:
                of_seed += [f"--{name}", str(getattr(run, name) / place)]
        for each in folds:
            name = own_folder(place, each).as_posix()
            of_fold = ["--fold", str(each)] if each else []
            has_begun = (run.Checkpoint_directory / name / LAST).exists()
            runs.append(SeriesRun(name, [*kept, *of_seed, *of_fold], has_begun))
    return runs


def without_flags(words, flags):
    """The words of a command line without these flags and what belongs to them."""
    kept, is_dropped = [], False
    for word in words:
        if word.startswith("--"):
            is_dropped = word.partition("=")[0] in flags
        if not is_dropped:
            kept.append(word)
    return kept


def find_finished(runs, settings, read):
    """{name: FinishedRun} of the SeriesRuns that have finished.

    settings: of the series.  read: a function from a SeriesRun to the Request that resumes it.
    Raises DataError where a run lies in the way of one that is not to be resumed.
    """
    begun = [run for run in runs if run.has_begun]
    if begun and not settings.run.resume:
        folder = settings.run.Checkpoint_directory / begun[0].name
        raise DataError(f"{folder}: a run lies there already; add --resume to go on with these "
                        "runs, or give other folders")
    found = {run.name: finished_run(read(run)) for run in begun}
    return {name: each for name, each in found.items() if each}


def finished_run(request):
    """The FinishedRun that lies where a Request resumes one, or None where it has not finished."""
    settings, stored = request.settings, request.stored
    training, folders = settings.training, settings.folders
    clock = RunClock(training.budget, stored.progress)
    clock.go_on_after(stored.progress.seconds)
    best = best_of(stored.records, training.best_by)
    if not (best and stored.progress.ends_run(training.Total_epochs, clock.out_of_time)):
        return None
    _, header = load(folders.Checkpoint_directory / BEST)
    chosen = {row.key: best[row.key] for row in rows_of(best)}
    tested = header.get("test_scores") if settings.data.holds_back else chosen
    if header.get("epoch") != best["epoch"] or not are_scores(tested):
        return None  # the test images have not been read, or not since
    held = chosen if settings.data.holds_back else {}
    return FinishedRun(settings.data.fold, training.seed, best["epoch"], held, tested,
                       stored.baselines, stored.progress.seconds,
                       page_of(folders.Log_directory, stored.log))


def check_folds(settings):
    """Raise DataError where the images do not suffice for the folds of a series' Settings."""
    data = settings.data
    if data.fold:
        pairs = current_pairs(data.Data_directory, settings.run.Datatxt_directory)
        deal_folds(Originals(pairs.train, data.group), data.fold)


# --------------------------------------------------------------------------------------- running it
def run_series(request, argv, read):
    """Run what has not finished of a series; returns the exit code.

    request: the Request of the series.  argv: its script and the words of its command line.
    read: a function from the words of a command line to its Request.  Raises DataError as
    `find_finished` and `check_folds`, and where what lies there is no run to resume.
    """
    settings, (script, *words) = request.settings, argv
    again = ["--resume", "--force"] if settings.run.force else ["--resume"]
    runs = plan_runs(request, words)

    def read_again(run):
        return read([*run.words, *again])
    done = find_finished(runs, settings, read_again)
    check_folds(settings)
    summary = Summary(settings, [run.name for run in runs], request.seeds, words)
    if done:
        summary.write(done)
    code = 0
    with SignalRelay() as relay:
        for number, run in enumerate(runs, 1):
            title = f"Run {number} of {len(runs)}: {run.name}"
            if run.name in done:
                say_line(f"{title} has finished")
                continue
            say_line(title)
            more = again if run.has_begun else []
            code = relay.call([sys.executable, script, *run.words, *more])
            if code == 0:
                done[run.name] = finished_run(read_again(run))
                summary.write(done)
            if code or relay.received:
                break
    for line in summary.closing_lines(done):
        say_line(line)
    if len(done) == len(runs):
        return 0
    go_on = f"{summary.command} --resume"
    if relay.received or code == 130:
        say_line(f"To go on with all runs: {go_on}")
        return 130
    how = "was killed" if code < 0 else f"ended with exit code {code}"
    print(f"{Path(script).name}: error: the run {run.name} {how}; {go_on} goes on",
          file=sys.stderr)
    return max(code, 1)
