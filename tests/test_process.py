"""Process.py and runs/ on tiny U-Nets: steps against NumPy, bad batches, a whole run, its stop."""
import io
import os
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
from helpers import settings_of
from PIL import Image
from training import copy_of, differing, make_trainer

pytestmark = pytest.mark.jittor


# ----------------------------------------------------------------------------------- the optimisers
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_two_steps_equal_the_formulas(jt, name):
    """Gradients are given by hand, some so small that it matters where Adam's epsilon stands."""
    from backend.optimizers import build_optimizer
    rng, rate = np.random.default_rng(4), 0.1
    model = jt.nn.Sequential(jt.nn.Conv(1, 3, 3), jt.nn.BatchNorm(3))
    optimizer = build_optimizer(name, model, rate)
    trained = {key: var for key, var in model.state_dict().items() if "running" not in key}
    values = {key: rng.normal(size=var.shape) * 10.0 ** rng.integers(-6, 1, var.shape)
              for key, var in trained.items()}
    for key, var in trained.items():
        var.assign(values[key].astype(np.float32))
    first, second = ({key: np.zeros(array.shape) for key, array in values.items()}
                     for _ in range(2))
    for step in (1, 2):
        gradients = {key: rng.normal(size=array.shape) * 10.0 ** rng.integers(-8, 1, array.shape)
                     for key, array in values.items()}
        optimizer.zero_grad()
        optimizer.backward(sum((jt.array(g.astype(np.float32)) * trained[key]).sum()
                               for key, g in gradients.items()))
        optimizer.step()
        for key, g in gradients.items():
            if name == "sgd":
                first[key] = 0.99 * first[key] + g
                values[key] = values[key] - rate * first[key]
            else:
                beta = {"adam": 0.99, "adamw": 0.9}[name]
                if name == "adam":  # its decay is a part of the gradient, that of adamw is not
                    g = g + 1e-4 * values[key]
                else:
                    values[key] = values[key] * (1 - rate * 0.01)
                first[key] = beta * first[key] + (1 - beta) * g
                second[key] = 0.999 * second[key] + 0.001 * g ** 2
                corrected = first[key] / (1 - beta ** step), second[key] / (1 - 0.999 ** step)
                values[key] = values[key] - rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
            assert np.allclose(trained[key].numpy(), values[key], rtol=1e-4, atol=1e-6), (key, step)
    assert len(trained) == 4


# -------------------------------------------------------------------------------------- bad batches
def test_loss_guard():
    from runs.guard import LossGuard
    nan, inf = float("nan"), float("inf")
    guard = LossGuard(warm_up=3, factor=20, window=4)
    assert [guard.accepts(loss) for loss in (nan, inf, 1, 1, -inf, 2)] == [
        False, False, True, True, False, True]
    assert not guard.accepts(20.1) and guard.accepts(20), "20 times the median of 1, 1, 2"
    assert not guard.accepts(40.1) and guard.accepts(40), (
        "twice the largest, more than 20 times 1.5")
    assert not guard.accepts(220.1), "20 times the median of 1, 2, 20, 40"
    assert all(guard.accepts(3) for _ in range(4))
    assert not guard.accepts(60.1) and guard.accepts(60), "what has left the window does not count"
    assert list(guard.accepted) == [3, 3, 3, 60], "what was refused is not remembered"


def test_rare_objects_are_no_outliers():
    """Nine in ten images are empty, with a loss near 0 soon; the tenth is there to learn from."""
    from runs.guard import LossGuard
    guard, rng = LossGuard(), np.random.default_rng(8)
    for epoch in range(30):
        for k in rng.permutation(20):
            assert guard.accepts(0.9 ** epoch * rng.uniform(0.4, 0.6) if k < 2
                                 else 0.3 ** epoch * 0.5)


def test_objects_that_are_seen_twice_in_an_epoch_are_no_outliers(build, dataset, tmp_path):
    """Two images of 300 show an object: hundreds of empty ones may lie between them."""
    from runs.guard import LossGuard
    guard, rng = LossGuard(window=2 * 300), np.random.default_rng(8)
    for epoch in range(20):
        for k in rng.permutation(300):
            assert guard.accepts(0.9 ** epoch * rng.uniform(0.4, 0.6) if k < 2
                                 else 0.3 ** epoch * 0.5)
    trainer = make_trainer(build("Unet", 1, 2, base_channels=2), dataset(*[(8, 8)] * 60), tmp_path)
    assert trainer.guard.accepted.maxlen == 120, "two epochs"


