"""Ablation.py, as a real process on a tiny data set."""
import csv

import pytest
from Ablation import AblationRow, markdown
from helpers import command, write_set


@pytest.mark.jittor
def test_a_row_for_each_run_and_each_run_once(tmp_path):
    write_set(tmp_path / "set", [(64, 48)] * 5, [(64, 64)])
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "ablation.csv").write_text(
        f"{','.join(AblationRow._fields)}\n"
        "set,,4.0,8 base channels,3,,9,0.1,0.9,0.9\n"
        "set,(.*)_,0.01,8 base channels,3,,9,0.1,0.9,0.9\n")
    for _ in range(2):
        done = command("benchmarks/Ablation.py", "--Data_directory", "set", "--minutes", "0.01",
                       "--variants", "8 base channels", "--seeds", "3", "--jobs", "1",
                       "--Result_directory", "results", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    with open(tmp_path / "results" / "ablation.csv", newline="") as file:
        *others, row = csv.DictReader(file)
    row = AblationRow(**row)
    assert row.budget == ("set", "", "0.01")
    assert (row.variant, row.seed) == ("8 base channels", "3")
    assert row.flags == "--base_channels 8"
    assert int(row.epochs) >= 1 and float(row.train_loss) > 0
    assert 0 <= float(row.held_out_iou) <= 1 and 0 <= float(row.test_iou) <= 1
    assert "| 9 |" not in done.stdout and len(others) == 2, "those of another budget and split"
    assert f"| 8 base channels, seed 3 | `--base_channels 8` | {row.epochs} |" in done.stdout


def test_the_table_is_sorted_and_measured_from_the_recipe():
    rows = [("the recipe", "0", "", "37", "0.25", "0.80", "0.7"),
            ("the recipe", "1", "", "37", "0.25", "0.82", "0.7"),
            ("dropout", "0", "--dropout_probs 0.2", "30", "0.3", "0.86", "0.75")]
    table = markdown([AblationRow("set", "", "4", *row) for row in rows])
    _, _, first, second, last = table.splitlines()
    assert first == ("| dropout | `--dropout_probs 0.2` | 30 | 0.300 | 0.8600 | +0.0500 | "
                     "0.7500 |")
    assert second.startswith("| the recipe, seed 1 |  | 37 |")
    assert "| +0.0100 |" in second and "| -0.0100 |" in last
