"""Train and test a net on a data set.

    python DataAugmentation.py --img_path ./data/ISBC2012/train/imgs --mask_path ./data/ISBC2012/train/labels
    python Main.py --Data_directory ./data/ISBC2012 --Total_epochs 200 --Val_epochs 50 --mode Unet

Writes logs/ (text, CSV, curves, a page with all of it, TensorBoard's events), checkpoints/ (best_model, last_model),
results/ (predictions of the best model), weight_maps/ and DataTxt/.  Epochs count from 0: testing begins once
epoch >= Val_epochs.

    python Main.py --resume                  # go on with the run whose last_model lies in checkpoints/
    mpirun -np 8 python Main.py --Batch_size 8 ...        # on 8 devices, an image of each batch on each (docs/scaling.md)

Flags and files are checked before Jittor is imported: a mistake is answered in a second.
"""
import re
import sys
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from backend import machine, ranks, start
from command import last_words
from command.errors import DataError
from command.files import lock_folder, make_folder
from command.flags import Parser, boolean, expression, number, tile
from DataLoader import SegmentationSet, TrainingLoader
from datasets.labels import IGNORED, load_label, load_test_label
from datasets.lists import make_lists
from datasets.pairs import check_pairs
from datasets.splits import hold_back
from datasets.survey import dataset_statistics
from images.values import Statistics
from masks.pixel_scores import best_constant, constant_baselines
from nets.checkpoint import assign
from nets.geometry import check_tile, geometry_of
from runs import choices
from runs.log import RunLog, run_name
from runs.recorder import Recorder
from runs.resume import (BEST, EARLIER, LAST, OUTPUT_FOLDERS, check_resumed, data_of, flags_of,
                         load_run, resume_command, settings_of)
from runs.settings import save_every
from Transforms import RECIPES, augmentation

LESS_MEMORY = "try --tile 128, a smaller --base_channels or --Batch_size 1"


# what --protocol sets where no flag says otherwise
PLAIN = {"base_channels": 64, "padding": 0, "tile": "full", "Batch_size": 1, "loss": "weighted_ce", "optimizer": "adam",
         "lr_schedule": "constant", "augment": "none", "dropout_probs": [0.2, 0.3, 0.4, 0.5]}
PROTOCOLS = {
    "default": {},
    # the system that this one reproduces
    "reference": {**PLAIN, "tile": "reference", "Learning_rate": 1e-5, "Total_epochs": 200, "Val_epochs": 50},
    # Ronneberger et al. 2015: section 2 (up-convolutions), 3 (whole images, momentum 0.99, weight map), 3.1 (deformation)
    "paper": {**PLAIN, "bilinear": False, "optimizer": "sgd", "augment": "paper"},
}


def add_data_flags(add):
    """The flags of folders and of what lies there."""
    add("--Data_directory", type=Path, default=Path("./data/ISBC2012"), help="data set: {train,test}/{imgs,labels}")
    add("--Datatxt_directory", type=Path, default=Path("./DataTxt"), help="folder of the lists of files")
    add("--Log_directory", type=Path, default=Path("./logs"), help="folder of log, CSV, curves and page")
    add("--Checkpoint_directory", type=Path, default=Path("./checkpoints"), help="folder of best_model and last_model")
    add("--Result_directory", type=Path, default=Path("./results"), help="folder of the best model's predictions")
    add("--Weight_directory", type=Path, default=Path("./weight_maps"), help="folder of the weight maps")
    add("--is_grayscale", type=boolean, help="another way to say it: True is --n_channels 1, False 3")
    add("--n_channels", type=int, choices=(1, 3), help="image channels: 1 grey, 3 RGB (default: as the images are)")
    add("--n_classes", type=number(int, 2, 256),
        help="classes, background among them (default: the largest label value + 1; 2 for masks)")
    add("--ignore_label", type=number(int, 0, 2 ** 16), help="pixels of this value in a label count nowhere")


