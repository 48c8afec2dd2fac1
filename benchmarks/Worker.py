"""One contender of the benchmark in a process of its own; `Bench.py` starts it and asks for one thing at a time.

    python benchmarks/Worker.py '{"answers": 5, "contender": "ours", "mode": "Unet", ...}'

Commands are lines on stdin, `train` and `predict`: one training step, one prediction.  Each is answered by one line of
JSON through the pipe that `answers` numbers; the first line, {}, says that the framework is imported.  Between two
commands the worker waits and computes nothing.  It ends with its stdin or with its parent.
"""
import ctypes
import json
import os
import re
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "alignment"), str(ROOT)]

LEARNING_RATE = 1e-3
DROPOUT = [0.2, 0.3, 0.4, 0.5]  # of the system that this one reproduces


# ---------------------------------------------------------------------------------------------- the same for either side
def net_options(task):
    """The options of build_model, as those of Main.py."""
    if task["mode"] != "Unet":
        return {"side_outputs": True}
    return {"bilinear": True, "dropout_probs": DROPOUT, "base_channels": task["base_channels"]}


def make_batch(task):
    """A training step's DataLoader.Batch of `batch` times the pair, mirrored or cut to `side` px.

    The file `pair` holds image (1, H, H) float32, label (H, H) int32 and weight (H, H) float32.
    """
    import numpy as np

    from DataLoader import Batch
    from MirrorPadding import mirror_pad, pad_for, reference_blocks
    from nets.geometry import geometry_of
    with np.load(task["pair"]) as pair:
        more = task["side"] - pair["label"].shape[0]
        image, label, weight = (mirror_pad(pair[name], 0, more, 0, more) for name in ("image", "label", "weight"))
    geometry = geometry_of(task["mode"])
    if task["contender"] == "reference":
        inputs = reference_blocks(image, geometry)
    else:
        inputs = pad_for(geometry, image, *label.shape)[None]
    inputs, label, weight = (np.concatenate([part] * task["batch"]) for part in (inputs, label[None], weight[None]))
    return Batch(inputs, label, weight)


# -------------------------------------------------------------------------------------------------------- the contenders
class Batches(list):
    """All that a step asks of its loader."""
    tile, seed = "full", 0

    def images(self, step):
        return len(self[step].labels)


class Ours:
    """A full tile through Model.py and Process.py, as Main.py trains."""

    @staticmethod
    def import_framework():
        from backend import start
        start.import_jittor("cpu")  # what `from Runtime import jt` does, for the CPU

    def __init__(self, task):
        from backend import start
        from backend.optimizers import build_optimizer
        from Model import build_model
        from Process import Trainer
        start.seed_everything(0)
        self.batch = make_batch(task)
        self.model = build_model(task["mode"], 1, 2, **net_options(task))
        self.trainer = Trainer(self.model, build_optimizer("adam", self.model, LEARNING_RATE), Batches([self.batch]),
                               test_set=None, total_epochs=1, val_epochs=0, on_epoch=None, on_best=None)

    def train(self):
        """One step; Jittor puts the optimiser's work off until somebody waits for it."""
        from backend.start import jt
        self.model.train()
        loss = self.trainer.train_step(self.batch)
        jt.sync_all(True)
        return {"loss": loss}

    def predict(self):
        """Logits of the batch, on the host: what Process.predict_image does with an image that is already mirrored."""
        from backend.start import jt
        from MirrorPadding import crop_logits
        self.model.eval()
        with jt.no_grad():
            outputs = self.model(jt.array(self.batch.inputs))
            logits = (outputs[0] if isinstance(outputs, list) else outputs).numpy()
        return {"shape": crop_logits(logits, *self.batch.labels.shape[1:]).shape}


class PyTorch:
    """The twin: eager on the full tile, or one of `reference`, `channels_last`, `compiled`."""

    @staticmethod
    def import_framework():
        import torch  # noqa: F401

    def __init__(self, task):
        import torch
        import TorchModel
        torch.manual_seed(0)
        self.kind, self.batch = task["contender"], make_batch(task)
        self.model = TorchModel.build_model(task["mode"], 1, 2, **net_options(task))
        if self.kind == "channels_last":
            self.model.to(memory_format=torch.channels_last)
        self.optimizer = TorchModel.build_optimizer("adam", self.model, LEARNING_RATE)
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

        from MirrorPadding import crop_logits, stitch_reference
        if self.kind == "reference":
            return stitch_reference(logits, torch.cat)
        return crop_logits(logits, *self.batch.labels.shape[1:])

    def train(self):
        import torch
        import TorchModel
        self.model.train()
        target = torch.from_numpy(self.batch.labels).long(), torch.from_numpy(self.batch.weights)
        loss = TorchModel.deep_supervision_loss([self.on_canvas(logits) for logits in self.outputs()], *target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item()}

    def predict(self):
        import torch
        self.model.eval()
        with torch.no_grad():
            return {"shape": self.on_canvas(self.outputs()[0]).numpy().shape}


# ----------------------------------------------------------------------------------------------------------- the process
def end_with_parent():
    """Have the kernel kill this process when its parent ends, however that happens, even in the middle of a step."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out, this process goes first


def peak_memory():
    """The largest resident size of this process so far, bytes.

    ru_maxrss, but of this program alone: Linux hands the parent's own peak on to a child's ru_maxrss.
    """
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text()).group(1))


def serve(task, answers):
    def answer(**values):
        print(json.dumps(values), file=answers, flush=True)

    try:
        kind = Ours if task["contender"] == "ours" else PyTorch
        kind.import_framework()
        answer()
        contender = kind(task)
        for line in sys.stdin:
            step = {"train": contender.train, "predict": contender.predict}[line.strip()]
            started = time.perf_counter()
            values = step()
            answer(seconds=time.perf_counter() - started, peak_bytes=peak_memory(), **values)
    except Exception as error:  # noqa: BLE001 - whatever it is, it becomes a row of the table
        text = str(error).strip().splitlines()
        answer(error=f"{type(error).__name__}: {text[0] if text else ''}")


if __name__ == "__main__":
    end_with_parent()
    asked = json.loads(sys.argv[1])
    serve(asked, os.fdopen(asked["answers"], "w"))