def test_images_without_a_known_pixel_say_nothing_about_losses():
    from runs.guard import LossGuard
    guard = LossGuard()
    assert all(guard.accepts(0.0) for _ in range(30)) and guard.accepts(0.7)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_bad_batch_leaves_no_trace(build, dataset, tmp_path, poisoned, optimizer):
    """Epoch 1 has one batch; where it is bad, everything is as after epoch 0."""
    ends = []
    for bad in (lambda epoch, k: False, lambda epoch, k: epoch == 1 and k == 0):
        trainer = make_trainer(build("Unet", 1, 2, base_channels=2, dropout_probs=[0] * 4),
                               dataset((20, 20)), tmp_path, poisoned(bad), optimizer, epochs=(2, 1))
        rng = np.random.default_rng(5)
        for name, var in trainer.model.state_dict().items():
            if "running" not in name:
                var.assign(rng.normal(0, 0.2, var.shape).astype(np.float32))
        snapshots = []
        trainer.recorder.on_epoch = lambda record, trainer=trainer, to=snapshots: to.append(
            (record, copy_of(trainer)))
        assert trainer.run() is True
        ends.append(snapshots)
    (_, good), (last, _) = ends[0]
    (_, same), (record, after) = ends[1]
    assert differing(good, same) == set()
    assert differing(same, after) == set(), "parameters, moments, step count and statistics stay"
    assert (record["skipped"], last["skipped"]) == (1, 0)
    assert np.isnan(record["train_loss"]) and np.isfinite(last["train_loss"])
    without = differing(good, ends[0][1][1])
    assert without >= {"n_step", "values 0", "outc.conv.weight", "inc.double_conv.1.running_mean"}


def test_three_bad_batches_bring_the_epochs_start_back(build, dataset, tmp_path, poisoned):
    """Epoch 1: a good step, then three bad ones: the good step is undone too.

    Epoch 2: three bad ones, but not in a row.
    """
    trainer = make_trainer(build("Unet", 1, 2, base_channels=2), dataset(*[(20, 20)] * 4), tmp_path,
                           poisoned(lambda epoch, k: epoch == 1 and k > 0
                                    or epoch == 2 and k != 2), epochs=(3, 0))
    snapshots = []
    trainer.recorder.on_epoch = lambda record: snapshots.append(
        (record["skipped"], copy_of(trainer)))
    assert trainer.run() is True
    assert [skipped for skipped, _ in snapshots] == [0, 3, 3]
    assert differing(snapshots[0][1], snapshots[1][1]) == set()
    assert "outc.conv.weight" in differing(snapshots[1][1], snapshots[2][1]), "then it learns on"
    assert snapshots[2][1]["n_step"] == 5
    assert trainer.said == [
        "epoch 1: 3 bad batches in a row (loss nan): back to the last good state"]


def test_a_snapshot_stays_as_it_is_however_often_it_is_restored(build, dataset, tmp_path):
    trainer = make_trainer(build("Unet", 1, 2, base_channels=2), dataset(*[(20, 20)] * 2), tmp_path)
    trainer.train_epoch()
    before, n_step = copy_of(trainer), trainer.optimizer.n_step
    snapshot = trainer.state.snapshot(n_step)
    for _ in range(2):
        trainer.progress.begin_epoch(trainer.progress.epoch + 1)
        trainer.train_epoch()
        assert differing(before, copy_of(trainer)) >= {"n_step", "values 0", "outc.conv.weight",
                                                       "inc.double_conv.1.running_mean"}
        trainer.state.restore(snapshot)
        assert differing(before, copy_of(trainer)) == set()


def test_a_loss_that_never_recovers_ends_the_run(build, dataset, tmp_path, poisoned):
    from runs.guard import TrainingFailed
    trainer = make_trainer(build("Unet", 1, 2, base_channels=2), dataset(*[(20, 20)] * 2), tmp_path,
                           poisoned(lambda epoch, k: epoch > 0), epochs=(99, 98))
    states = []
    start = copy_of(trainer)
    trainer.recorder.on_epoch = lambda record: states.append((record["skipped"], copy_of(trainer)))
    with pytest.raises(TrainingFailed,
                       match=r"^epoch 3: the loss stays at nan, .*--Learning_rate[^\n]*$"):
        trainer.run()
    assert [skipped for skipped, _ in states] == [0, 2, 2]
    assert differing(states[0][1], states[1][1]) == set(), "bad batches change nothing"
    assert differing(start, states[2][1]) == set(), (
        "epoch 0 ended in a state from which no batch was good")


