"""Agreement.py, as a real process on a tiny net."""
import numpy as np
import pytest
from helpers import command, predictions_of, write_set

from backend.precision import has_bf16

pytestmark = [pytest.mark.jittor,
              pytest.mark.skipif(not has_bf16(), reason="needs a CPU with avx512_bf16")]
CHECKPOINT = "checkpoints/best_model.safetensors"


def test_the_shares_are_those_of_two_predictions(tmp_path):
    write_set(tmp_path / "set", [(64, 64)] * 4, [(64, 48), (48, 64)])
    done = command("Main.py", "--Data_directory", "set", "--Total_epochs", 2, "--base_channels", 4,
                   "--padding", 1, "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    masks = []
    for word in ("float32", "bf16"):
        done = command("Predict.py", "--Checkpoint", CHECKPOINT, "--Input", "set/test/imgs",
                       "--Result_directory", f"{word}/results", "--precision", word, "--device",
                       "cpu", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        masks.append(predictions_of(tmp_path / word))
    shares = {name: np.mean(mask == masks[1][name]) for name, mask in masks[0].items()}
    assert len(shares) == 2 and all(mask.any() for mask in masks[0].values())
    for wanted, code in (0, 0), (1, int(min(shares.values()) < 1)):
        done = command("benchmarks/Agreement.py", "--Checkpoint", CHECKPOINT, "--Input",
                       "set/test/imgs", "--share", wanted, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        assert all(f"{share:.5f}  {name}" in done.stdout for name, share in shares.items())
        assert f"least {min(shares.values()):.5f}" in done.stdout