def build_parser():
    parser = Parser("Train a net on a data set, test it after each epoch from Val_epochs on, keep the best by IoU. "
                    "Epochs count from 0.")
    add = parser.add_argument
    add_data_flags(add)
    add("--Total_epochs", type=number(int, 1),
        help="epochs to train (default: as many as make {:,} crops, {} to {:,}; with --Time_budget as many as fit)".format(
            choices.CROPS, *choices.EPOCHS))
    add("--Val_epochs", type=number(int, 0),
        help="epoch from which on to test, counted from 0 (default: the last quarter, fewer where there are many "
             "test images; 0 with --Time_budget)")
    add("--Batch_size", type=number(int, 1),
        help=f"images per step (default: {choices.BATCH}, fewer where memory is short)")
    add("--bilinear", type=boolean, default=True, help="U-Net: bilinear up-sampling (False: transposed convolution)")
    add("--dropout_probs", type=number(float, 0, 1), nargs=4, default=[0.0] * 4,
        help="U-Net: probabilities at the end of down1 ... down4")
    add("--Learning_rate", type=number(float, 0, include_low=False), default=0.001, help="step size")
    add("--Loss_w0", type=number(float, 0, 1e6), default=10.0, help="weight of the border term")
    add("--Loss_sigma", type=number(float, 0, include_low=False), default=5.0, help="width of the border term, px")
    add("--mode", choices=("Unet", "U2net", "U2netS"), default="Unet", help="net")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to run")
    add("--seed", type=number(int, 0, 2 ** 31), default=0, help="seed of weights, order, crops, augmentation and dropout")
    add("--base_channels", type=number(int, 2),
        help="U-Net: channels of the first level, even; 64 in the paper (default: {cuda} on a GPU, {cpu} on a CPU)".format(
            **choices.BASE_CHANNELS))
    add("--tile", type=tile, metavar="full|N|reference",
        help="full: train on whole images; N: on a random crop of N x N px of each; reference: train and test on four 256 px "
             f"quadrants, each mirrored at its own edges (default: {choices.CROP}, full where images are no larger)")
    add("--padding", type=int, choices=(0, 1),
        help="U-Net: 0: valid convolutions, as in the paper; 1: convolutions that keep the size (default: 1)")
    add("--optimizer", choices=("adam", "adamw", "sgd"), default="adamw",
        help="adam: betas 0.99, 0.999; adamw: betas 0.9, 0.999, weight decay 0.01; sgd: momentum 0.99")
    add("--lr_schedule", choices=("constant", "cosine"), default="cosine", help="of the learning rate, over the run")
    add("--warm_up", type=number(float, 0, 1), default=0.0, help="share of the run over which the learning rate rises from 0")
    add("--clip_norm", type=number(float, 0), default=0.0, help="largest norm of all gradients together; 0: any")
    add("--loss", choices=("weighted_ce", "ce", "ce_dice"), default="ce_dice",
        help="cross entropy with the weight map, without it, or without it and with a Dice term")
    add("--Time_budget", type=number(float, 0, include_low=False), metavar="MINUTES",
        help="end after so many minutes, with the schedule at its end and a test, however many epochs that makes")
    add("--val_fraction", type=number(float, 0, 1), default=0.0,
        help="share of the training images that is held back to choose the best model; the test images then are read once, "
             "at the end (0: the test images choose it, as in the reference)")
    add("--group", type=expression, metavar="REGEX",
        help="--val_fraction: its first group names the slide (the patient) in an image's name; slides are not split")
    add("--protocol", choices=tuple(PROTOCOLS), default="default",
        help="settings for flags that are not given; default: what docs/ablation.md says; reference: those of the "
             "system that this one reproduces; paper: the U-Net paper's")
    add("--augment", choices=("none", *RECIPES), default="light",
        help="augmentation while training; paper: the U-Net paper's; light: flips, quarter turns, grey values or stains; "
             "full: other angles, zoom, elastic deformation, blur and noise too")
    add("--save_every", type=save_every, default="1", metavar="N|Nm",
        help="epochs between writes of last_model; 10m: minutes")
    add("--resume", action="store_true",
        help="go on with the run of last_model: its flags hold where none are given, and contradicting ones are refused")
    add("--force", action="store_true", help="resume with other flags or other data all the same")
    return parser


def is_too_short(given, val_epochs):
    """Whether the epochs asked for end before the first test, after the `val_epochs` of before: those are chosen anew."""
    return bool(given.Total_epochs and given.Val_epochs is None and given.Total_epochs <= (val_epochs or 0))


