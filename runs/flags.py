"""The flags of Main.py."""
from pathlib import Path

from backend.optimizers import OPTIMIZERS
from command.flags import Parser, boolean, expression, number
from nets.catalogue import CATALOGUE
from runs.choices import BASE_CHANNELS, BATCH, CROPS, EPOCHS
from runs.settings import Every, save_every


def make_parser(defaults, protocols, tiling, losses, augmentations):
    """The parser of Main.py.

    defaults: {flag: value}.  protocols: the words of --protocol.  tiling: the type of --tile.
    losses, augmentations: the words of --loss and --augment.
    """
    parser = Parser("Train a net on a data set, test it after each epoch from Val_epochs on, keep "
                    "the best by IoU. Epochs count from 0. The defaults are the U-Net paper's; "
                    "--protocol fast is the modern recipe.")
    add = parser.add_argument
    add_data_flags(add)
    add_net_flags(add)
    add_training_flags(add, protocols, tiling, losses, augmentations)
    add_run_flags(add)
    parser.set_defaults(**defaults)
    return parser


def add_data_flags(add):
    """The flags of folders and of what lies there."""
    add("--Data_directory", type=Path, default=Path("./data/ISBC2012"),
        help="data set: {train,test}/{imgs,labels}")
    add("--Datatxt_directory", type=Path, default=Path("./DataTxt"),
        help="folder of the lists of files")
    add("--Log_directory", type=Path, default=Path("./logs"),
        help="folder of log, CSV, curves and page")
    add("--Checkpoint_directory", type=Path, default=Path("./checkpoints"),
        help="folder of best_model and last_model")
    add("--Result_directory", type=Path, default=Path("./results"),
        help="folder of the best model's predictions")
    add("--Weight_directory", type=Path, default=Path("./weight_maps"),
        help="folder of the weight maps")
    add("--is_grayscale", type=boolean, help="True: same as --n_channels 1. False: same as 3")
    add("--n_channels", type=int, choices=(1, 3),
        help="image channels: 1 grey, 3 RGB (default: as the images are)")
    add("--n_classes", type=number(int, 2, 256),
        help="classes, background among them (default: the largest label value + 1; 2 for masks)")
    add("--ignore_label", type=number(int, 0, 2 ** 16),
        help="label value to ignore, in the loss and in all scores")
    add("--val_fraction", type=number(float, 0, 1), default=0.0,
        help="share of the training images that is held back to choose the best model; the test "
             "images then are read once, at the end (0: the test images choose it, as in the "
             "reference)")
    add("--group", type=expression, metavar="REGEX",
        help="--val_fraction: its first group names the slide (the patient) in an image's name; "
             "slides are not split")


def add_net_flags(add):
    """The flags of the net and its options."""
    add("--mode", choices=tuple(CATALOGUE), default="Unet", help="net")
    add("--bilinear", type=boolean,
        help="U-Net: bilinear up-sampling (False: transposed convolution)")
    add("--dropout_probs", type=number(float, 0, 1), nargs=4,
        help="U-Net: probabilities at the end of down1 ... down4")
    add("--base_channels", type=number(int, 2),
        help="U-Net: channels of the first level, even "
             f"(fast: {BASE_CHANNELS['cpu']} on a CPU, {BASE_CHANNELS['cuda']} on a GPU)")
    add("--padding", type=int, choices=(0, 1),
        help="U-Net: 0: valid convolutions, as in the paper; 1: convolutions that keep the size "
             "(fast: 1)")


def add_training_flags(add, protocols, tiling, losses, augmentations):
    """The flags of how it is trained."""
    add("--protocol", choices=("default", *protocols), default="default",
        help="settings for flags that are not given. default: the U-Net paper's, as below. "
             "reference: those of the system that this one reproduces. paper: the U-Net paper's "
             "optimiser and augmentation. fast: the modern recipe, chosen from data and machine")
    add("--Total_epochs", type=number(int, 1),
        help=f"epochs to train (fast: as many as make {CROPS:,} crops, {EPOCHS[0]} to "
             f"{EPOCHS[1]:,}; with --Time_budget as many as fit)")
    add("--Val_epochs", type=number(int, 0),
        help="epoch from which on to test, counted from 0 (fast: the last quarter; 0 with "
             "--Time_budget)")
    add("--Batch_size", type=number(int, 1),
        help=f"images per step (fast: {BATCH}, fewer where memory is short)")
    add("--Learning_rate", type=number(float, 0, include_low=False), help="step size")
    add("--Loss_w0", type=number(float, 0, 1e6), default=10.0,
        help="weight of the border term")
    add("--Loss_sigma", type=number(float, 0, include_low=False), default=5.0,
        help="width of the border term, px")
    add("--tile", type=tiling, metavar="full|N|reference",
        help="full: train on whole images; N: on a random crop of N x N px of each; reference: "
             "train and test on four 256 px quadrants, each mirrored at its own edges (fast: 256, "
             "full where images are no larger)")
    described = "; ".join(f"{name}: {row.settings}" for name, row in OPTIMIZERS.items())
    add("--optimizer", choices=tuple(OPTIMIZERS), help=f"{described} (fast: adamw)")
    add("--lr_schedule", choices=("constant", "cosine"),
        help="of the learning rate, over the run (fast: cosine)")
    add("--warm_up", type=number(float, 0, 1),
        help="share of the run over which the learning rate rises from 0")
    add("--clip_norm", type=number(float, 0), help="largest norm of all gradients together; 0: any")
    add("--loss", choices=tuple(losses),
        help="cross entropy with the weight map, without it, or without it and with a Dice term "
             "(fast: ce_dice)")
    add("--Time_budget", type=number(float, 0, include_low=False), metavar="MINUTES",
        help="end after so many minutes, with the schedule at its end and a test, however many "
             "epochs that makes")
    add("--augment", choices=("none", *augmentations),
        help="augmentation while training; paper: the U-Net paper's; light: flips, quarter turns, "
             "grey values or stains; full: other angles, zoom, elastic deformation, blur and noise "
             "too (fast: light)")
    add("--seed", type=number(int, 0, 2 ** 31), default=0,
        help="seed of weights, order, crops, augmentation and dropout")


def add_run_flags(add):
    """The flags of where it runs, and of runs that go on."""
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to run")
    add("--save_every", type=save_every, default=Every(1, ""), metavar="N|Nm",
        help="epochs between writes of last_model; 10m: minutes")
    add("--resume", action="store_true",
        help="go on with the run of last_model: its flags hold where none are given, and "
             "contradicting ones are refused")
    add("--force", action="store_true", help="resume with other flags or other data all the same")
