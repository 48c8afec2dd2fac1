"""Train and test a net on a data set.

    python DataAugmentation.py --img_path ./data/ISBC2012/train/imgs --mask_path ./data/ISBC2012/train/labels
    python Main.py --Data_directory ./data/ISBC2012 --Total_epochs 200 --Val_epochs 50 --mode Unet

Writes logs/ (text, CSV, curves), checkpoints/ (best_model, last_model), results/ (predictions of the best model),
weight_maps/ and DataTxt/.  Epochs count from 0: testing begins once epoch >= Val_epochs.
Flags and files are checked before Jittor is imported: a mistake is answered in a second.
"""
import sys
import time
from pathlib import Path

from tqdm import tqdm

import Runtime
from Common import DataError, Parser, boolean, make_folder, number, run, tile
from Checkpoint import save, state_arrays
from DataLoader import SegmentationSet, TrainingLoader, check_pairs, dataset_statistics
from MakeTxt import SPLITS, make_lists, read_list
from Metrics import all_foreground_baseline
from MirrorPadding import check_tile, geometry_of
from Report import RunLog, draw_curves, draw_overview, duration, run_name, write_predictions

LESS_MEMORY = "try --tile 256, a smaller --base_channels or --Batch_size 1"


def save_every(text):
    """A flag type: 'N' epochs or 'Nm' minutes -> (number, unit)."""
    return (number(float, 0, include_low=False)(text[:-1]), "m") if text.endswith("m") else (number(int, 1)(text), "epochs")


def parse_arguments():
    parser = Parser("Train a net on a data set, test it after each epoch from Val_epochs on, keep the best by IoU. "
                    "Epochs count from 0.")
    add = parser.add_argument
    add("--Data_directory", type=Path, default=Path("./data/ISBC2012"), help="data set: {train,test}/{imgs,labels}")
    add("--Datatxt_directory", type=Path, default=Path("./DataTxt"), help="folder of the lists of files")
    add("--Log_directory", type=Path, default=Path("./logs"), help="folder of log, CSV and curves")
    add("--Checkpoint_directory", type=Path, default=Path("./checkpoints"), help="folder of best_model and last_model")
    add("--Result_directory", type=Path, default=Path("./results"), help="folder of the best model's predictions")
    add("--Weight_directory", type=Path, default=Path("./weight_maps"), help="folder of the weight maps")
    add("--is_grayscale", type=boolean, help="True or False; must suit n_channels (default: True when n_channels is 1)")
    add("--n_channels", type=int, choices=(1, 3), default=1, help="image channels: 1 grey, 3 RGB")
    add("--n_classes", type=number(int, 2, 256), default=2, help="classes, background among them")
    add("--Total_epochs", type=number(int, 1), default=200, help="epochs to train")
    add("--Val_epochs", type=number(int, 0), default=50, help="epoch from which on to test, counted from 0")
    add("--Batch_size", type=number(int, 1), default=1, help="images per step")
    add("--bilinear", type=boolean, default=True, help="U-Net: bilinear up-sampling (False: transposed convolution)")
    add("--dropout_probs", type=number(float, 0, 1), nargs=4, default=[0.2, 0.3, 0.4, 0.5],
        help="U-Net: probabilities at the end of down1 ... down4")
    add("--Learning_rate", type=number(float, 0, include_low=False), default=0.001, help="step size")
    add("--Loss_w0", type=number(float, 0, 1e6), default=10.0, help="weight of the border term")
    add("--Loss_sigma", type=number(float, 0, include_low=False), default=5.0, help="width of the border term, px")
    add("--mode", choices=("Unet", "U2net", "U2netS"), default="Unet", help="net")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to run")
    add("--seed", type=number(int, 0, 2 ** 31), default=0, help="seed of weights, order, crops and dropout")
    add("--base_channels", type=number(int, 2), default=64, help="U-Net: channels of the first level (even)")
    add("--tile", type=tile, default="full", metavar="full|N|reference",
        help="full: whole images; N: random crops of N x N px in training, tiles in testing; reference: four 256 px "
             "quadrants, each mirrored at its own edges")
    add("--optimizer", choices=("adam", "sgd"), default="adam", help="adam: betas 0.99, 0.999; sgd: momentum 0.99")
    add("--save_every", type=save_every, default="1", metavar="N|Nm",
        help="epochs between writes of last_model; 10m: minutes")
    args = parser.parse_args()
    if args.Val_epochs >= args.Total_epochs:
        parser.error(f"--Val_epochs {args.Val_epochs} must be below --Total_epochs {args.Total_epochs}: "
                     "nothing would be tested")
    if args.is_grayscale is not None and args.is_grayscale != (args.n_channels == 1):
        parser.error(f"--is_grayscale {args.is_grayscale} does not suit --n_channels {args.n_channels}: "
                     "grey images have 1 channel, colour images 3")
    args.is_grayscale = args.n_channels == 1
    if args.base_channels % 2:
        parser.error(f"--base_channels {args.base_channels} must be even")
    args.geometry = geometry_of(args.mode, args.bilinear)
    try:
        check_tile(args.tile, args.geometry)
    except DataError as error:
        parser.error(str(error))
    return args