def test_bad_batches_right_after_a_resume_bring_back_what_it_began_with(
        build, dataset, tmp_path, poisoned):
    trainer = make_trainer(build("Unet", 1, 2, base_channels=2), dataset(*[(20, 20)] * 4), tmp_path,
                           poisoned(lambda epoch, k: epoch == 1 and k < 3), epochs=(2, 1))
    assert trainer.train_epoch()["skipped"] == 0
    trainer.progress.begin_epoch(1)
    progress, before = replace(trainer.stored_progress()), copy_of(trainer)
    resumed = make_trainer(trainer.model, trainer.test_set, tmp_path, type(trainer.loader),
                           epochs=(2, 1))
    for name, var in trainer.state.vars().items():
        resumed.state.vars()[name].assign(var)
    resumed.resume(progress)
    said, steps = [], []
    resumed.recorder.say, step = said.append, resumed.optimizer.step
    resumed.optimizer.step = lambda: (steps.append(differing(copy_of(resumed), before)), step())
    assert resumed.run() is True
    assert said == ["epoch 1: 3 bad batches in a row (loss nan): back to the last good state"]
    assert len(steps) == 1
    assert not steps[0] - {"n_step"} - {name for name in before if "running" in name}


def test_a_run_that_keeps_diverging_ends(build, dataset, tmp_path):
    """After each return some batches are good, until the loss explodes again: no recovery."""
    from runs.guard import TrainingFailed
    trainer = make_trainer(build("Unet", 1, 2, base_channels=2), dataset(*[(20, 20)] * 8),
                           tmp_path, rate=1e30, epochs=(99, 98))
    with pytest.raises(TrainingFailed):
        trainer.run()
    assert trainer.progress.epoch < 3
    assert all(np.isfinite(array).all() for array in copy_of(trainer).values()), (
        "back in the last good state")


def test_a_bad_batch_takes_only_its_own_statistics_away(build, dataset, tmp_path, poisoned):
    trainer = make_trainer(build("Unet", 1, 2, base_channels=2), dataset(*[(20, 20)] * 3), tmp_path,
                           poisoned(lambda epoch, k: k == 2))
    before, _, bad = trainer.loader.epoch(0)
    assert trainer.train_step(before) is not None
    state = copy_of(trainer)
    assert trainer.train_step(bad) is None
    assert differing(state, copy_of(trainer)) == set()


# ----------------------------------------------------------------------------------------- the loss
def test_the_gradient_of_a_batch_is_the_mean_over_its_images(build, jt, dataset, tmp_path):
    """Images of different sizes: the canvas is larger than each, and has weight 0 outside it."""
    from Loss import weighted_cross_entropy
    from MirrorPadding import Whole
    from Process import batch_loss
    model = build("Unet", 1, 2, bilinear=False, base_channels=2, dropout_probs=[0] * 4)
    for module in model.modules():
        # in training BatchNorm couples a batch's images
        module.is_train = not isinstance(module, jt.nn.BatchNorm)
    trainer = make_trainer(model, dataset((20, 36), (36, 20)), tmp_path)
    assert trainer.loader.batch([0, 1], 0).labels.shape == (2, 36, 36)
    found = []
    for indices in ([0, 1], [0], [1]):
        loss = batch_loss(model, trainer.loader.batch(indices, 0), Whole(), weighted_cross_entropy)
        gradients = jt.grad(loss, trainer.optimizer.param_groups[0]["params"])
        found.append([loss.item(), *(gradient.numpy() for gradient in gradients)])
    # weights and biases: 3 x 3, BatchNorm, transposed, 1 x 1
    assert len(found[0]) == 1 + 2 * (18 + 18 + 4 + 1)
    for together, one, other in zip(*found):
        assert np.abs(together - (one + other) / 2).max() < 1e-4 * np.abs(together).max() + 1e-6
    assert abs(found[1][0] - found[2][0]) > 1e-3, (
        "two images of the same loss would prove nothing")


def numpy_loss(logits, batch):
    log = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -(batch.weights * np.take_along_axis(
        log, batch.labels[:, None].astype(int), 1)[:, 0]).mean()


