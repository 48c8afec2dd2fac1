"""The search for CUDA and its proof, with real compilers: each layout is found, compiled and tried.
"""
import pytest
from helpers import Page, write_set

FLAGS = ("--Data_directory", "data", "--base_channels", 8, "--Total_epochs", 1)


@pytest.fixture
def folder(tmp_path):
    write_set(tmp_path / "data", [(64, 64)] * 2, [(64, 64)])
    return tmp_path


@pytest.mark.parametrize("layout", ["wheels", "toolkit"])
def test_a_layout_is_found_and_compiled(gate, folder, layout):
    if layout == "toolkit" and not gate.toolkit.is_dir():
        pytest.skip("the toolkit's compiler is Debian's: no apt-get here")
    done = gate.run("Main.py", *FLAGS, "--device", "cuda", cwd=folder, layout=layout)
    assert done.returncode == 0, done.stdout + done.stderr
    page, = folder.glob("logs/report_*.html")
    assert "stand-in (CUDA)" in Page(page).text


def test_a_device_that_computes_nothing_fails_its_trial(gate, folder):
    """The program compiles and runs, Jittor's convolution differs: auto goes on with the CPU."""
    done = gate.run("Main.py", *FLAGS, "--device", "auto", cwd=folder, is_proved=False)
    assert done.returncode == 0, done.stdout + done.stderr
    line, = [line for line in done.stderr.splitlines() if "Running on the CPU" in line]
    assert "CUDA's trial failed: a convolution differs from the CPU's" in line
    refused = gate.run("Main.py", *FLAGS, "--device", "cuda", cwd=folder, is_proved=False)
    assert refused.returncode == 1
    assert "CUDA's trial failed: a convolution differs" in refused.stderr.splitlines()[-1]
