"""One contender of the benchmark in a process of its own.

    python benchmarks/Worker.py '{"answers": 5, "contender": "ours", "mode": "Unet", ...}'

`Race.py` starts it, and asks for one thing at a time.  Commands are lines on standard input:
`train` is one training step, `predict` one prediction.  Each is answered by one line of JSON
through the pipe that `answers` numbers.  The first line, {}, says that the framework is imported.
Between two commands the worker waits and computes nothing.  It ends with its standard input, or
with its parent.

The task, a JSON object, has the keys answers, contender (of Contenders.py), mode, pair (a file
of arrays), side (px), batch, base_channels, and those of TASK where they differ.
"""
import ctypes
import importlib
import json
import os
import re
import signal
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import Root  # noqa: F401 - puts the repository's root on the path

RACE_RATE = 1e-3                     # learning rate
RACE_DROPOUT = (0.2, 0.3, 0.4, 0.5)  # of the system that this one reproduces
TASK = {"device": "cpu",              # or "cuda"
        "padding": 0,                 # of the U-Net's convolutions
        "steps": 1,                   # that a command makes, of which the last is waited for
        "compile_s": None}            # most seconds for the first step of what is compiled
# the PyTorch contenders with this layout in memory, in bf16 where that is safe, by torch.compile
CHANNELS_LAST = ("channels_last", "autocast", "compiled_bf16")
AUTOCAST = ("autocast_full", "autocast", "compiled_bf16")
COMPILED = ("compiled", "compiled_bf16")
PR_SET_PDEATHSIG = 1                 # prctl's number for: send me a signal when my parent ends


# ----------------------------------------------------------------------- the same for either side
def contender_options(mode, base_channels, padding=0):
    """The options of build_model, as those of Main.py."""
    from nets.catalogue import CATALOGUE
    return CATALOGUE[mode].options({"bilinear": True, "dropout_probs": RACE_DROPOUT,
                                    "base_channels": base_channels, "padding": padding,
                                    "conv_bias": True, "align_corners": False})


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
    options = contender_options(task["mode"], task["base_channels"], task["padding"])
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
        warm_up=0.0, clip_norm=0.0, ema=0.0, loss="weighted_ce", Loss_w0=10.0, Loss_sigma=5.0,
        augment="none", best_by="iou", Time_budget=None, seed=0,
        precision="float32", weights=None, preset=None, freeze=None)


