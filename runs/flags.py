"""The flags of Main.py."""
from pathlib import Path

from backend.optimizers import OPTIMIZERS
from backend.precision import add_precision_flag
from command.flags import Parser, boolean, expression, number
from datasets.label_values import KINDS_OF_LABELS, MOST_USUAL
from images.channels import MOST_CHANNELS
from masks.pixel_scores import CHOOSING
from masks.score_rows import CHOOSERS, OF_OBJECTS
from nets.catalogue import CATALOGUE
from nets.trained import PRESETS
from runs.choices import BASE_CHANNELS, BATCH, CROPS, EPOCHS, LOADER_THREADS, SAVE_EVERY
from runs.settings import FROZEN_PARTS, crop_count, decay, fold_of_text, save_every


def make_parser(defaults, protocols, tiling, losses, augmentations):
    """The parser of Main.py.

    defaults: {flag: value}.  protocols: the words of --protocol.  tiling: the type of --tile.
    losses, augmentations: the words of --loss and --augment.
    """
    parser = Parser("Train a net on a data set. Test it after each epoch from Val_epochs on, and "
                    "keep the best model, by --best_by. Epochs count from 0. The defaults are the "
                    "U-Net paper's. --protocol fast is the modern recipe.")
    add = parser.add_argument
    add_data_flags(add)
    add_net_flags(add)
    add_start_flags(add)
    add_training_flags(add, protocols, tiling, losses, augmentations)
    add_run_flags(add)
    parser.set_defaults(**defaults, conv_bias=True)
    return parser


def add_data_flags(add):
    """The flags of folders and of what lies there."""
    add("--Data_directory", type=Path, default=Path("./data/ISBC2012"),
        help="folder of the data set: {train,test}/{imgs,labels}")
    add("--Datatxt_directory", type=Path, default=Path("./DataTxt"),
        help="folder of the lists of files")
    add("--Log_directory", type=Path, default=Path("./logs"),
        help="folder of log, CSV, curves and page")
    add("--Checkpoint_directory", type=Path, default=Path("./checkpoints"),
        help="folder of best_model and last_model")
    add("--Result_directory", type=Path, default=Path("./results"),
        help="folder of the best model's predictions")
    add("--Weight_directory", type=Path, default=Path("./weight_maps"),
        help="folder of the weight maps, which are kept for later runs")
    add("--is_grayscale", type=boolean,
        help="True: same as --n_channels 1. False: same as --n_channels 3, where that is not given")
    add("--n_channels", type=number(int, 1, MOST_CHANNELS + 1),
        help="image channels, up to 16; 1 reads RGB as grey, 3 reads grey as RGB; with another "
             "number a TIFF without axes that has as many pages is one image (default: as the "
             "images are)")
    add("--n_classes", type=number(int, 2, 256),
        help="number of classes, background included (default: the largest label value + 1; 2 for "
             "masks)")
    add("--label_kind", choices=KINDS_OF_LABELS,
        help="what the labels' values are. classes: numbers of classes, or a mask. objects: "
             "numbers of objects; the net learns their foreground, with a border of background "
             "between those that touch; only with --n_classes 2 (default: objects where there are "
             f"more than {MOST_USUAL} values above 0 and nearly each is in one piece in each "
             "label, else classes)")
    add("--ignore_label", type=number(int, 0, 2 ** 32),
        help="label value to ignore, in the loss and in all scores (default: none)")
    add("--val_fraction", type=number(float, 0, 1), default=0.0,
        help="share of the training images that is held back to choose the best model; the test "
             "images are then read once, at the end; 0: the test images choose the best model, as "
             "in the reference")
    add("--fold", type=fold_of_text, metavar="K/N|all/N",
        help="K/N: the training images are dealt out to N folds by their names, and fold K, from "
             "0, chooses the best model as with --val_fraction; the run writes into the folders "
             "fold_K of logs, checkpoints and results. all/N: N runs, one after the other, and a "
             "summary of them (default: none)")
    add("--group", type=expression, metavar="REGEX",
        help="regular expression, for --val_fraction and --fold; its first group matches the name "
             "of the slide (the patient) in an image's name; the images of a slide stay together "
             "(default: none)")


def add_net_flags(add):
    """The flags of the net and its options."""
    add("--mode", choices=tuple(CATALOGUE), default="Unet", help="the net to train")
    add("--bilinear", type=boolean,
        help="U-Net: True: bilinear up-sampling; False: transposed convolutions (paper: False)")
    add("--dropout_probs", type=number(float, 0, 1), nargs=4,
        help="U-Net: dropout probabilities at the end of down1 ... down4 (fast: 0 0 0 0)")
    add("--base_channels", type=number(int, 2),
        help="U-Net: channels of the first level, an even number "
             f"(fast: {BASE_CHANNELS['cpu']} on a CPU, {BASE_CHANNELS['cuda']} on a GPU)")
    add("--padding", type=int, choices=(0, 1),
        help="U-Net: 0: valid convolutions, as in the paper; 1: convolutions that keep the size "
             "(fast: 1)")
    add("--align_corners", type=boolean, default=False,
        help="of bilinear up-sampling: True: corner pixels keep their places, as in milesial's "
             "U-Net")


def add_start_flags(add):
    """The flags of a training that begins with weights."""
    add("--weights", type=Path, metavar="FILE",
        help="weights to begin with, of Main.py or of others (.pth, safetensors); net, width and "
             "options are the file's; mean and std are those of the new data (default: none, "
             "training begins from scratch)")
    add("--preset", choices=tuple(PRESETS),
        help="which published net the weights of others are: u2net, u2netp, or milesial's U-Net; "
             "it says what the file does not show (default: --padding and --align_corners say it)")
    add("--freeze", choices=FROZEN_PARTS,
        help="with --weights: encoder: train the decoder alone; the encoder keeps its weights and "
             "its BatchNorms' running statistics, which it normalises by, and has no dropout "
             "(default: all is trained)")