def test_deep_supervision_sums_the_losses_of_all_side_outputs(build, jt, dataset, tmp_path):
    from Loss import weighted_cross_entropy
    from MirrorPadding import Whole
    from Process import batch_loss
    trainer = make_trainer(build("U2netS", 1, 2, side_outputs=True), dataset((40, 50)), tmp_path)
    trainer.model.eval()
    batch = trainer.loader.batch([0], 0)
    outputs = [output.numpy().astype(np.float64)
               for output in trainer.model(jt.array(batch.inputs))]
    assert [output.shape for output in outputs] == [(1, 2, 64, 64)] * 7
    expected = sum(numpy_loss(output[:, :, 12:52, 7:57], batch) for output in outputs)
    assert (batch_loss(trainer.model, batch, Whole(), weighted_cross_entropy).item()
            == pytest.approx(expected, rel=1e-4))


def test_stitching_vars_equals_stitching_arrays(jt):
    from nets.quadrants import stitch_reference
    logits = np.random.default_rng(6).normal(size=(8, 2, 260, 260)).astype(np.float32)
    expected = stitch_reference(logits, np.concatenate)
    assert np.array_equal(stitch_reference(jt.array(logits), jt.concat).numpy(), expected)


# ------------------------------------------------------------------------------------------ the run
def test_a_run_learns_and_tests_from_val_epochs_on(jt, build, dataset, tmp_path):
    jt.set_global_seed(0)
    trainer = make_trainer(build("Unet", 1, 2, base_channels=2, dropout_probs=[0] * 4),
                           dataset((20, 20), (36, 20)), tmp_path, epochs=(12, 10), rate=0.02,
                           batch_size=2)
    assert trainer.run() is True
    losses = [record["train_loss"] for record in trainer.records]
    assert [record["epoch"] for record in trainer.records] == list(range(12))
    assert losses[-1] < 0.75 * losses[0]
    assert ["iou" in record for record in trainer.records] == [False] * 10 + [True] * 2
    assert all(record["throughput"] * record["epoch_time"] == pytest.approx(2)
               for record in trainer.records)
    best = max(trainer.records[10:], key=lambda record: record["iou"])
    assert trainer.bests[-1][0] == best["epoch"]
    assert trainer.bests[-1][1]["iou"] == best["iou"] == trainer.progress.best_score


@pytest.fixture
def objects(tmp_path):
    """A function that writes pairs of given (mask, numbered objects) as a SegmentationSet.

    Each image shows its mask, white on black.
    """
    from datasets.segmentation import SegmentationSet
    from images.formats import write_png
    from images.values import Statistics

    def write(*images):
        pairs = []
        for k, (mask, numbers) in enumerate(images):
            pairs.append((tmp_path / f"mask{k}.png", tmp_path / f"numbers{k}.png"))
            write_png(pairs[-1][0], (255 * mask).astype(np.uint8))
            write_png(pairs[-1][1], numbers.astype(np.uint16))
        return SegmentationSet(pairs, 1, 2, Statistics((0.5,), (0.5,)), label_kind="objects")
    return write


def test_predicted_objects_are_scored_against_the_numbers(jt, objects, tmp_path):
    """A net that answers what its image shows.  Two objects of 8 x 6 px touch, numbered 9 and 500.

    First image: the mask without their border of 8 x 2 px, which comes back.  Second one: the mask
    with it, so that both are one component of 96 px.  Third one: the right object alone.
    """
    from DataLoader import TrainingLoader
    from nets.catalogue import CATALOGUE
    from Process import Tester

    class Shown(jt.nn.Module):
        def execute(self, x):
            return jt.concat([-x, x], 1)
    numbers = np.zeros((20, 30))
    numbers[6:14, 8:14], numbers[6:14, 14:20] = 9, 500
    parted, together = numbers > 0, numbers > 0
    parted[:, 13:15] = False
    dataset = objects((parted, numbers), (together, numbers), (numbers == 500, numbers))
    geometry = CATALOGUE["Unet"].geometry({"bilinear": True, "padding": 1})
    tester = Tester(Shown(), TrainingLoader(dataset, geometry), 0.0)
    found = tester.test(dataset)
    expected = [{"iou": 1, "dice": 1, "f1": 1, "aji": 1, "pq": 1},
                {"iou": 1, "dice": 1, "f1": 1, "aji": (48 + 48) / (96 + 96), "pq": 0},
                {"iou": 1 / 2, "dice": 2 / 3, "f1": 2 / 3, "aji": 48 / 96, "pq": 1 / (1 + 1 / 2)}]
    assert [prediction.scores for prediction in found.values()] == [
        pytest.approx(each) for each in expected]
    masks = [np.asarray(Image.open(io.BytesIO(prediction.mask))) for prediction in found.values()]
    for mask, shown in zip(masks, (numbers > 0, numbers > 0, numbers == 500)):
        assert (mask == 255 * shown).all()


