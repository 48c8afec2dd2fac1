"""Our CUDA kernels compile for every generation of cards, in the operators that Jittor made.

The tests of test_gate_counts.py, which run before, have left those operators in the cache.
"""
import re
import subprocess

import pytest
from gate import ROOT

CARDS = (75, 80, 86, 89, 90)  # Turing to Hopper; newer ones compile the PTX of the last
HEADERS = sorted(path for path in (ROOT / "backend" / "kernels" / "cuda").glob("*.cuh")
                 if "__global__" in path.read_text())


def operators_with(header, home):
    """The commands that compiled Jittor's operators with a header as it is now."""
    keys = sorted(home.glob(".cache/jittor/**/jit/*_op.so.key"),
                  key=lambda key: key.stat().st_mtime)
    found = []
    for text in (key.read_text() for key in keys):  # a command, then '# file: hash of it' for each
        used = re.search(rf"^# {re.escape(str(header))}: (\d+)$", text, re.M)
        if used:
            found.append((used[1], text.split("\n#")[0]))
    return [command for made_with, command in found if made_with == found[-1][0]]


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.name)
def test_a_kernel_compiles_for_every_card(gate, tmp_path, header):
    operators = operators_with(header, gate.home("wheels"))
    assert operators, "no operator uses it: run the tests of test_gate_counts.py before"
    cards = [f"-gencode=arch=compute_{card},code=sm_{card}" for card in CARDS]
    newer = f"-gencode=arch=compute_{CARDS[-1]},code=compute_{CARDS[-1]}"
    for command in operators:
        command = re.sub(r"-arch=\S+|-code=\S+", "", command)
        command = re.sub(r' -o "[^"]+"', f' -o "{tmp_path}/operator.so"', command)
        done = subprocess.run(f"{command} {' '.join(cards)} {newer} --threads 2", shell=True,
                              text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
