"""Averages of the weights: their shares by hand, a run's against NumPy, tests, files, resume."""
import signal
from dataclasses import replace

import numpy as np
import pytest
from emulated_updates import use_updates
from helpers import (FLAGS, Page, assert_same, command, end, results, settings_of,
                     start_command)
from training import copy_of, differing, make_trainer

from nets import checkpoint
from nets.catalogue import CATALOGUE
from nets.checkpoint import AVERAGE
from runs.schedule import average_share

GAMMA = 16.97


# ----------------------------------------------------------------------------------- how they move
def weights_of(ema, count):
    """How much each of `count` steps weighs in their average."""
    weights = np.zeros(count)
    for step in range(1, count + 1):
        share = average_share(ema, step)
        weights *= 1 - share
        weights[step - 1] += share
    return weights


@pytest.mark.parametrize("ema", [0.999, 0.5, 1e-9, 1 - 1e-9, "auto"])
def test_the_first_step_is_all_and_the_weights_sum_to_one(ema):
    assert average_share(ema, 1) == 1
    assert weights_of(ema, 40).sum() == pytest.approx(1)


def test_an_exponential_average_by_hand():
    assert weights_of(0.5, 3) == pytest.approx([1 / 7, 2 / 7, 4 / 7])
    powers = 0.9 ** np.arange(29, -1, -1)
    assert weights_of(0.9, 30) == pytest.approx(powers / powers.sum())
    assert average_share(0.999, 10 ** 6) == pytest.approx(0.001)