@pytest.mark.parametrize("best_by, bests", [("iou", [0, 1]), ("dice", [0, 1]), ("aji", [0]),
                                            ("pq", [0])])
def test_the_best_model_is_chosen_by_a_score(build, objects, tmp_path, best_by, bests):
    """Epoch 0 answers background, and epoch 1 foreground, everywhere.

    Two images are full of three objects, and a third one is empty.  All scores begin with 1/3.
    Then IoU and Dice rise to 2/3, AJI falls to 2/9 (400 of 3 x 400 px in two images), PQ to 0.
    """
    numbers, empty = np.ones((20, 20)), np.zeros((20, 20))
    numbers[:, 7:14], numbers[:, 14:] = 2, 3
    trainer = make_trainer(build("Unet", 1, 2, base_channels=2),
                           objects((empty, numbers), (empty, numbers), (empty, empty)), tmp_path,
                           changes={"best_by": best_by})
    bias, means = trainer.model.outc.conv.bias, []
    for trainer.progress.epoch, foreground in enumerate((-1e3, 1e3)):
        bias.assign(np.array([0, foreground], np.float32))
        means.append(trainer.validate_epoch())
    assert means == [pytest.approx({**dict.fromkeys(("iou", "dice", "f1"), pixels / 3),
                                    "aji": aji, "pq": pq})
                     for pixels, aji, pq in ((1, 1 / 3, 1 / 3), (2, 2 / 9, 0))]
    assert [best[0] for best in trainer.bests] == bests
    assert trainer.progress.best_score == means[bests[-1]][best_by]


def test_only_a_new_best_is_reported(build, dataset, tmp_path):
    trainer = make_trainer(build("Unet", 1, 2, base_channels=2),
                           dataset((20, 20), (36, 20)), tmp_path)
    bias = trainer.model.outc.conv.bias
    expected = np.mean([110 / (20 * 20), 110 / (36 * 20)])
    for trainer.progress.epoch, (foreground, reported) in enumerate(
            [(-1e3, 1), (1e3, 2), (-1e3, 2), (1e3, 2)]):
        bias.assign(np.array([0, foreground], np.float32))
        assert trainer.validate_epoch()["iou"] == pytest.approx(expected if foreground > 0 else 0)
        assert len(trainer.bests) == reported
        assert not trainer.model.is_training()
    for (epoch, scores, predictions), value, iou in zip(trainer.bests, (0, 255), (0, expected)):
        assert epoch == (value > 0) and scores["iou"] == pytest.approx(iou)
        sizes = {}
        for name, prediction in predictions.items():
            for content in (prediction.mask, prediction.probability):
                pixels = np.asarray(Image.open(io.BytesIO(content)))
                assert pixels.dtype == np.uint8 and (pixels == value).all()
                sizes[name] = pixels.shape
        assert sizes == {"image0": (20, 20), "image1": (36, 20)}
        each = [predictions[name].scores["iou"] for name in ("image0", "image1")]
        assert each == ([110 / 400, 110 / 720] if value else [0, 0])


def test_a_best_that_could_not_be_written_is_none(build, dataset, tmp_path):
    """After the full disk a resumed run meets the same epoch as a new best again."""
    trainer = make_trainer(build("Unet", 1, 2, base_channels=2), dataset((20, 20)), tmp_path)
    written = trainer.recorder.on_best

    def full(*_):
        raise OSError(28, "No space left on device")
    trainer.recorder.on_best = full
    with pytest.raises(OSError):
        trainer.validate_epoch()
    trainer.recorder.on_best = written
    trainer.validate_epoch()
    assert len(trainer.bests) == 1