def net_options(args):
    """The options of Model.build_model, as they are kept in the checkpoint."""
    if args.mode != "Unet":
        return {"side_outputs": True}
    return {"bilinear": args.bilinear, "dropout_probs": args.dropout_probs, "base_channels": args.base_channels}


def sound_labels(test_set):
    """Yield the test labels; each image is read too, so that a damaged one is told now and not at the first test."""
    for index in tqdm(range(len(test_set)), "test images", unit="image", disable=None):
        test_set.image(index)
        yield test_set.label(index)


def prepare_data(args):
    """Lists, statistics and weight maps: (TrainingLoader, test SegmentationSet, all-foreground scores, Statistics)."""
    make_lists(args.Data_directory, args.Datatxt_directory)
    train_pairs, test_pairs = (read_list(args.Datatxt_directory, split) for split in SPLITS)
    check_pairs(train_pairs + test_pairs, args.tile)
    statistics = dataset_statistics(train_pairs, args.n_channels, args.Datatxt_directory)
    train_set, test_set = (SegmentationSet(pairs, args.n_channels, args.n_classes, statistics)
                           for pairs in (train_pairs, test_pairs))
    loader = TrainingLoader(train_set, args.geometry, args.tile, args.Batch_size, args.seed, args.Weight_directory,
                            args.Loss_w0, args.Loss_sigma)
    loader.prepare_weight_maps()
    baseline = all_foreground_baseline(sound_labels(test_set), args.n_classes)
    return loader, test_set, baseline, statistics


class Recorder:
    """Receives the Trainer's epochs: writes log, curves and checkpoints."""

    def __init__(self, args, log, model, header, test_set, baseline):
        self.args, self.log, self.model, self.header = args, log, model, header
        self.test_set, self.baseline = test_set, baseline
        self.last_path = args.Checkpoint_directory / "last_model.safetensors"
        self.best_path = args.Checkpoint_directory / "best_model.safetensors"
        self.epoch_started = self.last_saved = self.last_drawn = time.monotonic()

    def on_epoch(self, record):
        now = time.monotonic()
        record["whole_time"], self.epoch_started = now - self.epoch_started, now
        self.log.epoch(record, self.args.Total_epochs)
        amount, unit = self.args.save_every
        if (record["epoch"] + 1) % amount == 0 if unit == "epochs" else now - self.last_saved >= 60 * amount:
            self.save_last(record["epoch"])
            self.last_saved = now
        if now - self.last_drawn > 60:
            self.draw()
            self.last_drawn = now

    def on_best(self, epoch, scores, predictions):
        save(self.best_path, state_arrays(self.model), {**self.header, "epoch": epoch, "scores": scores})
        write_predictions(self.args.Result_directory, predictions)

    def save_last(self, epoch):
        save(self.last_path, state_arrays(self.model), {**self.header, "epoch": epoch})

    def draw(self):
        if self.log.records:
            draw_curves(self.log.records, self.baseline, self.log.curves_path)

    def finish(self, seconds):
        """Draw, and log the closing block: what came out and where it lies."""
        self.draw()
        best, say, args = self.log.closing_block(), self.log.say, self.args
        say(f"All foreground would score: IoU {self.baseline['iou']:.4f}  Dice {self.baseline['dice']:.4f}")
        say(f"Whole run: {duration(seconds)}")
        say(f"Log          {self.log.text_path} and .csv")
        if self.log.records:
            say(f"Curves       {self.log.curves_path}")
        say(f"Weight maps  {args.Weight_directory}/")
        say(f"Checkpoints  {args.Checkpoint_directory}/")
        if best:
            overview = args.Result_directory / "overview.png"
            draw_overview(self.test_set, args.Result_directory, overview)
            say(f"Predictions  {args.Result_directory}/ (the best epoch's; {overview.name} shows some)")


