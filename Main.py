"""Train and test a net on a data set.

    python DataAugmentation.py --img_path data/ISBC2012/train/imgs \
        --mask_path data/ISBC2012/train/labels
    python Main.py --Data_directory data/ISBC2012                      # the paper's way
    python Main.py --Data_directory data/mine --protocol fast          # the modern recipe
    python Main.py --resume             # go on with the run whose last_model is in checkpoints/
    python Main.py --fold all/5 ...     # five runs; each holds back another fifth of the images
    python Main.py --seeds 0 1 2 ...    # three runs that differ in the seed
    mpirun -np 8 python Main.py --Batch_size 8 ...   # on 8 devices (docs/scaling.md)

Writes logs/ (text, CSV, curves, a page with all of it, TensorBoard's events), checkpoints/
(best_model, last_model), results/ (predictions of the best model), weight_maps/ and DataTxt/.
Epochs count from 0.  Flags are checked before Jittor is imported, so a mistake in them is answered
in a second.
"""
import sys
from functools import partial
from typing import NamedTuple

from backend import ranks, start
from backend.machine import free_memory, gpu_memory, is_out_of_memory
from backend.precision import element_type, find_precisions
from command.errors import DataError
from command.files import lock_folder, make_folder
from command.hardware import count_cores
from command.last_words import last_words
from DataLoader import Data, SegmentationSet, TrainingLoader
from datasets.decoded import WORTH_KEEPING, DecodedFiles, decoding_tasks
from datasets.label_kinds import decide_kind, describe_border, object_facts
from datasets.label_rules import judge_labels, read_splits, warn_of
from datasets.lists import current_pairs
from datasets.mixtures import check_mixtures, describe_mixture
from datasets.splits import split_training
from datasets.survey import (SetFacts, Survey, digest_of_set, facts_of_set, size_of,
                             statistics_of)
from Loss import LOSSES
from masks.score_rows import baselines_of_set
from MirrorPadding import Reference, Tiles, Whole, tiling
from nets.beginning import begin_with
from nets.checkpoint import assign
from runs.choices import Choice, Device, check_memory, complete, crops_of
from runs.flags import make_parser
from runs.greeting import greet
from runs.guard import TrainingFailed
from runs.recorder import Listener, Recorder
from runs.request import read_request
from runs.resume import LAST, OUTPUT_FOLDERS
from runs.series import run_series
from Transforms import RECIPES, augmentation
from WeightMap import WeightMaps

SMALLER_STEP = "try --tile 128, a smaller --base_channels or --Batch_size 1"

# ------------------------------------------------------------------------------ the hyperparameters
# The values of flags that are not given.  They are the U-Net paper's, as the earlier system (the
# reference) understood it, with whole images as tiles.  None: chosen from data and machine, see
# runs/choices.py.
DEFAULTS = {"base_channels": 64, "padding": 0, "bilinear": True, "tile": Whole(),
            "dropout_probs": [0.2, 0.3, 0.4, 0.5], "Batch_size": 1, "loss": "weighted_ce",
            "optimizer": "adam", "Learning_rate": 0.001, "lr_schedule": "constant", "warm_up": 0.0,
            "clip_norm": 0.0, "ema": 0.0, "augment": "none", "Total_epochs": 200, "Val_epochs": 50}
# What --protocol changes.
PROTOCOLS = {
    # the earlier system exactly: quadrants, each mirrored at its own edges
    "reference": {"tile": Reference(), "Learning_rate": 1e-5},
    # Ronneberger et al. 2015: section 2 (up-convolutions), 3 (momentum 0.99), 3.1 (deformation)
    "paper": {"bilinear": False, "optimizer": "sgd", "augment": "paper", "Total_epochs": None,
              "Val_epochs": None},
    # the modern recipe, which docs/ablation.md measures
    "fast": {"base_channels": None, "padding": 1, "tile": None, "dropout_probs": [0.0] * 4,
             "Batch_size": None, "loss": None, "optimizer": "adamw", "lr_schedule": "cosine",
             "augment": "light", "Total_epochs": None, "Val_epochs": None},
}
CROP = Tiles(256)  # px of the output: the crops of --protocol fast


# --------------------------------------------------------------------------------------- the flags
def build_parser():
    return make_parser(DEFAULTS, PROTOCOLS, tiling, LOSSES, RECIPES)


# ---------------------------------------------------------------------------------------- the data
class Prepared(NamedTuple):
    """What the first rank prepares for all ranks."""
    facts: SetFacts
    choice: Choice
    data: Data


