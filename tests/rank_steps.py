"""A few training steps, as one process or as one of mpirun's ranks: `python rank_steps.py CONFIGURATION.json`.

Writes `<size>.<rank>.npz` beside the configuration: every step's loss, the state afterwards, the test scores.
"""
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import Ranks  # noqa: E402
import Runtime  # noqa: E402


def main(path):
    config = json.loads(path.read_text())
    Runtime.start("cpu")
    Runtime.seed_everything(1)
    from Common import pair_by_name
    from DataLoader import SegmentationSet, Statistics, TrainingLoader
    from MirrorPadding import geometry_of
    from Model import build_model
    from Process import Plan, Trainer, build_optimizer
    from Transforms import augmentation

    folders = [Path(config["data"]) / "train" / kind for kind in ("imgs", "labels")]
    dataset = SegmentationSet(pair_by_name(*folders), 1, 2, Statistics((0.4,), (0.25,)))
    geometry = geometry_of("Unet", True, 0)
    loader = TrainingLoader(dataset, geometry, config["tile"], config["batch"], 1, path.parent / "weight_maps",
                            w0=10 if config["loss"] == "weighted_ce" else None, augment=augmentation(config["augment"]))
    model = build_model("Unet", 1, 2, base_channels=4, dropout_probs=[config["dropout"]] * 4)
    Runtime.jt.sync_all(True)  # the weights are drawn now, before a step's own seed
    losses, told = [], []
    trainer = Trainer(model, build_optimizer("sgd", model, 0.002), loader, dataset, config["epochs"], config["epochs"] - 1,
                      told.append, lambda *_: None, plan=Plan(config["loss"], clip_norm=1.0))
    step = trainer.train_step
    trainer.train_step = lambda batch: losses.append(step(batch)) or losses[-1]
    assert trainer.run()
    state = {name: var.numpy() for name, var in trainer.state().items()}
    np.savez(path.parent / f"{Ranks.size}.{Ranks.rank}.npz", losses=losses, iou=told[-1]["iou"],
             images=round(told[-1]["throughput"] * told[-1]["epoch_time"]), **state)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
