"""Loops.py: what it notes of a real program's loops, and the imbalance, calculated by hand."""
import os
import subprocess

import pytest
from Loops import OBSERVER, Loop, imbalance

PROGRAM = """
#include <cstdio>
int main() {
    double sums[2] = {};
    #pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < 37; i++) sums[0] += 0;
    #pragma omp parallel for
    for (int i = 0; i < 5; i++) sums[1] += 0;
    std::printf("%g", sums[0] + sums[1]);
}
"""


@pytest.mark.parametrize("level", ["-O0", "-Ofast"])
def test_the_pieces_of_each_loop_are_noted(tmp_path, level):
    (tmp_path / "program.cpp").write_text(PROGRAM)
    notes, observer = tmp_path / "notes", tmp_path / "observer.so"
    subprocess.run(["g++", "-fopenmp", level, "-o", "program", "program.cpp"], cwd=tmp_path,
                   check=True)
    subprocess.run(["g++", "-shared", "-fPIC", "-o", observer, OBSERVER, "-ldl"], check=True)
    subprocess.run(["./program"], cwd=tmp_path, check=True,
                   env={**os.environ, "LD_PRELOAD": str(observer), "LOOPS": str(notes)})
    noted = [line.split("\t") for line in notes.read_text().splitlines()]
    assert [int(pieces) for pieces, *_ in noted] == [37, 0]
    assert all(float(seconds) > 0 for _, seconds, _ in noted)


def test_the_imbalance():
    assert imbalance([Loop(64, 1.0, "")], 16) == 1
    assert imbalance([Loop(10, 1.0, "")], 8) == pytest.approx(2 / (10 / 8))
    assert imbalance([Loop(64, 3.0, ""), Loop(4, 1.0, "")], 8) == pytest.approx((3 + 2) / 4)