def parse_arguments():
    """The flags, and with --resume (arrays, header) of last_model, else None."""
    parser = build_parser()
    given = parser.parse_args()
    parser.set_defaults(**PROTOCOLS[given.protocol])
    if is_too_short(given, parser.get_default("Val_epochs")):  # the protocol's
        parser.set_defaults(Val_epochs=None)
    args, resumed = parser.parse_args(), None
    if args.resume:
        path = args.Checkpoint_directory / LAST
        resumed = load_run(path)
        kept, before = flags_of(resumed[1]["run"]["settings"], build_parser(), path)
        if is_too_short(given, before.Val_epochs):
            kept = [flag for flag in kept if not flag.startswith("--Val_epochs=")]
        args = parser.parse_args([*kept, *sys.argv[1:]])
        check_resumed(args, before, resumed[1]["run"], parser)
    elif args.force:
        parser.error("--force: only with --resume")
    check_flags(args, parser)
    return args, resumed


def check_flags(args, parser):
    """End with exit code 2 for flags that do not go together; settle those that follow from others."""
    if None not in (args.Val_epochs, args.Total_epochs) and args.Val_epochs >= args.Total_epochs:
        parser.error(f"--Val_epochs {args.Val_epochs} must be below --Total_epochs {args.Total_epochs}: "
                     "nothing would be tested")
    if args.is_grayscale is not None:
        channels = 1 if args.is_grayscale else 3
        if args.n_channels not in (None, channels):
            parser.error(f"--is_grayscale {args.is_grayscale} does not suit --n_channels {args.n_channels}: "
                         "grey images have 1 channel, colour images 3")
        args.n_channels = channels
    if args.Batch_size and args.Batch_size < ranks.size():
        parser.error(f"--Batch_size {args.Batch_size}: fewer images than mpirun's {ranks.size()} processes, which share them")
    if args.base_channels and args.base_channels % 2:
        parser.error(f"--base_channels {args.base_channels} must be even")
    if args.group and not args.val_fraction:
        parser.error("--group: only with --val_fraction")
    if args.padding and args.mode != "Unet":
        parser.error(f"--padding: of the U-Net alone; {args.mode} always keeps the size")
    if args.padding is None:
        args.padding = int(args.mode == "Unet")
    args.geometry = geometry_of(args.mode, args.bilinear, args.padding)
    try:
        check_tile(args.tile or "full", args.geometry)
    except DataError as error:
        parser.error(str(error))


def net_options(args):
    """The options of Model.build_model, as they are kept in the checkpoint."""
    if args.mode != "Unet":
        return {"side_outputs": True}
    return {"bilinear": args.bilinear, "dropout_probs": args.dropout_probs, "base_channels": args.base_channels,
            "padding": args.padding}


def plan_of(args):
    """The Process.Plan that the flags ask for."""
    from runs.plan import Plan
    return Plan(args.loss, args.lr_schedule, args.warm_up, args.clip_norm, 60 * (args.Time_budget or 0))


def sound_labels(dataset, load):
    """Yield the labels, read by `load`; each image is read too, so that a damaged one is told now and not at the first test."""
    for index in tqdm(range(len(dataset)), "test images", unit="image", disable=None):
        dataset.image(index)
        yield load(dataset.pairs[index][1], dataset.n_classes, dataset.ignore_label)


class Data(NamedTuple):
    """What a run works on."""
    loader: TrainingLoader
    choosing: SegmentationSet  # scored after each epoch: the test set itself, or the training images that are held back
    test_set: SegmentationSet
    baselines: dict            # constant_baselines of `choosing`
    test_baselines: dict       # of `test_set`
    statistics: Statistics

    @property
    def holds_back(self):
        """Whether training images that are held back choose the best model, and not the test images."""
        return self.choosing is not self.test_set


def prepare_data(args, train_pairs, held, test_pairs):
    """Statistics, weight maps and baselines: Data."""
    check_pairs([*held, *test_pairs], args.tile)
    statistics = dataset_statistics(train_pairs, args.n_channels, args.Datatxt_directory)
    train_set, held_set, test_set = (SegmentationSet(pairs, args.n_channels, args.n_classes, statistics, args.ignore_label)
                                     for pairs in (train_pairs, held, test_pairs))
    choosing = held_set if held else test_set
    loader = TrainingLoader(train_set, args.geometry, args.tile, args.Batch_size, args.seed, args.Weight_directory,
                            args.Loss_w0 if args.loss == "weighted_ce" else None, args.Loss_sigma,
                            augment=augmentation(args.augment))
    loader.prepare(args.Datatxt_directory)
    scored = [(held_set, load_label)] * bool(held) + [(test_set, load_test_label)]  # training labels may be all unlabelled
    baselines = [constant_baselines(sound_labels(*each), args.n_classes, IGNORED) for each in scored]
    return Data(loader, choosing, test_set, baselines[0], baselines[-1], statistics)


