"""A few training steps, as one process or as one of mpirun's ranks: `python rank_steps.py CONFIGURATION.json`.

Writes `<size>.<rank>.npz` beside the configuration: every step's loss, the state afterwards, the test scores.
"""
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from backend import ranks, start


def main(path):
    config = json.loads(path.read_text())
    start.import_jittor("cpu")
    start.seed_everything(1)
    from backend.optimizers import build_optimizer
    from DataLoader import SegmentationSet, TrainingLoader
    from datasets.pairs import pair_by_name
    from images.values import Statistics
    from Model import build_model
    from nets.geometry import geometry_of
    from Process import Trainer
    from runs.plan import Plan
    from Transforms import augmentation

    folders = [Path(config["data"]) / "train" / kind for kind in ("imgs", "labels")]
    dataset = SegmentationSet(pair_by_name(*folders), 1, 2, Statistics((0.4,), (0.25,)))
    geometry = geometry_of("Unet", True, 0)
    loader = TrainingLoader(dataset, geometry, config["tile"], config["batch"], 1, path.parent / "weight_maps",
                            w0=10 if config["loss"] == "weighted_ce" else None, augment=augmentation(config["augment"]))
    model = build_model("Unet", 1, 2, base_channels=4, dropout_probs=[config["dropout"]] * 4)
    start.jt.sync_all(True)  # the weights are drawn now, before a step's own seed
    losses, told = [], []
    trainer = Trainer(model, build_optimizer("sgd", model, 0.002), loader, dataset, config["epochs"], config["epochs"] - 1,
                      told.append, lambda *_: None, plan=Plan(config["loss"], clip_norm=1.0))
    step = trainer.train_step
    trainer.train_step = lambda batch: losses.append(step(batch)) or losses[-1]
    assert trainer.run()
    state = {name: var.numpy() for name, var in trainer.state().items()}
    np.savez(path.parent / f"{ranks.size()}.{ranks.rank()}.npz", losses=losses, iou=told[-1]["iou"],
             images=round(told[-1]["throughput"] * told[-1]["epoch_time"]), **state)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