def prepare(request, is_gpu):
    """Survey the data, choose the settings that are left open, load the data: Prepared.

    Raises DataError for data that is not sound, for a new run whose step does not fit into the
    memory, and for a run that is resumed with other data.
    """
    settings = request.settings
    folders, data = settings.run, settings.data
    pairs = current_pairs(data.Data_directory, folders.Datatxt_directory)
    split = split_training(pairs.train, data, settings.training.seed)
    survey = Survey(folders.Datatxt_directory, data.n_channels)
    survey.read([*pairs.train, *pairs.test])
    images = [image for image, _ in (*pairs.train, *pairs.test)]
    check_mixtures(survey, images, data.n_channels)
    labels = [label for _, label in (*pairs.train, *pairs.test)]
    kind = decide_kind(survey, labels, data.label_kind, data.n_classes, data.ignore_label)
    facts = facts_of_set(survey, *split, pairs.test, data.ignore_label, kind)
    splits = read_splits(survey, (pairs.train, pairs.test), data.ignore_label)
    judgement = judge_labels(splits, data.n_classes, kind.kind)
    if judgement.refusal:
        raise DataError(judgement.refusal)
    device = Device(is_gpu, gpu_memory() if is_gpu else free_memory(), find_precisions(is_gpu),
                    count_cores())
    choice = complete(settings, facts, device, CROP)
    digest = digest_of_set(survey, [*split.train, *split.held, *pairs.test])
    digest = f"{len(split.train)} {len(split.held)} {digest}"
    if not request.stored:
        check_memory(choice.settings, facts, device)
    elif request.stored.data != digest and not folders.force:
        raise DataError(f"{data.Data_directory}: not the data that this run began with (other "
                        "files, or changed ones); bring those back, start without --resume, or "
                        "add --force")
    pairs = pairs._replace(remarks=[*pairs.remarks, *warn_of(judgement.problems)])
    return Prepared(facts, choice, load_data(choice.settings, survey, split, pairs, digest))


def load_data(settings, survey, split, pairs, digest):
    """Compute statistics, weight maps and baselines: the Data of a run."""
    data, training = settings.data, settings.training
    images = [image for image, _ in (*split.train, *split.held, *pairs.test)]
    for image in images:
        facts = survey.image(image)
        training.tile.check_size(image, facts.height, facts.width)
    mixture = describe_mixture(survey, images, data.n_channels)
    remarks = [*pairs.remarks, mixture] if mixture else list(pairs.remarks)
    statistics = statistics_of(survey, [image for image, _ in split.train], data.n_channels)
    decoded = DecodedFiles(settings.run.Datatxt_directory / "decoded", settings.run.cache_size)
    train_set, held_set, test_set = (
        SegmentationSet(each, data.n_channels, data.n_classes, statistics, data.ignore_label,
                        data.label_kind, decoded)
        for each in (split.train, split.held, pairs.test))
    train_set.check_labels(survey)
    held_set.check_labels(survey)
    test_set.check_labels(survey, to_score_against=True)
    if train_set.are_objects:
        labels = [label for _, label in split.train]
        remarks.append(describe_border(object_facts(survey, labels, data.ignore_label)))
    loader, kept = build_loader(settings, survey, train_set)
    choosing = held_set if split.held else test_set
    baselines, test_baselines = (baselines_of_set(each, survey) for each in (choosing, test_set))
    return Data(loader, choosing, test_set, baselines, test_baselines, statistics, digest,
                [*remarks, *kept])


def build_loader(settings, survey, dataset):
    """(the TrainingLoader of a run, lines about decoded files), once maps and files are on disk."""
    data, training, maps = settings.data, settings.training, None
    if LOSSES[training.loss].wants_weight_map:
        maps = WeightMaps(settings.run.Weight_directory, training.Loss_w0, training.Loss_sigma)
    sizes = [size_of(survey.image(image)) for image, _ in dataset.pairs]
    large = [pair for pair, size in zip(dataset.pairs, sizes)
             if training.tile.areas(*size) > WORTH_KEEPING]
    kept = dataset.decoded.keep(decoding_tasks(survey, large, data.n_channels))
    loader = TrainingLoader(
        dataset, settings.net.geometry, training.tile, training.Batch_size, training.seed, maps,
        augmentation(training.augment, dataset.statistics.is_scaled), settings.run.workers,
        crops=[crops_of(training.tile, training.crops_per_image, *size) for size in sizes])
    loader.prepare(survey)
    return loader, kept


