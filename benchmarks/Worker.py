"""One contender of the benchmark in a process of its own.

    python benchmarks/Worker.py '{"answers": 5, "contender": "ours", "mode": "Unet", ...}'

`Race.py` starts it, and asks for one thing at a time.  Commands are lines on standard input:
`train` is one training step, `predict` one prediction.  Each is answered by one line of JSON
through the pipe that `answers` numbers.  The first line, {}, says that the framework is imported.
Between two commands the worker waits and computes nothing.  It ends with its standard input, or
with its parent.

The task, a JSON object, has the keys answers, contender (of Tables.CONTENDERS), mode, pair (a file
of arrays), side (px), batch, base_channels.
"""
import ctypes
import importlib
import json
import os
import re
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import Root  # noqa: F401 - puts the repository's root on the path

RACE_RATE = 1e-3                     # learning rate
RACE_DROPOUT = (0.2, 0.3, 0.4, 0.5)  # of the system that this one reproduces
PR_SET_PDEATHSIG = 1                 # prctl's number for: send me a signal when my parent ends


# ----------------------------------------------------------------------- the same for either side
def contender_options(mode, base_channels):
    """The options of build_model, as those of Main.py."""
    from nets.catalogue import CATALOGUE
    return CATALOGUE[mode].options({"bilinear": True, "dropout_probs": RACE_DROPOUT,
                                    "base_channels": base_channels, "padding": 0})


def contender_tile(contender):
    """The tiling of a contender: whole images, or the quadrants of the reference's protocol."""
    from MirrorPadding import Reference, Whole
    return Reference() if contender == "reference" else Whole()


def make_batch(task):
    """A training step's DataLoader.Batch: `batch` times the pair, mirrored or cut to `side` px.

    The file `pair` holds image (1, H, H) float32, label (H, H) int32, weight (H, H) float32.
    """
    import numpy as np

    from DataLoader import Batch
    from MirrorPadding import mirror_pad
    from nets.catalogue import CATALOGUE
    with np.load(task["pair"]) as pair:
        more = task["side"] - pair["label"].shape[0]
        image, label, weight = (mirror_pad(pair[name], 0, more, 0, more)
                                for name in ("image", "label", "weight"))
    options = contender_options(task["mode"], task["base_channels"])
    inputs = contender_tile(task["contender"]).net_inputs(
        CATALOGUE[task["mode"]].geometry(options), image, (0, 0), *label.shape)
    return Batch(*(np.concatenate([part] * task["batch"])
                   for part in (inputs, label[None], weight[None])))


# --------------------------------------------------------------------------------- the contenders
class OneBatch(list):
    """All that a step of the Trainer asks of its loader: one batch, and how it was made."""

    def __init__(self, batch, tile, seed=0):
        super().__init__([batch])
        self.tile, self.seed = tile, seed

    def images(self, step):
        return len(self[step].labels)


def race_settings(tile):
    """The TrainingSettings of the contenders: the paper's loss, Adam, a constant rate."""
    from runs.settings import TrainingSettings
    return TrainingSettings(
        protocol="reference", Total_epochs=1, Val_epochs=0, Batch_size=1, tile=tile,
        crops_per_image=1, Learning_rate=RACE_RATE, optimizer="adam", lr_schedule="constant",
        warm_up=0.0, clip_norm=0.0, loss="weighted_ce", Loss_w0=10.0, Loss_sigma=5.0,
        augment="none", best_by="iou", Time_budget=None, seed=0,
        precision="float32")