def prepare_run(args, resumed, on_gpu):
    """(Data, what --resume compares, what was chosen and why); sets the flags of `args` that are left to choose.

    DataError where a run is resumed with other data.
    """
    train_pairs, test_pairs = make_lists(args.Data_directory, args.Datatxt_directory).values()
    held = []
    if args.val_fraction:
        train_pairs, held = hold_back(train_pairs, args.val_fraction, args.seed, args.group)
    chosen = choices.choose(args, train_pairs, held, test_pairs, on_gpu)
    args.is_grayscale = args.n_channels == 1
    data = prepare_data(args, train_pairs, held, test_pairs)
    run = {"settings": settings_of(args), "data": data_of(data, args.Datatxt_directory)}
    if resumed and resumed[1]["run"]["data"] != run["data"] and not args.force:
        raise DataError(f"{args.Data_directory}: not the data that this run began with (other files, or changed ones); "
                        "bring those back, start without --resume, or add --force")
    return data, run, chosen


def last_words(who, args):
    """`with last_words(...):` say it on stderr where this process, `who`, is killed meanwhile."""
    return last_words(f"Main.py: error: {who} was killed, for lack of memory perhaps: {LESS_MEMORY}; "
                              f"{resume_command(args, build_parser())} goes on")


def train(trainer, recorder):
    """Run the trainer to its end, whatever that is; save, draw and say what came out.  Returns the exit code."""
    failure = None
    try:
        with last_words("the training", recorder.args):
            finished = trainer.run()
            recorder.save_last()
            if finished and recorder.data.holds_back:
                finished = recorder.test_once()
    except (DataError, OSError) as error:  # the loss does not recover, a file has gone, a disk is full: the weights are good
        failure = error
        recorder.save_last()
    except (RuntimeError, MemoryError) as error:
        if trainer.stop.requested:  # a terminal's Ctrl-C also ends the compiler that the step was waiting for
            finished = False
        elif machine.is_out_of_memory(error):
            failure = DataError(f"out of memory: {LESS_MEMORY}")
        else:
            raise
    if failure:
        recorder.log.say(f"Stopped: {failure}")
    outcome = str(failure or ("" if finished else f"stopped on request in epoch {trainer.epoch}"))
    recorder.finish(trainer.seconds, outcome)
    if failure:
        raise failure
    if not finished:
        recorder.log.say(f"To go on: {resume_command(recorder.args, build_parser())}")
    return 0 if finished else 130


def follow(trainer, args):
    """Run the trainer on another rank than the first, which does the rest of `train`.  Returns 0 where the run is complete."""
    from Process import TrainingFailed
    try:
        with last_words(f"rank {ranks.rank()}", args):
            if trainer.run():
                return 0
    except TrainingFailed:  # on every rank
        pass
    ranks.wait_for_first()


def main():
    args, resumed = parse_arguments()
    nvcc, _ = start.check_machine(args.device)
    if ranks.rank():
        return train_locked(args, resumed)
    for name in OUTPUT_FOLDERS:
        make_folder(getattr(args, name))
    with lock_folder(args.Checkpoint_directory), lock_folder(args.Result_directory):
        # a GPU's compiler does not make a GPU that Jittor can use: it says so once it is imported
        return train_locked(args, resumed, bool(nvcc) and bool(start.import_jittor(args.device).flags.use_cuda))