# ----------------------------------------------------------------------------------------- the plan
@pytest.mark.parametrize("schedule, warm_up, done, expected", [
    ("constant", 0, 0.01, 1), ("constant", 0, 1, 1),
    ("constant", 0.1, 0.05, 0.5), ("constant", 0.1, 0.2, 1),
    ("cosine", 0, 0.5, 0.5), ("cosine", 0, 1 / 3, 0.75), ("cosine", 0, 1, 0),
    ("cosine", 0.5, 0.25, 0.5 * (1 + 0.5 ** 0.5) / 2)])
def test_the_schedule(schedule, warm_up, done, expected):
    from runs.schedule import learning_rate
    settings = settings_of("--lr_schedule", schedule, "--warm_up", warm_up,
                           "--Learning_rate", 0.5).training
    assert learning_rate(settings, done) == pytest.approx(0.5 * expected)


def test_every_step_has_its_place_in_the_schedule(build, dataset, tmp_path):
    """Two epochs of three steps, the second resumed after its first step."""
    rates = []

    def watched(**progress):
        trainer = make_trainer(build("Unet", 1, 2, base_channels=2),
                               dataset((20, 20), (20, 20), (20, 20)), tmp_path, rate=0.5,
                               epochs=(2, 1), changes={"lr_schedule": "cosine"})
        step = trainer.optimizer.step
        trainer.optimizer.step = lambda: (rates.append(trainer.optimizer.lr), step())
        trainer.resume(replace(trainer.stored_progress(), **progress))
        assert trainer.run() is True
    watched()
    assert rates == pytest.approx([0.25 * (1 + np.cos(np.pi * k / 6)) for k in np.arange(6) + 0.5])
    watched(epoch=1, step=1)
    assert rates[6:] == pytest.approx(rates[4:6])


@pytest.mark.parametrize("largest", [0.01, 1e6])
def test_a_long_gradient_is_cut_and_keeps_its_direction(build, jt, dataset, tmp_path, largest):
    moves = []
    for changes in ({}, {"clip_norm": largest}):
        jt.set_global_seed(0)
        trainer = make_trainer(build("Unet", 1, 2, base_channels=2), dataset((20, 20)), tmp_path,
                               optimizer="sgd", changes=changes)
        before = copy_of(trainer)
        trainer.train_step(trainer.loader.batch([0], 0))
        after = copy_of(trainer)
        moves.append(np.concatenate([(after[name] - before[name]).ravel() for name in before
                                     if "running" not in name
                                     and name.split()[0] not in ("values", "n_step")]))
    plain, cut = moves
    norm = np.linalg.norm(plain) / 0.01  # the learning rate
    assert 0.01 < norm < 1e6
    # atol: the last bit of weights near 1
    np.testing.assert_allclose(cut, plain * min(1, largest / norm), rtol=1e-3, atol=2e-7)


def test_a_run_ends_with_its_time(build, dataset, tmp_path):
    """However many epochs are left: the learning rate is low by then, the last epoch is tested."""
    trainer = make_trainer(build("Unet", 1, 2, base_channels=2), dataset((20, 20), (20, 20)),
                           tmp_path, rate=0.5, epochs=(10 ** 6, 10 ** 5),
                           changes={"lr_schedule": "cosine", "Time_budget": 3 / 60})
    trainer.train_step(trainer.loader.batch([0], 0))  # compiles
    trainer.clock.go_on_after(0)
    assert trainer.run() is True and trainer.finished
    assert trainer.clock.seconds >= 3 and 2 < trainer.progress.epoch < 10 ** 5
    assert ["iou" in record for record in trainer.records] == [
        False] * (trainer.progress.epoch - 1) + [True]
    assert trainer.optimizer.lr < 0.05
    steps = trainer.optimizer.n_step
    trainer.resume(replace(trainer.stored_progress()))
    assert trainer.run() is True and trainer.optimizer.n_step == steps, "no time is left"


@pytest.fixture
def timed(build, dataset, tmp_path, monkeypatch):
    """A function that makes a Trainer on a false clock, with two steps an epoch.

    A step, a test and `on_epoch` take as many seconds as they are told to.
    """
    from runs.clock import Clock
    clock = [0.0]
    monkeypatch.setattr(Clock, "now", lambda self: clock[0])

    def after(seconds, function):
        def timed_function(*words):
            clock[0] += seconds
            return function(*words)
        return timed_function

    def make(budget, step=0.0, test=0.0, on_epoch=0.0):
        trainer = make_trainer(build("Unet", 1, 2, base_channels=2),
                               dataset((20, 20), (20, 20)), tmp_path, epochs=(10 ** 6, 0),
                               changes={"lr_schedule": "cosine", "Time_budget": budget / 60})
        trainer.train_step = after(step, lambda batch: 0.5)
        trainer.predict = after(test / 2, trainer.predict)
        trainer.recorder.on_epoch = after(on_epoch, trainer.recorder.on_epoch)
        return trainer
    return make