class JittorContender:
    """A full tile through Model.py and Process.py, as Main.py trains."""

    @staticmethod
    def import_framework():
        from backend import start
        start.import_jittor("cpu")  # what `from backend.start import jt` does, for the CPU

    def __init__(self, task):
        from backend import start
        from backend.optimizers import build_optimizer
        from Model import build_model
        from Process import Trainer
        start.seed_everything(0)
        self.batch, self.tile = make_batch(task), contender_tile(task["contender"])
        options = contender_options(task["mode"], task["base_channels"])
        self.model = build_model(task["mode"], 1, 2, **options)
        optimizer = build_optimizer("adam", self.model, RACE_RATE)
        self.trainer = Trainer(self.model, optimizer, OneBatch(self.batch, self.tile),
                               test_set=None, settings=race_settings(self.tile), recorder=None)

    def train(self):
        """One step; Jittor puts the optimiser's work off until somebody waits for it."""
        from backend.start import jt
        self.model.train()
        loss = self.trainer.train_step(self.batch)
        jt.sync_all(True)
        return {"loss": loss}

    def predict(self):
        """Logits of the batch, on the host.

        This is what Process.predict_image does with an image that is already mirrored.
        """
        from backend.start import jt
        self.model.eval()
        with jt.no_grad():
            outputs = self.model(jt.array(self.batch.inputs))
            logits = (outputs[0] if isinstance(outputs, list) else outputs).numpy()
        height, width = self.batch.labels.shape[1:]
        return {"shape": self.tile.on_canvas(logits, height, width, jt.concat).shape}


class TorchContender:
    """The PyTorch twin: eager on the full tile, or `reference`, `channels_last`, `compiled`."""

    @staticmethod
    def import_framework():
        importlib.import_module("torch")

    def __init__(self, task):
        import torch

        from alignment import TorchModel
        torch.manual_seed(0)
        self.kind, self.batch = task["contender"], make_batch(task)
        self.tile = contender_tile(self.kind)
        options = contender_options(task["mode"], task["base_channels"])
        self.model = TorchModel.build_model(task["mode"], 1, 2, **options)
        if self.kind == "channels_last":
            self.model.to(memory_format=torch.channels_last)
        self.optimizer = TorchModel.build_optimizer("adam", self.model, RACE_RATE)
        self.net = torch.compile(self.model) if self.kind == "compiled" else self.model

    def outputs(self):
        """The list of logits of the batch's inputs."""
        import torch
        inputs = torch.from_numpy(self.batch.inputs)
        if self.kind == "channels_last":
            inputs = inputs.to(memory_format=torch.channels_last)
        outputs = self.net(inputs)
        return outputs if isinstance(outputs, list) else [outputs]

    def on_canvas(self, logits):
        """(N, K, H, W) logits of the N images themselves."""
        import torch
        height, width = self.batch.labels.shape[1:]
        return self.tile.on_canvas(logits, height, width, torch.cat)

    def train(self):
        import torch

        from alignment import TorchModel
        self.model.train()
        loss = TorchModel.deep_supervision_loss(
            [self.on_canvas(logits) for logits in self.outputs()],
            torch.from_numpy(self.batch.labels).long(), torch.from_numpy(self.batch.weights))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item()}

    def predict(self):
        import torch
        self.model.eval()
        with torch.no_grad():
            return {"shape": self.on_canvas(self.outputs()[0]).numpy().shape}


# ------------------------------------------------------------------------------------ the process
def end_with_parent():
    """Have the kernel kill this process when its parent ends, even in the middle of a step."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with suppress(OSError):
        # where memory runs out, this process goes first
        Path("/proc/self/oom_score_adj").write_text("1000")


def peak_memory():
    """The largest resident size of this process so far, in bytes.

    It is ru_maxrss of this program alone.  Linux hands the parent's own peak on to a child's
    ru_maxrss.
    """
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status).group(1))


def serve(task, answers):
    """Answer the commands on standard input; answers: an open text file."""
    def answer(**values):
        print(json.dumps(values), file=answers, flush=True)

    try:
        kind = JittorContender if task["contender"] == "ours" else TorchContender
        kind.import_framework()
        answer()
        contender = kind(task)
        for line in sys.stdin:
            step = {"train": contender.train, "predict": contender.predict}[line.strip()]
            started = time.perf_counter()
            values = step()
            answer(seconds=time.perf_counter() - started, peak_bytes=peak_memory(), **values)
    except Exception as error:  # whatever it is, it becomes a row of the table
        lines = str(error).strip().splitlines() or [""]
        answer(error=f"{type(error).__name__}: {lines[0]}")


def main():
    end_with_parent()
    task = json.loads(sys.argv[1])
    serve(task, os.fdopen(task["answers"], "w"))


if __name__ == "__main__":
    main()
