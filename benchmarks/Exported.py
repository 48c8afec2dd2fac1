"""The PyTorch twin, exported to ONNX, in ONNX Runtime and in OpenVINO: for prediction.

    python benchmarks/Exported.py net.onnx '{"contender": "onnx", "mode": "Unet", ...}'

writes the file that both read; a contender calls it, so that PyTorch's memory is not its own.
"""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import Root  # noqa: F401 - puts the repository's root on the path


class ExportedContender:
    """A net that `run` computes: (N, C, H, W) float32 -> the logits of the same images."""

    @staticmethod
    def import_framework(_device):
        """Nothing: each kind imports its own with its net."""

    def __init__(self, task):
        from Worker import contender_tile, make_batch
        self.batch, self.tile = make_batch(task), contender_tile(task["contender"])
        names = ("mode", "side", "batch", "base_channels", "padding")
        path = Path(task["scratch"], "-".join(str(task[name]) for name in names) + ".onnx")
        if not path.exists():
            command = [sys.executable, __file__, str(path), json.dumps(task)]
            done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                  text=True)
            if done.returncode:
                raise RuntimeError(f"no export: {done.stderr.strip().splitlines()[-1]}")
        self.run = load_network(str(path), task["contender"])

    def wait(self):
        """Nothing: an answer is there when it is returned."""

    def predict(self):
        height, width = self.batch.labels.shape[1:]
        return {"shape": self.tile.on_canvas(self.run(self.batch.inputs), height, width,
                                             np.concatenate).shape}


def load_network(path, contender):
    """A function from inputs to logits, arrays; contender: 'onnx', 'openvino_f32', 'openvino'."""
    if contender == "onnx":
        import onnxruntime
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda inputs: session.run(None, {name: inputs})[0]
    import openvino
    hints = {"INFERENCE_PRECISION_HINT": "f32"} if contender == "openvino_f32" else {}
    network = openvino.Core().compile_model(path, "CPU", hints)
    return lambda inputs: network(inputs)[0]


def export(path, task):
    """Write the twin that a task names, with the inputs' shape, as ONNX."""
    import torch
    from Worker import contender_options, make_batch

    from alignment import TorchModel
    from alignment.Traced import write_onnx
    torch.manual_seed(0)
    options = contender_options(task["mode"], task["base_channels"], task["padding"])
    model = TorchModel.build_model(task["mode"], 1, 2, **options).eval()
    model.side_outputs = False  # of a U-2-Net: the fused output is the answer
    write_onnx(model, torch.from_numpy(make_batch(task).inputs), path, ("inputs", "logits"))


if __name__ == "__main__":
    export(sys.argv[1], json.loads(sys.argv[2]))