def test_the_time_may_end_between_two_epochs(timed):
    """While curves are drawn, for example: one more step follows, and the last epoch is tested."""
    trainer = timed(budget=6.0, step=1.0, test=0.5, on_epoch=0.75)
    assert trainer.run() is True
    assert ["iou" in record for record in trainer.records] == [True, False, True]
    assert trainer.clock.seconds == pytest.approx(2 + 0.5 + 0.75 + 2 + 0.75 + 1 + 0.5 + 0.75)


def test_tests_take_a_tenth_of_the_time(timed):
    trainer = timed(budget=60.0, step=0.5, test=1.0)
    assert trainer.run() is True and trainer.clock.seconds == pytest.approx(60)
    assert sum("iou" in record for record in trainer.records) == 60 / 10
    assert "iou" in trainer.records[0] and "iou" in trainer.records[-1]


def test_the_schedule_follows_the_time_with_the_last_test_in_it(timed):
    trainer = timed(budget=10.0, step=1.0)
    trainer.clock.go_on_after(3.0)
    trainer.progress.test_seconds = 2.0
    assert trainer.share_done() == 0.5


def test_asked_to_stop_in_the_last_test_a_run_is_not_complete(timed):
    trainer = timed(budget=3.0, step=1.0)
    trainer.settings, test = replace(trainer.settings, Val_epochs=1), trainer.test
    trainer.test = lambda *_: setattr(trainer.stop, "requested", signal.SIGINT)
    assert trainer.run() is False and trainer.records[1:] == []
    trainer.test = test
    trainer.resume(replace(trainer.stored_progress()))
    assert trainer.run() is True and "iou" in trainer.records[-1]


def test_the_last_epoch_is_tested_where_tests_take_longer_than_their_share(
        build, dataset, tmp_path):
    trainer = make_trainer(build("Unet", 1, 2, base_channels=2), dataset((20, 20), (20, 20)),
                           tmp_path, epochs=(4, 0), changes={"Time_budget": 60})
    trainer.test = lambda *_, test=trainer.test: (
        test(*_), setattr(trainer.progress, "test_seconds", 600.0))[0]
    assert trainer.run() is True
    assert ["iou" in record for record in trainer.records] == [True, False, False, True]


def test_class_numbers_stay_as_they_are_with_more_than_two_classes():
    from masks.answers import mask_pixels
    classes = np.array([[0, 1, 2]])
    assert mask_pixels(classes, 3).tolist() == [[0, 1, 2]]
    assert mask_pixels(classes[:, :2], 2).tolist() == [[0, 255]]


@pytest.mark.parametrize("n_classes", [2, 5])
def test_foreground_probability(n_classes):
    from masks.answers import foreground_probability
    logits = np.random.default_rng(n_classes).normal(0, 3, (n_classes, 9, 7)).astype(np.float32)
    found = foreground_probability(logits)
    exact = np.exp(logits.astype(np.float64))
    assert found.dtype == np.uint8
    assert np.abs(found - 255 * exact[1:].sum(axis=0) / exact.sum(axis=0)).max() < 0.501
    sure = np.zeros((n_classes, 1, 2), np.float32)
    sure[0, 0, 0] = sure[1, 0, 1] = 1e5  # exp() of it would overflow
    assert foreground_probability(sure).tolist() == [[0, 255]]


# ------------------------------------------------------------------------------------ being stopped
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_acts(number, capsys):
    from runs.clock import Clock
    from runs.stop import StopSignal
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.getsignal(each) for each in numbers]
    try:
        for each in numbers:
            signal.signal(each, signal.default_int_handler)
        with StopSignal(Clock()) as stop:
            assert stop.requested is None
            os.kill(os.getpid(), number)
            assert stop.requested == number
            assert "Stopping after this step" in capsys.readouterr().err
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
        with StopSignal(Clock()):
            assert signal.getsignal(number) != signal.default_int_handler
        assert [signal.getsignal(each) for each in numbers] == [signal.default_int_handler] * 2
    finally:
        for each, handler in zip(numbers, before):
            signal.signal(each, handler)