def train_locked(args, resumed, on_gpu=False):
    """Everything once this run has its folders to itself."""
    data, run, chosen = (None,) * 3 if ranks.rank() else prepare_run(args, resumed, on_gpu)
    start.import_jittor(args.device)
    start.seed_everything(args.seed)
    args, data = ranks.shared((args, data))
    from backend.optimizers import build_optimizer
    from Model import build_model
    from Process import Trainer
    model = build_model(args.mode, args.n_channels, args.n_classes, **net_options(args))
    recorder = None if ranks.rank() else begin_recording(args, resumed, model, run, data, chosen)
    told = [lambda *_: None] * 3 if ranks.rank() else [recorder.on_epoch, recorder.on_best, recorder.log.say]
    optimizer = build_optimizer(args.optimizer, model, args.Learning_rate)
    trainer = Trainer(model, optimizer, data.loader, data.choosing, args.Total_epochs, args.Val_epochs, *told, plan_of(args))
    if resumed:
        assign(trainer.state(), resumed[0], args.Checkpoint_directory / LAST)
        trainer.resume(resumed[1]["run"]["progress"])
    if ranks.rank():
        return follow(trainer, args)
    recorder.trainer = trainer
    if resumed:
        recorder.log.say(f"Resumed at epoch {trainer.epoch}, step {trainer.step}" + trainer.finished * (
            ": all is done; a larger --Total_epochs or --Time_budget goes further"))
    else:
        set_aside(args.Checkpoint_directory, recorder.log.say)
        recorder.save_last()  # from now on --resume means this run, however soon it is killed
    return train(trainer, recorder)


def set_aside(folder, say):
    """Rename an earlier run's checkpoints, each in place of one set aside before: this run has no best model yet."""
    earlier = [folder / name for name in (LAST, BEST) if (folder / name).exists()]
    for path in earlier:
        path.replace(path.with_name(EARLIER + path.name))
    if earlier:
        say(f"An earlier run's {' and '.join(path.stem for path in earlier)} now begin{'s' * (len(earlier) == 1)} with "
            f"{EARLIER} in {folder}/")


def begin_recording(args, resumed, model, run, data, chosen):
    """The Recorder of this run: log and CSV are begun, or go on where the run is resumed."""
    header = {"mode": args.mode, "n_channels": args.n_channels, "n_classes": args.n_classes, "options": net_options(args),
              "mean": data.statistics.mean, "std": data.statistics.std, "bits": data.statistics.bits,
              "tile": "reference" if args.tile == "reference" else "full"}
    before = resumed[1]["run"] if resumed else {"records": [], "log": run_name(args.mode, args.Log_directory)}
    run["log"] = before["log"]
    records = [{"train_loss": float("nan"), **record} for record in before["records"]]  # JSON has no NaN
    log = RunLog(args.Log_directory, run["log"], records)
    settings = {name: value for name, value in vars(args).items() if name != "geometry"}
    greet(log, args, settings, chosen, data)
    return Recorder(args, settings, log, model, header, run, data)


def oddities(args, data):
    """Yield a line for whatever may not be meant: flags that do nothing here, slides that may be split."""
    idle = ["dropout_probs", "bilinear"] if args.mode != "Unet" else []
    idle += ["Loss_w0", "Loss_sigma"] if args.loss != "weighted_ce" else []
    defaults = {**vars(build_parser().parse_args([])), **PROTOCOLS[args.protocol]}
    idle = [f"--{name}" for name in idle if getattr(args, name) != defaults[name]]
    if idle:
        yield f"Without effect for --mode {args.mode} --loss {args.loss}: {', '.join(idle)}"
    slides = [re.sub(r"_\d+(-\d+)?$", "", image.stem) for image, _ in data.loader.dataset.pairs]  # of copies too
    if data.holds_back and not args.group and 1 < len(set(slides)) < len(slides):
        yield ("Names look like parts of slides, which --val_fraction may have split: "
               "--group '(.*)_' keeps those of one name together")


def greet(log, args, settings, chosen, data):
    """Log what is trained on what, and how."""
    held = f"{len(data.choosing)} held back to choose the best model, " if data.holds_back else ""
    log.say(f"{args.mode} on {args.Data_directory}: {len(data.loader.dataset)} training pairs, {held}{len(data.test_set)} test "
            f"pairs; {start.device_name()}{f', {ranks.size()} ranks' if ranks.size() > 1 else ''}")
    if chosen:
        log.say("Chosen: " + ", ".join(f"--{flag} {settings[flag]} ({why})" for flag, why in chosen.items()))
    log.say("Settings: " + "  ".join(f"{key}={value}" for key, value in settings.items()))
    for line in oddities(args, data):
        log.say(line)
    name, constant = best_constant(data.baselines)
    log.say(f"{name.capitalize()} would score: IoU {constant['iou']:.4f}  Dice {constant['dice']:.4f}")
    log.say("The first steps also compile the net's operators: 1 to 3 minutes, once for this environment.")


if __name__ == "__main__":
    sys.exit(ranks.run_rank(main))
