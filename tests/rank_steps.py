"""A few training steps, as one process or as one of mpirun's ranks.

    python rank_steps.py CONFIGURATION.json          # with the repository's root in PYTHONPATH

Writes `<size>.<rank>.npz` beside the configuration: every step's loss, the state afterwards, the
test scores.
"""
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from backend import ranks, start


def main(path):
    config = json.loads(path.read_text())
    start.import_jittor("cpu")
    start.seed_everything(1)
    from helpers import settings_of

    from backend.optimizers import build_optimizer
    from DataLoader import SegmentationSet, TrainingLoader
    from datasets.pairs import pair_by_name
    from images.values import Statistics
    from Loss import LOSSES
    from MirrorPadding import tiling
    from Model import build_model
    from nets.catalogue import CATALOGUE
    from Process import Trainer
    from Transforms import augmentation
    from WeightMap import WeightMaps

    settings = settings_of("--loss", config["loss"], "--clip_norm", 1, "--ema", 0.9,
                           "--Learning_rate", 0.002,
                           "--Total_epochs", config["epochs"], "--Batch_size", config["batch"],
                           "--Val_epochs", config["epochs"] - 1).training
    folders = [Path(config["data"]) / "train" / kind for kind in ("imgs", "labels")]
    dataset = SegmentationSet(pair_by_name(*folders), 1, 2, Statistics((0.4,), (0.25,)))
    wants_maps = LOSSES[config["loss"]].wants_weight_map
    maps = WeightMaps(path.parent / "weight_maps") if wants_maps else None
    geometry = CATALOGUE["Unet"].geometry({})
    loader = TrainingLoader(dataset, geometry, tiling(str(config["tile"])), config["batch"], 1,
                            maps, augmentation(config["augment"]))
    model = build_model("Unet", 1, 2, base_channels=4, dropout_probs=[config["dropout"]] * 4)
    start.jt.sync_all(True)  # the weights are drawn now, before a step's own seed
    losses, told = [], []
    recorder = SimpleNamespace(say=print, on_epoch=told.append, on_best=lambda *_: None)
    trainer = Trainer(model, build_optimizer("sgd", model, 0.002), loader, dataset, settings,
                      recorder)
    step = trainer.train_step
    trainer.train_step = lambda batch: losses.append(step(batch)) or losses[-1]
    assert trainer.run()
    state = {name: var.numpy() for name, var in trainer.state.vars().items()}
    np.savez(path.parent / f"{ranks.size()}.{ranks.rank()}.npz", losses=losses,
             iou=told[-1]["iou"], images=round(told[-1]["throughput"] * told[-1]["epoch_time"]),
             **state)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
