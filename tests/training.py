"""Small Trainers for tests, and what their state is."""
from types import SimpleNamespace

import numpy as np
from helpers import settings_of


def make_trainer(model, dataset, tmp_path, loader=None, optimizer="adam", rate=0.01, epochs=(3, 0),
                 changes={}, **options):
    """A Trainer whose recorder appends to the trainer's lists `records`, `bests` and `said`.

    changes: {flag: value} of its settings.
    """
    from backend.optimizers import build_optimizer
    from DataLoader import TrainingLoader
    from nets.catalogue import CATALOGUE
    from Process import Trainer
    from WeightMap import WeightMaps
    mode, options_of_net = "U2netS", {}
    if hasattr(model, "inc"):
        mode, options_of_net = "Unet", {"bilinear": getattr(model, "bilinear", True)}
    geometry = CATALOGUE[mode].geometry(options_of_net)
    loader = (loader or TrainingLoader)(dataset, geometry, maps=WeightMaps(tmp_path / "weights"),
                                        **options)
    settings = settings_of("--Learning_rate", rate).replace(
        **{"Total_epochs": epochs[0], "Val_epochs": epochs[1], **changes}).training
    records, bests, said = [], [], []
    recorder = SimpleNamespace(on_epoch=records.append, on_best=lambda *best: bests.append(best),
                               say=said.append)
    trainer = Trainer(model, build_optimizer(optimizer, model, rate), loader, dataset, settings,
                      recorder)
    trainer.records, trainer.bests, trainer.said = records, bests, said
    return trainer


def copy_of(trainer):
    """Model, moments and step count, as NumPy arrays that nothing else writes to."""
    arrays = {name: var.numpy().copy() for name, var in trainer.model.state_dict().items()}
    for kind in ("values", "m"):
        for k, var in enumerate(trainer.optimizer.param_groups[0].get(kind, ())):
            arrays[f"{kind} {k}"] = var.numpy().copy()
    return arrays | {"n_step": np.array(trainer.optimizer.n_step)}


def differing(one, other):
    """The names whose arrays are not bitwise the same."""
    assert one.keys() == other.keys()
    return {name for name in one if one[name].tobytes() != other[name].tobytes()}