class JittorContender:
    """A full tile through Model.py and Process.py, as Main.py trains."""

    @staticmethod
    def import_framework(device):
        from backend import start
        start.import_jittor(device)  # what `from backend.start import jt` does, for this device

    def __init__(self, task):
        from backend import start
        from backend.optimizers import build_optimizer
        from Model import build_model
        from Process import Trainer
        start.seed_everything(0)
        self.batch, self.tile = make_batch(task), contender_tile(task["contender"])
        options = contender_options(task["mode"], task["base_channels"], task["padding"])
        self.model = build_model(task["mode"], 1, 2, **options)
        if task["contender"] == "ours_bf16":
            self.model.element_type = "bfloat16"
        optimizer = build_optimizer("adam", self.model, RACE_RATE)
        self.trainer = Trainer(self.model, optimizer, OneBatch(self.batch, self.tile),
                               test_set=None, settings=race_settings(self.tile), recorder=None)

    def train(self):
        """One step, as Main.py makes it; on a GPU nothing waits for it."""
        self.model.train()
        return {"loss": self.trainer.train_step(self.batch)}

    def wait(self):
        """Wait for the device; Jittor puts the optimiser's work off until somebody does."""
        from backend.start import jt
        jt.sync_all(True)

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
    """The PyTorch twin: eager on the full tile, or as Contenders.py names it.

    On a GPU it has what a PyTorch user would give it: TF32, cuDNN's own search for the fastest
    convolutions, and a batch in pinned memory.
    """

    @staticmethod
    def import_framework(device):
        torch = importlib.import_module("torch")
        if device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError(f"PyTorch {torch.__version__} finds no GPU here")

    def __init__(self, task):
        import torch

        from alignment import TorchModel
        torch.manual_seed(0)
        self.kind, self.device = task["contender"], task["device"]
        self.batch, self.tile = make_batch(task), contender_tile(self.kind)
        self.tensors = [torch.from_numpy(array) for array in self.batch]
        if self.device == "cuda":
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
            self.tensors = [tensor.pin_memory() for tensor in self.tensors]
        options = contender_options(task["mode"], task["base_channels"], task["padding"])
        self.model = TorchModel.build_model(task["mode"], 1, 2, **options).to(self.device)
        if self.kind in CHANNELS_LAST:
            self.model.to(memory_format=torch.channels_last)
        self.optimizer = TorchModel.build_optimizer("adam", self.model, RACE_RATE)
        self.net = torch.compile(self.model) if self.kind in COMPILED else self.model

    def on_device(self):
        """The batch's inputs, labels and weights on the device."""
        return [tensor.to(self.device, non_blocking=True) for tensor in self.tensors]

    def canvases(self, inputs):
        """The list of (N, K, H, W) logits of the N images themselves, float32."""
        import torch
        if self.kind in CHANNELS_LAST:
            inputs = inputs.to(memory_format=torch.channels_last)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.kind in AUTOCAST):
            outputs = self.net(inputs)
        height, width = self.batch.labels.shape[1:]
        return [self.tile.on_canvas(logits.float(), height, width, torch.cat)
                for logits in (outputs if isinstance(outputs, list) else [outputs])]

    def train(self):
        from alignment import TorchModel
        self.model.train()
        inputs, labels, weights = self.on_device()
        loss = TorchModel.deep_supervision_loss(self.canvases(inputs), labels.long(), weights)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}

    def wait(self):
        import torch
        if self.device == "cuda":
            torch.cuda.synchronize()

    def predict(self):
        import torch
        self.model.eval()
        with torch.no_grad():
            return {"shape": self.canvases(self.on_device()[0])[0].cpu().numpy().shape}


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


@contextmanager
def time_limit(seconds, answer):
    """`with time_limit(seconds, answer):` say so and end this process where the block takes longer.

    None: no limit.  An exception would not do: torch.compile catches it and tries something else.
    """
    def end(*_):
        answer(error=f"no first step within {seconds} s")
        os._exit(1)
    signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds or 0)
    yield
    signal.alarm(0)


def class_of(contender):
    """The class of a contender in Contenders.py."""
    if contender.startswith("ours"):
        return JittorContender
    if contender.startswith(("onnx", "openvino")):
        from Exported import ExportedContender
        return ExportedContender
    return TorchContender


def serve(task, answers):
    """Answer the commands on standard input; answers: an open text file."""
    def answer(**values):
        print(json.dumps(values), file=answers, flush=True)

    try:
        kind = class_of(task["contender"])
        kind.import_framework(task["device"])
        answer()
        contender, limits = kind(task), {}
        if task["contender"] in COMPILED:
            limits = dict.fromkeys(("train", "predict"), task["compile_s"])
        for line in sys.stdin:
            step = getattr(contender, line.strip())
            started = time.perf_counter()
            with time_limit(limits.pop(line.strip(), None), answer):
                for _ in range(task["steps"]):
                    values = step()
                contender.wait()
            seconds = (time.perf_counter() - started) / task["steps"]
            if values.get("loss") is not None:  # a step that was skipped has none
                values = {"loss": float(values["loss"])}
            answer(seconds=seconds, peak_bytes=peak_memory(), **values)
    except Exception as error:  # whatever it is, it becomes a row of the table
        lines = str(error).strip().splitlines() or [""]
        answer(error=f"{type(error).__name__}: {lines[0]}")


def main():
    end_with_parent()
    task = {**TASK, **json.loads(sys.argv[1])}
    serve(task, os.fdopen(task["answers"], "w"))


if __name__ == "__main__":
    main()