@pytest.mark.parametrize("count", [1, 2, 30, 4000])
def test_an_average_that_grows_with_the_run_by_hand(count):
    """Step i weighs the integral of t ** gamma from i - 1 to i."""
    edges = (np.arange(count + 1) / count) ** (GAMMA + 1)
    assert weights_of("auto", count) == pytest.approx(np.diff(edges), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("count", [1000, 10_000])
def test_it_reaches_back_over_a_twentieth_of_the_steps(count):
    weights, steps = weights_of("auto", count), np.arange(1, count + 1) / count
    mean = (weights * steps).sum()
    assert 1 - mean == pytest.approx(1 / (GAMMA + 2), rel=0.02)
    assert ((weights * (steps - mean) ** 2).sum()) ** 0.5 == pytest.approx(0.05, rel=0.01)


# ---------------------------------------------------------------------------------------- the flag
@pytest.mark.parametrize("word", ["1", "-0.1", "nan", "half", ""])
def test_what_is_no_decay_is_refused(word, tmp_path, no_jittor):
    done = command("Main.py", "--ema", word, cwd=tmp_path, **no_jittor)
    assert done.returncode == 2 and "--ema: expected a number at least 0 and below 1" in done.stderr


def test_a_flag_wins_over_a_protocol():
    assert settings_of("--protocol", "fast").training.ema == 0
    assert settings_of("--protocol", "fast", "--ema", "auto").training.ema == "auto"
    assert settings_of("--ema", 0.99).training.ema == 0.99


# ------------------------------------------------------------------------------------------- a run
@pytest.fixture(params=["waiting", "composed", "kernels"])
def updates(request, monkeypatch):
    """The steps are those of a CPU, or those of a GPU: by Jittor's operators, or by the kernels."""
    if request.param != "waiting":
        use_updates(monkeypatch, request.param)
    return request.param


def averaging(build, dataset, tmp_path, loader=None, ema=0.5, epochs=(3, 2), sizes=3,
              frozen=(), **options):
    from backend.freezing import freeze
    model = build("Unet", 1, 2, base_channels=2, dropout_probs=[0.1] * 4)
    for var in model.state_dict().values():
        var.sync()  # the weights are drawn now, before a step's own seed
    freeze(model, frozen)
    return make_trainer(model, dataset(*[(20, 20)] * sizes), tmp_path, loader, epochs=epochs,
                        changes={"ema": ema}, **options)


def own_state(trainer):
    return {name: var.numpy().copy() for name, var in trainer.model.state_dict().items()}


def averages_of(trainer):
    return {name: var.numpy().copy() for name, var in trainer.state.averages.items()}


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


def recorded(trainer):
    """Let a trainer note its state after each step: the list."""
    states, step = [], trainer.train_step
    trainer.train_step = lambda batch: (step(batch), states.append(own_state(trainer)))[0]
    return states


@pytest.mark.jittor
@pytest.mark.parametrize("ema", [0.5, "auto"])
def test_a_run_averages_all_that_it_trains(build, dataset, tmp_path, poisoned, updates, ema):
    """Three epochs of three steps, one of them skipped; weights and statistics, in float64."""
    trainer = averaging(build, dataset, tmp_path, poisoned(lambda *at: at == (1, 1)), ema)
    begun = own_state(trainer)
    assert differing(begun, averages_of(trainer)) == set()
    states = recorded(trainer)
    assert trainer.run() is True and len(states) == 9
    assert differing(states[3], states[4]) == set(), "the step that was skipped"
    weights = weights_of(ema, 9)
    assert_close(averages_of(trainer), {
        name: sum(weight * state[name].astype(np.float64)
                  for weight, state in zip(weights, states)) for name in begun})
    assert any("running_var" in name for name in begun)


@pytest.mark.jittor
def test_averages_leave_the_training_alone(jt, build, dataset, tmp_path, updates):
    """Tests of the averages too: the weights and moments of a run without them are the same."""
    ends = []
    for ema in (0, 0.9):
        jt.set_global_seed(2)
        trainer = averaging(build, dataset, tmp_path, ema=ema, epochs=(3, 0))
        assert trainer.run() is True
        ends.append(copy_of(trainer))
        assert bool(trainer.state.averages) == bool(ema)
    assert differing(*ends) == set()


@pytest.mark.jittor
@pytest.mark.parametrize("frozen", [(), CATALOGUE["Unet"].encoder], ids=["all", "decoder"])
def test_tests_are_of_the_averages(build, dataset, tmp_path, updates, frozen):
    trainer = averaging(build, dataset, tmp_path, ema=0.9, frozen=frozen)
    other = averaging(build, dataset, tmp_path, ema=0)
    for _ in range(2):  # the convolutions keep packed filters of a test
        trainer.train_epoch()
        trainer.progress.begin_epoch(trainer.progress.epoch + 1)
        before = copy_of(trainer), averages_of(trainer)
        moved = differing(own_state(trainer), before[1])
        assert moved and not any(name.startswith(frozen) for name in moved)
        found = trainer.test(trainer.test_set)
        for name, var in other.model.state_dict().items():
            var.assign(before[1][name])
        expected = other.test(other.test_set)
        assert found.keys() == expected.keys()
        for name, prediction in found.items():
            assert prediction.probability == expected[name].probability
            assert prediction.scores == expected[name].scores
        assert differing(before[0], copy_of(trainer)) == set()
        assert differing(before[1], averages_of(trainer)) == set()
        given = trainer.test(trainer.test_set, weights=trainer.model.state_dict())
        assert any(given[name].probability != found[name].probability for name in found)


@pytest.mark.jittor
@pytest.mark.parametrize("error", [None, OSError])
def test_a_test_that_is_cut_short_gives_the_weights_back(build, dataset, tmp_path, updates, error):
    trainer = averaging(build, dataset, tmp_path)
    trainer.train_epoch()
    before, averages = copy_of(trainer), averages_of(trainer)
    predict, tested = trainer.predict, []

    def cut_short(*words):
        tested.append(own_state(trainer))
        trainer.stop.requested = trainer.stop.received = signal.SIGINT
        if error:
            raise error
        return predict(*words)
    trainer.predict = cut_short
    if error:
        with pytest.raises(error):
            trainer.validate_epoch()
    else:
        assert trainer.validate_epoch() == {}
    assert len(tested) == 1 and differing(tested[0], averages) == set()
    assert differing(before, copy_of(trainer)) == set()
    assert differing(averages, averages_of(trainer)) == set()


@pytest.mark.jittor
def test_averages_go_back_with_the_weights(build, dataset, tmp_path, poisoned, updates):
    """After three bad batches all is as at the start of epoch 1, and no bad number stays."""
    trainer = averaging(build, dataset, tmp_path, poisoned(lambda epoch, k: epoch == 1 and k),
                        sizes=5, epochs=(2, 1))
    ends = []
    trainer.recorder.on_epoch = lambda record: ends.append((own_state(trainer),
                                                            averages_of(trainer)))
    steps = recorded(trainer)
    assert trainer.run() is True and trainer.said
    (own, averages), (after, averages_after) = ends
    assert differing(own, after) == set()
    # from then on the weights stand still: the averages move towards them, and nowhere else
    still = [k for k, state in enumerate(steps) if k > 5 and not differing(state, own)]
    share = 1 - np.prod([1 - average_share(0.5, k + 1) for k in still])
    assert_close(averages_after, {
        name: array + share * (own[name] - array) for name, array in averages.items()})


@pytest.mark.jittor
@pytest.mark.parametrize("at", [(1, 0), (1, 2)])
@pytest.mark.parametrize("updates", ["waiting", "composed"], indirect=True)
def test_a_stopped_run_goes_on_to_the_same_averages(jt, build, dataset, tmp_path, poisoned, updates,
                                                    at):
    def start(stop_at=None):
        jt.set_global_seed(5)
        return averaging(build, dataset, tmp_path, epochs=(3, 0), ema="auto", loader=poisoned(
            lambda *now: now == stop_at and setattr(stopped.stop, "requested", signal.SIGTERM)))
    unbroken = start()
    assert unbroken.run() is True
    stopped = start(at)
    assert stopped.run() is False
    progress = replace(stopped.stored_progress())
    arrays = {name: var.numpy().copy() for name, var in stopped.state.vars().items()}
    resumed = start()
    checkpoint.assign(resumed.state.vars(), arrays, "stored")
    resumed.resume(progress)
    assert resumed.run() is True
    assert differing(copy_of(unbroken), copy_of(resumed)) == set()
    assert differing(averages_of(unbroken), averages_of(resumed)) == set()


# ---------------------------------------------------------------------------- through the commands
AVERAGED = (*FLAGS, "--ema", "0.9", "--augment", "none", "--base_channels", "4")
LAST, BEST = (f"checkpoints/{name}_model.safetensors" for name in ("last", "best"))


@pytest.fixture(scope="module")
def averaged(unbroken, tmp_path_factory):
    """A folder with a complete run that averages, on the data of the unbroken one."""
    folder = tmp_path_factory.mktemp("averaged")
    (folder / "data").symlink_to(unbroken / "data")
    done = command("Main.py", *AVERAGED, cwd=folder)
    assert done.returncode == 0 and "  ema=0.9  " in done.stdout, done.stderr
    return folder


def split(arrays):
    """(weights, averages) of a last_model's arrays, the averages under the weights' names."""
    averages = {name.removeprefix(AVERAGE): array for name, array in arrays.items()
                if name.startswith(AVERAGE)}
    return {name: arrays[name] for name in averages}, averages


def store(path, arrays, header):
    path.unlink()
    checkpoint.save(path, arrays, header)


@pytest.mark.jittor
def test_what_the_files_hold(averaged):
    """last_model has both; best_model has the averages, here those of the last epoch or earlier."""
    arrays, header = checkpoint.load(averaged / LAST)
    own, averages = split(arrays)
    assert len(averages) > 80 and differing(own, averages)
    best, of_best = checkpoint.load(averaged / BEST)
    assert best.keys() == own.keys()
    assert (of_best["epoch"] == header["epoch"]) == (differing(best, averages) == set())
    assert differing(best, own)
    assert differing(checkpoint.read_weights(averaged / LAST)[0], averages) == set()
    page, = averaged.glob("logs/report_*.html")
    assert any(["ema", "0.9"] in table for table in Page(page).tables)


@pytest.mark.jittor
def test_the_best_model_predicts_what_was_scored(averaged, tmp_path):
    done = command("Predict.py", "--Checkpoint", averaged / BEST, "--Input",
                   averaged / "data/test/imgs", "--Result_directory", "out", "--device", "cpu",
                   cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for path in (averaged / "results").glob("*_pred.png"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.jittor
def test_a_run_stopped_within_an_epoch_ends_with_the_same_averages(averaged, folder):
    process = start_command(folder, *AVERAGED)
    next(line for line in process.stdout if line.startswith("epoch   1"))
    end(process, signal.SIGINT)
    done = command("Main.py", "--resume", cwd=folder)
    assert done.returncode == 0 and "Resumed at" in done.stdout, done.stderr
    assert_same(results(folder), results(averaged))


@pytest.mark.jittor
@pytest.mark.parametrize("protocol", [None, "fast"])
def test_a_run_of_before_there_were_averages_goes_on_without(averaged, folder, monkeypatch,
                                                             protocol):
    arrays, header = checkpoint.load(averaged / LAST)
    settings = header["run"]["settings"]
    assert settings.pop("ema") == ["0.9"]
    if protocol:
        settings["protocol"] = [protocol]
    (folder / "checkpoints").mkdir()
    checkpoint.save(folder / LAST, arrays, header)
    monkeypatch.chdir(folder)
    assert settings_of("--resume").training.ema == 0


@pytest.mark.jittor
def test_a_run_that_is_forced_begins_averages_or_drops_them(averaged, folder):
    (folder / "checkpoints").mkdir()
    for name in (LAST, BEST):
        (folder / name).write_bytes((averaged / name).read_bytes())
    own, _ = split(checkpoint.load(averaged / LAST)[0])
    more = "--resume", "--Total_epochs", 4
    done = command("Main.py", *more, "--ema", 0, cwd=folder)
    assert done.returncode == 2 and "--ema 0.0 (was 0.9)" in done.stderr
    done = command("Main.py", *more, "--ema", 0, "--force", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert not any(name.startswith(AVERAGE) for name in checkpoint.load(folder / LAST)[0])
    done = command("Main.py", *more, "--ema", "auto", "--force", cwd=folder)
    assert done.returncode == 0, done.stderr
    found, begun = split(checkpoint.load(folder / LAST)[0])
    assert differing(found, own) == set() and differing(begun, own) == set(), "no step was left"


@pytest.mark.jittor
def test_reading_the_test_images_leaves_last_model_alone(folder):
    """The best model's predictions cannot be written: last_model still has the last weights."""
    flags = (*AVERAGED, "--val_fraction", 0.3, "--Total_epochs", 3, "--Val_epochs", 0)
    done = command("Main.py", *flags, cwd=folder)
    assert done.returncode == 0 and "Test images, read once" in done.stdout, done.stderr
    expected, header = checkpoint.load(folder / LAST)
    best, of_best = checkpoint.load(folder / BEST)
    assert of_best["test_scores"] and set(best) == set(split(expected)[0])
    # an earlier best model, so that it is not the present averages
    store(folder / BEST, {name: array * np.float32(1.5) for name, array in best.items()}, of_best)
    for path in (folder / "results").iterdir():
        if path.is_file():
            path.unlink()
        if path.name == "cell_0_pred.png":
            path.mkdir()
    done = command("Main.py", "--resume", cwd=folder)
    assert done.returncode == 1 and "cell_0_pred.png" in done.stderr, done.stderr
    assert differing(expected, checkpoint.load(folder / LAST)[0]) == set()
