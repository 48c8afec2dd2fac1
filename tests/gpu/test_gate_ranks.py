"""Two ranks train on two devices with NCCL, which Jittor compiles from the wheel's headers."""
import sys
from pathlib import Path

from helpers import write_set


def test_two_ranks_train_with_nccl(gate, tmp_path):
    write_set(tmp_path / "data", [(64, 64)] * 4, [(64, 64)])
    mpirun = [Path(sys.executable).parent / "mpirun", "--allow-run-as-root", "--oversubscribe",
              "-np", 2]
    done = gate.run("Main.py", "--Data_directory", "data", "--device", "cuda", "--base_channels", 8,
                    "--Batch_size", 2, "--Total_epochs", 1, cwd=tmp_path, through=mpirun,
                    devices=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.glob("logs/report_*.html"))
    assert list(gate.home("wheels").glob(".cache/jittor/**/jittor_nccl_core*.so"))