# ------------------------------------------------------------------------------------- the training
def build_trainer(request, prepared, make_recorder):
    """The Trainer of a run, with the stored state where the run is resumed.

    All ranks call it together.  prepared: of the first rank; None on other ranks.  make_recorder: a
    function with Recorder's parameters.
    """
    from backend.freezing import freeze
    from backend.optimizers import build_optimizer
    from Model import build_model
    from Process import Trainer
    settings, data = ranks.shared(prepared and (prepared.choice.settings, prepared.data))
    start.seed_everything(settings.training.seed)
    model = build_model(settings.net.mode, settings.data.n_channels, settings.data.n_classes,
                        **settings.net.options)
    model.element_type = element_type(settings.training.precision)
    begun = begin_with(model, request.beginning, settings.frozen) if request.beginning else []
    freeze(model, settings.frozen)
    recorder = make_recorder(settings, data, model, request.stored,
                             LOSSES[settings.training.loss].title, request.weights_from)
    for line in begun:
        recorder.say(line)
    optimizer = build_optimizer(settings.training.optimizer, model,
                                settings.training.Learning_rate)
    trainer = Trainer(model, optimizer, data.loader, data.choosing, settings.training, recorder)
    if request.stored:
        path = settings.folders.Checkpoint_directory / LAST
        assign(trainer.state.vars(), request.stored.arrays, path)
        trainer.resume(request.stored.progress)
    return trainer


def train(trainer, recorder, go_on):
    """Run the trainer until it ends or fails.  Save, draw and say what came out.

    go_on: the command that resumes the run.  Returns the exit code.
    """
    failure = None
    try:
        with last_words(f"Main.py: error: the training was killed, for lack of memory perhaps: "
                        f"{SMALLER_STEP}; {go_on} goes on", start.started_by_mpirun()):
            finished = trainer.run()
            recorder.save_last()
            if finished and recorder.data.holds_back:
                finished = recorder.test_once()
    except (DataError, OSError) as error:  # the loss, a file, a full disk: the weights are good
        failure = error
        recorder.save_last()
    except (RuntimeError, MemoryError) as error:
        if trainer.stop.requested:  # a terminal's Ctrl-C also ends the compiler
            finished = False
        elif is_out_of_memory(error):
            failure = DataError(f"out of memory: {SMALLER_STEP}")
        else:
            raise
    if failure:
        recorder.say(f"Stopped: {failure}")
        recorder.finish(trainer.clock.seconds, str(failure))
        raise failure
    stopped = "" if finished else f"stopped on request in epoch {trainer.progress.epoch}"
    recorder.finish(trainer.clock.seconds, stopped)
    if stopped:
        recorder.say(f"To go on: {go_on}")
    return 130 if stopped else 0


def start_jittor(request):
    """Import Jittor as the settings want it: for their device, in their precision."""
    settings = request.settings
    return start.import_jittor(settings.run.device, settings.training.precision == "float32")


def lead(request, nvcc):
    """Prepare, train and record as the only process or the first rank; returns the exit code."""
    run = request.settings.folders
    for name in OUTPUT_FOLDERS:
        make_folder(getattr(run, name))
    with lock_folder(run.Checkpoint_directory), lock_folder(run.Result_directory):
        # there may be a CUDA compiler and no GPU that Jittor can use: Jittor knows once imported
        is_gpu = bool(nvcc) and bool(start_jittor(request).flags.use_cuda)
        prepared = prepare(request, is_gpu)
        start_jittor(request)
        trainer = build_trainer(request, prepared, Recorder)
        recorder = trainer.recorder
        greet(recorder, request, prepared)
        recorder.begin(trainer)
        return train(trainer, recorder, request.go_on)


def follow(request):
    """Train together with the first rank, which does all else; returns 0 for a complete run."""
    start_jittor(request)
    trainer = build_trainer(request, None, lambda *_: Listener())
    try:
        with last_words(f"Main.py: error: rank {ranks.rank()} was killed, for lack of memory "
                        f"perhaps: {SMALLER_STEP}; {request.go_on} goes on", is_rank=True):
            if trainer.run():
                return 0
    except TrainingFailed:  # on every rank
        pass
    ranks.wait_for_first()


def main():
    read = partial(read_request, build_parser=build_parser, protocols=PROTOCOLS, crop=CROP)
    request = read(sys.argv[1:])
    if request.is_series:
        return run_series(request, sys.argv, read)
    nvcc, _ = start.check_machine(request.settings.run.device)
    return follow(request) if ranks.rank() else lead(request, nvcc)


if __name__ == "__main__":
    sys.exit(ranks.run_rank(main))