def train(trainer, recorder):
    """Run the trainer to its end, whatever that is; save, draw and say what came out.  Returns the exit code."""
    started, failure = time.monotonic(), None
    try:
        with Runtime.last_words(f"Main.py: error: the training was killed, probably for lack of memory: {LESS_MEMORY}"):
            finished = trainer.run()
        recorder.save_last(trainer.epoch)
    except DataError as error:  # the loss does not recover, or a file has gone: the weights are good ones
        failure = error
        recorder.save_last(trainer.epoch)
    except (RuntimeError, MemoryError) as error:
        if not Runtime.is_out_of_memory(error):
            raise
        failure = DataError(f"out of memory: {LESS_MEMORY}")
    if failure:
        recorder.log.say(f"Stopped: {failure}")
    recorder.finish(time.monotonic() - started)
    if failure:
        raise failure
    return 0 if finished else 130


def main():
    args = parse_arguments()
    Runtime.check(args.device)
    for folder in (args.Datatxt_directory, args.Log_directory, args.Checkpoint_directory, args.Result_directory,
                   args.Weight_directory):
        make_folder(folder)
    loader, test_set, baseline, statistics = prepare_data(args)

    Runtime.start(args.device)
    Runtime.seed_everything(args.seed)
    from Model import build_model
    from Process import Trainer, build_optimizer
    options = net_options(args)
    model = build_model(args.mode, args.n_channels, args.n_classes, **options)
    header = {"mode": args.mode, "n_channels": args.n_channels, "n_classes": args.n_classes, "options": options,
              "mean": statistics.mean, "std": statistics.std, "tile": args.tile}
    log = RunLog(args.Log_directory, run_name(args.mode, args.Log_directory))
    log.say(f"{args.mode} on {args.Data_directory}: {len(loader.dataset)} training pairs, {len(test_set)} test pairs; "
            f"{Runtime.device_name()}")
    log.say("Settings: " + "  ".join(f"{key}={value}" for key, value in vars(args).items() if key != "geometry"))
    log.say(f"All foreground would score: IoU {baseline['iou']:.4f}  Dice {baseline['dice']:.4f}")
    if isinstance(args.tile, int) and args.geometry.edge is None:
        log.say(f"{args.mode} sees beyond any tile: tests blend overlapping tiles of {args.tile} px, close to --tile full")
    log.say("The first steps also compile the net's operators: 1 to 3 minutes, once for this environment.")

    recorder = Recorder(args, log, model, header, test_set, baseline)
    optimizer = build_optimizer(args.optimizer, model, args.Learning_rate)
    trainer = Trainer(model, optimizer, loader, test_set, args.Total_epochs, args.Val_epochs, recorder.on_epoch,
                      recorder.on_best, log.say)
    return train(trainer, recorder)


if __name__ == "__main__":
    sys.exit(run(main))