def add_training_flags(add, protocols, tiling, losses, augmentations):
    """The flags of how it is trained."""
    add("--protocol", choices=("default", *protocols), default="default",
        help="sets the flags that are not given. default: the defaults that this help shows. "
             "reference: the system that this one reproduces. paper: the U-Net paper's optimiser "
             "and augmentation. fast: the modern recipe, fitted to data and machine")
    add("--Total_epochs", type=number(int, 1),
        help=f"number of epochs to train (paper, fast: as many as make {CROPS:,} crops, "
             f"{EPOCHS[0]} to {EPOCHS[1]:,}; with --Time_budget: no limit)")
    add("--Val_epochs", type=number(int, 0),
        help="first epoch to test after, counted from 0 (paper, fast: the last quarter is tested; "
             "with --Time_budget: 0)")
    add("--Batch_size", type=number(int, 1),
        help=f"number of images per step (fast: {BATCH}, fewer where memory is short)")
    add("--Learning_rate", type=number(float, 0, include_low=False),
        help="learning rate (reference: 0.00001)")
    add("--Loss_w0", type=number(float, 0, 1e6), default=10.0,
        help="w0 of the weight map: the weight of a border of width 0")
    add("--Loss_sigma", type=number(float, 0, include_low=False), default=5.0,
        help="sigma of the weight map, px: how fast the weight falls with a border's width")
    add("--tile", type=tiling, metavar="full|N|reference",
        help="full: train on whole images; N: train on random crops of N x N px; "
             "reference: train and test on four quadrants of 256 px, each mirrored at its own "
             "edges (reference: reference; fast: 256, or full where images are no larger)")
    add("--crops_per_image", type=crop_count, metavar="auto|N", default="auto",
        help="with --tile N: how many crops of each image an epoch takes; auto: of an image of "
             "more than 16 crops' area as many as cover it once, of any other image one")
    described = "; ".join(f"{name}: {row.settings}" for name, row in OPTIMIZERS.items())
    add("--optimizer", choices=tuple(OPTIMIZERS), help=f"{described} (paper: sgd; fast: adamw)")
    add("--lr_schedule", choices=("constant", "cosine"),
        help="how the learning rate changes over the run (fast: cosine)")
    add("--warm_up", type=number(float, 0, 1),
        help="share of the run, at its start, in which the learning rate rises from 0")
    add("--clip_norm", type=number(float, 0),
        help="largest norm of all gradients together; larger ones are scaled down; 0: no limit")
    add("--ema", type=decay, metavar="auto|D",
        help="average weights and BatchNorm's statistics over the steps; tests and best_model have "
             "the averages. D: exponential average, in which a step counts D times as much as the "
             "next one; auto: over about the last twentieth of the steps so far; 0: no average")
    add("--loss", choices=tuple(losses),
        help="weighted_ce: cross entropy with the weight map; ce: without it; ce_dice: without it, "
             "plus the Dice loss (fast: ce_dice; for numbered objects weighted_ce)")
    add("--Time_budget", type=number(float, 0, include_low=False), metavar="MINUTES",
        help="minutes after which the run ends, with a test; the schedule of the learning rate "
             "ends then too (default: no limit)")
    add("--augment", choices=("none", *augmentations),
        help="augmentation while training; paper: the U-Net paper's; light: flips, quarter turns, "
             "grey values or stains; full: light, and other angles, zoom, elastic deformation, "
             "blur and noise (paper: paper; fast: light)")
    add("--best_by", choices=CHOOSERS, default=CHOOSING,
        help="the score, as a mean over the images, that chooses the best model; "
             f"{' and '.join(OF_OBJECTS)} need numbered objects as labels")
    add("--seed", type=number(int, 0, 2 ** 31), default=0,
        help="seed of weights, order, crops, augmentation and dropout")
    add("--seeds", type=number(int, 0, 2 ** 31), nargs="+", metavar="S",
        help="a run for each of these seeds, one after the other, and a summary of them; seed S "
             "writes into the folders seed_S of logs, checkpoints and results; with --fold all/N "
             "N runs for each seed (default: none)")


def add_run_flags(add):
    """The flags of where it runs, and of runs that go on."""
    add("--device", choices=("auto", "cpu", "cuda"), default="auto",
        help="where to run; auto: on a GPU where one is usable, else on the CPU")
    add_precision_flag(add, "; --resume keeps what the run began with")
    add("--cache_size", type=number(float, 0), default=20.0, metavar="GB",
        help="with --tile N: most GB of decoded/ in Datatxt_directory, where large training "
             "images are kept decoded; 0: none are kept, and each crop decodes its whole image")
    few, many = LOADER_THREADS
    add("--workers", type=number(int, 1, 257),
        help="threads that prepare the next batches; their number does not change a bit (default: "
             f"{few}; on a GPU the number of cores less one, {few} to {many})")
    add("--save_every", type=save_every, metavar="N|Nm",
        help="how often to write last_model: every N epochs, or with Nm every N minutes (default: "
             f"{SAVE_EVERY['cpu']}; on a GPU {SAVE_EVERY['cuda']})")
    add("--resume", action="store_true",
        help="go on with the run that wrote last_model, with its flags; flags that contradict it "
             "are refused")
    add("--force", action="store_true", help="with --resume: accept other flags or other data")
