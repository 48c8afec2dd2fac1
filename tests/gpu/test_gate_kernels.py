"""Our CUDA kernels compile for every generation of cards, and as PTX for newer ones."""
import re
import subprocess

import pytest
from gate import ROOT

CARDS = (75, 80, 86, 89, 90)  # Turing to Hopper
FLAGS = ("-x", "cu", "-std=c++14", "--use_fast_math", "-w", "-c")  # Jittor's, where they count
FOLDER = ROOT / "backend" / "kernels" / "cuda"
HEADERS = sorted(path for path in FOLDER.glob("*.cuh") if "__global__" in path.read_text())


def launching_program(header):
    """A program that needs every kernel: it names each of the header's functions for the host."""
    text = header.read_text()
    names = re.findall(r"(?<!>\n)^(?:static|inline) void (\w+)\(", text, re.M)
    space, = re.findall(r"^namespace (\w+) {", text, re.M)
    used = ", ".join(f"(void*){space}::{name}" for name in names)
    return f'#include "launch.cuh"\n#include "{header.name}"\nvoid* used[] = {{{used}}};\n'


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.name)
def test_a_kernel_compiles_for_every_card(gate, tmp_path, header):
    nvcc = gate.site / "nvidia" / "cu13" / "bin" / "nvcc"
    (tmp_path / "program.cu").write_text(launching_program(header))
    cards = [f"-gencode=arch=compute_{card},code=sm_{card}" for card in CARDS]
    newer = f"-gencode=arch=compute_{CARDS[-1]},code=compute_{CARDS[-1]}"
    done = subprocess.run([nvcc, *FLAGS, *cards, newer, f"-I{FOLDER}", tmp_path / "program.cu",
                           "-o", tmp_path / "program.o"], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    kernels = set(re.findall(r"__global__ void\s+(?:__launch_bounds__\(\w+\)\s+)?(?!__)(\w+)\(",
                             header.read_text()))
    made = (tmp_path / "program.o").read_bytes()
    assert kernels and not [name for name in kernels if name.encode() not in made]
