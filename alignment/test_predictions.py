"""Predict.py on files that PyTorch wrote, against PyTorch (needs PyTorch and Jittor).

    pytest alignment/test_predictions.py
"""
import numpy as np
import pytest
import torch
import TorchModel
from helpers import command
from PIL import Image
from skimage.transform import resize


def random_net(mode, n_channels, n_classes, **options):
    """A net in eval mode whose BatchNorms have seen something."""
    torch.manual_seed(0)
    model = TorchModel.build_model(mode, n_channels, n_classes, **options)
    for name, value in model.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return model.eval()


def predicted(folder, model, pixels, *flags):
    """What Predict.py makes of an image: its probabilities."""
    torch.save(model.state_dict(), folder / "net.pth")
    Image.fromarray(pixels).save(folder / "cell.png")
    done = command("Predict.py", "--Checkpoint", "net.pth", "--Input", "cell.png",
                   "--probabilities", "--device", "cpu", *flags, cwd=folder)
    assert done.returncode == 0, done.stderr
    return np.load(folder / "predictions" / "cell_prob.npy")


def answer(model, inputs):
    """The model's logits (K, H, W) for an image (H, W, C)."""
    inputs = np.ascontiguousarray(inputs.transpose(2, 0, 1)[None], np.float32)
    with torch.no_grad():
        return model(torch.from_numpy(inputs))[0]


@pytest.mark.parametrize("bilinear", [True, False])
@pytest.mark.parametrize("flags", [("--preset", "milesial"), ()])
def test_a_unet_as_milesials(tmp_path, bilinear, flags):
    model = random_net("Unet", 3, 2, bilinear=bilinear, base_channels=4, conv_bias=False,
                       padding=1, align_corners=True)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    expected = answer(model, pixels / 255).softmax(0).numpy()
    assert np.abs(predicted(tmp_path, model, pixels, *flags) - expected).max() < 1e-5


def test_u2netp(tmp_path):
    model = random_net("U2netS", 3, 1)
    pixels = np.random.default_rng(1).integers(0, 200, (150, 410, 3), np.uint8)
    small = resize(pixels, (320, 320), mode="constant")
    inputs = (small / small.max() - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    saliency = answer(model, inputs)[0].sigmoid().numpy()
    saliency = (saliency - saliency.min()) / np.ptp(saliency)
    expected = np.asarray(Image.fromarray(saliency).resize((410, 150), Image.Resampling.BILINEAR))
    found = predicted(tmp_path, model, pixels, "--preset", "u2netp")
    assert np.abs(found - expected).max() < 1e-4