def test_a_thread_leaves_the_handlers_alone():
    from runs.clock import Clock
    from runs.stop import StopSignal
    found = []

    def work():
        with StopSignal(Clock()) as stop:
            found.append((stop.requested, signal.getsignal(signal.SIGINT)))
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(None, signal.getsignal(signal.SIGINT))]


def test_a_stop_during_the_tests_ends_them(build, dataset, tmp_path):
    trainer = make_trainer(build("Unet", 1, 2, base_channels=2),
                           dataset((20, 20), (36, 20)), tmp_path)
    tested = []
    read = trainer.test_set.image
    trainer.test_set.image = lambda index: (
        tested.append(index), os.kill(os.getpid(), signal.SIGTERM), read(index))[-1]
    trainer.train_epoch = lambda: {"epoch": trainer.progress.epoch}
    assert trainer.run() is False
    assert (tested, trainer.records, trainer.bests) == ([0], [], []), "half a test set is no score"
    assert trainer.progress.epoch == 0, "to be tested when the run goes on"


@pytest.mark.parametrize("at, steps, epochs", [((1, 0), 3, 1), (None, 4, 2)])
def test_a_stopped_run_ends_its_step(build, dataset, tmp_path, poisoned, at, steps, epochs):
    """The signal comes while batch `at` is read, or between two epochs. That step is the last."""
    trainer = make_trainer(build("Unet", 1, 2, base_channels=2), dataset(*[(20, 20)] * 2), tmp_path,
                           poisoned(lambda epoch, k: (epoch, k) == at
                                    and os.kill(os.getpid(), signal.SIGTERM)),
                           epochs=(9, 8))
    if at is None:
        trainer.recorder.on_epoch = lambda record: (
            trainer.records.append(record),
            record["epoch"] == 1 and os.kill(os.getpid(), signal.SIGINT))
    assert trainer.run() is False
    assert (trainer.optimizer.n_step, trainer.progress.epoch, len(trainer.records)) == (
        steps, epochs, epochs)
    assert trainer.progress.step == steps - 2 * epochs


# ----------------------------------------------------------------------------- what a run will take
def forecast(*flags, seconds=(60, 9, 10, 11, 12), steps_per_epoch=30, epoch=0, elapsed=0):
    """The lines that a Forecast says after steps that took so long."""
    from runs.clock import Forecast
    from runs.progress import Progress
    clock, lines = Forecast(settings_of(*flags).training, steps_per_epoch), []
    for step, each in enumerate(seconds, 1):
        lines.append(clock.add_step(each, Progress(epoch=epoch, step=step), elapsed))
    assert not any(lines[:4]) and not any(lines[5:]), "said once, after the first steps"
    return lines[4]


def test_a_run_of_hours_says_so_with_the_remedy():
    """200 epochs of 30 steps of 10.5 s: the median, without the first step, which compiles."""
    line, = forecast(seconds=(60, 9, 10, 11, 12, 13, 14))
    assert line.startswith("At 10 s a step this run takes about 17 hours on this machine: ")
    assert "--protocol fast" in line and "--Time_budget" in line
    assert forecast("--Total_epochs", 22, "--Val_epochs", 3) == [], "22 epochs take 1.9 hours"
    assert forecast(epoch=180) == [], "of a resumed run the rest counts"
    assert forecast(seconds=(6000, 1, 1, 1, 1)) == []
    line, = forecast("--protocol", "fast", "--Total_epochs", 200, "--Val_epochs", 0)
    assert "--protocol fast" not in line and "--Time_budget" in line


def test_a_budget_that_ends_before_the_first_test_says_so():
    line, = forecast("--Time_budget", 30, "--Total_epochs", 200, "--Val_epochs", 50)
    assert line == ("At 10 s a step --Time_budget 30 ends before epoch --Val_epochs 50: "
                    "only the last epoch is tested")
    assert forecast("--Time_budget", 300, "--Total_epochs", 200, "--Val_epochs", 50) == []
    assert forecast("--Time_budget", 300, "--Total_epochs", 200, "--Val_epochs", 50,
                    elapsed=60 * 60), "of the budget an hour is over"
    assert forecast("--Time_budget", 300, "--Total_epochs", 2000, "--Val_epochs", 0) == []
