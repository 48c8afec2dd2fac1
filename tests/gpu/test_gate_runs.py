"""Each net trains, is resumed and predicts with `--device cuda` on the stand-in.

The stand-in computes nothing, so no number counts here.  All that Jittor compiles for a GPU must
compile, link, load and run to the end.
"""
import pytest
from helpers import Page, write_set

NETS = {"Unet": ("--base_channels", 8), "U2net": (), "U2netS": ()}


@pytest.mark.parametrize("mode", NETS)
def test_a_net_trains_to_its_page_is_resumed_and_predicts(gate, tmp_path, mode):
    write_set(tmp_path / "data", [(96, 96)] * 2, [(96, 96)])
    flags = ["--mode", mode, *NETS[mode], "--Data_directory", "data", "--device", "cuda",
             "--Val_epochs", 1, "--Total_epochs"]
    for more in ([2], [3, "--resume"]):
        done = gate.run("Main.py", *flags, *more, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    page, = tmp_path.glob("logs/report_*.html")
    assert "stand-in (CUDA)" in Page(page).text
    with open(next(tmp_path.glob("logs/*.csv"))) as file:
        assert len(file.readlines()) == 1 + 3  # the head and a row for each epoch
    done = gate.run("Predict.py", "--Input", "data/test/imgs", "--device", "cuda", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stand-in (CUDA)" in done.stdout
    assert list(tmp_path.glob("predictions/*_pred.png"))
