"""Steps whose loss is read one step late: the rule of a GPU, on the CPU.

The kernels of backend/kernels/cuda/update.cuh run through tests/cuda_emulator.h, within Jittor.
"""
import signal
from dataclasses import replace

import numpy as np
import pytest
from emulated_updates import use_updates
from training import copy_of, differing, make_trainer

pytestmark = pytest.mark.jittor


@pytest.fixture(params=["composed", "kernels"])
def updates(request, monkeypatch):
    """Optimisers are those of a GPU: by Jittor's operators, or by the kernels."""
    use_updates(monkeypatch, request.param)
    return request.param


# ---------------------------------------------------------------------------------- the optimisers
def expected_step(formula, rate, scale, steps, w, g, moments):
    """(w, moments) after a step, float64."""
    g = g * scale + formula.coupled_decay * w
    kept = w * (1 - rate * formula.decoupled_decay)
    if len(moments) == 1:
        moments = [formula.beta1 * moments[0] + g]
        return kept - rate * moments[0], moments
    second, first = moments
    moments = [formula.beta2 * second + (1 - formula.beta2) * g ** 2,
               formula.beta1 * first + (1 - formula.beta1) * g]
    root = np.sqrt(moments[0] / (1 - formula.beta2 ** steps)) + formula.epsilon
    return kept - rate * moments[1] / (1 - formula.beta1 ** steps) / root, moments


@pytest.mark.parametrize("clip", [0.0, 0.5, 1e6])
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_steps_equal_the_formulas(jt, updates, name, clip):
    """Five steps, of which the second and third are refused.  More tensors than a launch takes."""
    from backend.optimizers import OPTIMIZERS, build_optimizer
    from backend.updates import Limits
    rng, rate = np.random.default_rng(4), 0.1
    shapes = [(5,), (3, 2, 3, 3), (1,), (1025,), (70, 30)] + [(4,)] * 63
    model = jt.nn.Module()
    values = [rng.normal(size=shape) * 10.0 ** rng.integers(-6, 1, shape) for shape in shapes]
    variables = [jt.array(value.astype(np.float32)) for value in values]
    model.parameters = lambda: variables
    optimizer = build_optimizer(name, model, rate)
    formula = OPTIMIZERS[name].formula
    moments = [[np.zeros(shape) for _ in formula.moments] for shape in shapes]
    for step, limit in enumerate((np.inf, -1e9, np.inf, 1e9, np.inf)):
        gradients = [rng.normal(size=shape) * 10.0 ** rng.integers(-8, 1, shape)
                     for shape in shapes]
        loss = sum((jt.array(g.astype(np.float32)) * var).sum()
                   for g, var in zip(gradients, variables))
        if step == 2:
            loss = loss * np.nan
        reading = optimizer.read(optimizer.step(loss, Limits(limit, clip), []))
        assert reading.accepted == (step not in (1, 2))
        assert reading.steps == optimizer.n_step == [1, 1, 1, 2, 3][step]
        if reading.accepted:
            norm = np.sqrt(sum((g ** 2).sum() for g in gradients))
            scale = min(1, clip / norm) if clip else 1
            values, moments = map(list, zip(*(
                expected_step(formula, rate, scale, reading.steps, *tensor)
                for tensor in zip(values, gradients, moments))))
        found = [optimizer.param_groups[0][each] for each in formula.moments]
        for k, (value, var) in enumerate(zip(values, variables)):
            assert not var.is_stop_grad()
            assert np.allclose(var.numpy(), value, rtol=1e-4, atol=5e-6), (step, k)
            for moment, vars_of_moment in zip(moments[k], found):
                assert np.allclose(vars_of_moment[k].numpy(), moment, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("loss, limit, accepted", [
    (np.nan, np.inf, False), (np.inf, np.inf, False), (-np.inf, np.inf, False),
    (3.4e38, np.inf, True), (0.0, np.inf, True), (1.0, 1.0, True),
    (1.0000001, 1.0, False), (2.0, 1.0, False)])
def test_the_device_decides(jt, updates, loss, limit, accepted):
    from backend.device_optimizer import build_updates
    from backend.optimizers import OPTIMIZERS
    from backend.updates import Limits
    steps = jt.array(np.array([7], np.int32))
    verdict = build_updates(steps).decide(jt.array(np.array([loss], np.float32)), steps, [],
                                          OPTIMIZERS["adam"].formula, Limits(limit))
    jt.sync_all()
    reading = verdict.read()
    assert reading.accepted == accepted and reading.steps == 7 + accepted == steps.item()
    assert reading.loss == np.float32(loss) or np.isnan(loss) and np.isnan(reading.loss)


def test_what_is_kept_can_be_brought_back_twice(jt, updates):
    """Between, a step changes the Vars; in the end they are still trained."""
    from backend.optimizers import build_optimizer
    from backend.updates import Limits
    arrays = [np.random.default_rng(k).normal(size=(k, 7)).astype(np.float32)
              for k in (1, 3, 400, *[2] * 70)]
    model = jt.nn.Module()
    variables = [jt.array(array) for array in arrays]
    model.parameters = lambda: variables
    optimizer = build_optimizer("sgd", model, 0.5)
    kept = optimizer.updates.keep_values(variables)
    for _ in range(2):
        optimizer.step(sum(var.sum() for var in variables), Limits(np.inf), [])
        for array, var in zip(arrays, variables):
            assert np.abs(var.numpy() - array).min() > 0.4
        optimizer.updates.restore_values(variables, kept)
        for array, var in zip(arrays, variables):
            assert (var.numpy() == array).all() and not var.is_stop_grad()


@pytest.mark.parametrize("limit, shifted", [(np.inf, True), (np.inf, False), (-1.0, True)])
def test_running_statistics_move_with_the_step(jt, updates, limit, shifted):
    from backend.device_optimizer import build_updates
    from backend.operators import BatchNorm
    from backend.optimizers import OPTIMIZERS
    from backend.late_statistics import statistics_later
    from backend.updates import Limits
    rng = np.random.default_rng(6)
    norms = [BatchNorm(channels) for channels in (3, 300, *[2] * 65)]
    found, before = [], []
    with statistics_later() as batches:
        for k, norm in enumerate(norms):
            before.append([norm.running_mean.numpy().copy(), norm.running_var.numpy().copy()])
            found.append(rng.uniform(1, 2, (3, *before[-1][0].shape)).astype(np.float32))
            mean, variance, shift = map(jt.array, found[-1])
            norm.update_statistics(mean, variance, 5 + k, shift if shifted else None)
            assert (norm.running_mean.numpy() == before[-1][0]).all()
    made = build_updates(norms[0].running_mean)
    verdict = made.decide(jt.array(np.float32([1])), jt.array(np.int32([0])), [],
                          OPTIMIZERS["sgd"].formula, Limits(limit))
    made.move_statistics(verdict, batches)
    for k, (norm, (mean, variance, shift), old) in enumerate(zip(norms, found, before)):
        new = old
        if limit > 0:
            target = mean + shift * shifted, variance * (5 + k) / (4 + k)
            new = [each + (to - each) * 0.1 for each, to in zip(old, target)]
        assert np.allclose(norm.running_mean.numpy(), new[0], rtol=1e-6)
        assert np.allclose(norm.running_var.numpy(), new[1], rtol=1e-6)


# ----------------------------------------------------------------------------------------- the rule
def late_trainer(build, dataset, tmp_path, loader=None, epochs=(3, 0), sizes=4, **options):
    return make_trainer(build("Unet", 1, 2, base_channels=2, dropout_probs=[0.1] * 4),
                        dataset(*[(20, 20)] * sizes), tmp_path, loader, epochs=epochs, **options)


def test_a_late_run_learns_what_a_waiting_run_learns(jt, build, dataset, tmp_path, monkeypatch):
    """The same weights, but for rounding, and the same losses of every epoch."""
    ends = []
    for kind in (None, "composed", "kernels"):
        if kind:
            use_updates(monkeypatch, kind)
        jt.set_global_seed(3)
        trainer = late_trainer(build, dataset, tmp_path, epochs=(2, 1), sizes=2, optimizer="sgd",
                               changes={"clip_norm": 1.0})
        assert trainer.run() is True
        ends.append(([record["train_loss"] for record in trainer.records], copy_of(trainer)))
    for losses, state in ends[1:]:
        assert np.allclose(losses, ends[0][0], rtol=1e-4)
        for name, array in state.items():
            assert np.allclose(array, ends[0][1][name], rtol=1e-3, atol=1e-4), name


def test_a_bad_batch_leaves_no_trace(build, dataset, tmp_path, poisoned, updates):
    trainer = late_trainer(build, dataset, tmp_path, poisoned(lambda epoch, k: k == 1), sizes=3)
    first, bad, last = trainer.loader.epoch(0)
    assert trainer.train_step(first) is None, "not read yet"
    state = copy_of(trainer)
    assert trainer.train_step(bad) == trainer.progress.losses[0]
    assert differing(state, copy_of(trainer)) <= {"n_step"}
    assert trainer.train_step(last) is None and trainer.progress.skipped == 1
    trainer.steps.settle()
    assert len(trainer.progress.losses) == trainer.optimizer.n_step == 2
    assert "outc.conv.weight" in differing(state, copy_of(trainer))


def test_an_outlier_is_refused_by_a_limit_of_earlier_losses(build, dataset, tmp_path, updates):
    trainer = late_trainer(build, dataset, tmp_path, sizes=1)
    batch, = trainer.loader.epoch(0)
    for _ in range(3):
        trainer.train_step(batch)
    usual = trainer.progress.losses[0]
    trainer.guard.accepted.extend([usual] * 20)
    trainer.train_step(batch._replace(weights=batch.weights * 50))
    state = copy_of(trainer)
    trainer.train_step(batch)
    assert trainer.progress.skipped == 1 and max(trainer.progress.losses) < 2 * usual
    trainer.steps.settle()
    assert trainer.progress.skipped == 1 and trainer.optimizer.n_step == 4
    assert "outc.conv.weight" in differing(state, copy_of(trainer))


@pytest.mark.parametrize("bad, skipped", [((1, 2, 3), 4), ((2, 3, 4), 3)])
def test_three_bad_batches_bring_the_epochs_start_back(build, dataset, tmp_path, poisoned, updates,
                                                       bad, skipped):
    """Good steps of epoch 1 are undone, and one that is on its way when the third bad one is read.

    Epoch 2: three bad ones, but not in a row.
    """
    trainer = late_trainer(build, dataset, tmp_path, epochs=(3, 2), sizes=5,
                           loader=poisoned(lambda epoch, k: k in {1: bad, 2: (0, 1, 3)}.get(
                               epoch, ())))
    ends = []
    trainer.recorder.on_epoch = lambda record: ends.append((record["skipped"], copy_of(trainer)))
    assert trainer.run() is True
    assert [each for each, _ in ends] == [0, skipped, 3]
    assert differing(ends[0][1], ends[1][1]) == set()
    assert ends[2][1]["n_step"] == 7
    assert trainer.said == [
        "epoch 1: 3 bad batches in a row (loss nan): back to the last good state"]


def test_a_loss_that_never_recovers_ends_the_run(build, dataset, tmp_path, poisoned, updates):
    from runs.guard import TrainingFailed
    trainer = late_trainer(build, dataset, tmp_path, poisoned(lambda epoch, k: epoch > 0),
                           epochs=(99, 98), sizes=2)
    start = copy_of(trainer)
    with pytest.raises(TrainingFailed, match="^epoch 4: the loss stays at nan"):
        trainer.run()
    assert differing(start, copy_of(trainer)) == set()


def test_a_run_that_is_bad_from_its_first_batch_on_ends_as_it_began(
        build, dataset, tmp_path, poisoned, updates):
    """The fourth batch is good: it is on its way when the third one is read."""
    from runs.guard import TrainingFailed
    trainer = late_trainer(build, dataset, tmp_path, poisoned(lambda epoch, k: k < 3), sizes=5)
    start = copy_of(trainer)
    with pytest.raises(TrainingFailed):
        trainer.run()
    assert differing(start, copy_of(trainer)) == set() and trainer.stored_progress().n_step == 0


@pytest.mark.parametrize("at", [(0, 2), (1, 0), (1, 3), (2, 4)])
def test_a_stopped_run_goes_on_as_the_uninterrupted_one(jt, build, dataset, tmp_path, poisoned,
                                                        updates, at):
    """Stopped after a step, whose loss is not read: after a bad one too, and after an epoch's last.

    The guard is warm after three losses, so that limits take part.
    """
    def start(stop_at=None):
        jt.set_global_seed(5)
        trainer = late_trainer(
            build, dataset, tmp_path, epochs=(3, 2), sizes=5,
            loader=poisoned(lambda *at: at == stop_at and stop() or at in ((0, 2), (1, 1))))
        trainer.guard.warm_up, trainer.guard.factor = 3, 1.05
        return trainer

    def stop():
        stopped.stop.requested = signal.SIGTERM
    limits = []

    def watched(trainer):
        step = trainer.optimizer.step
        trainer.optimizer.step = lambda loss, given, batches: (
            limits.append(given.loss), step(loss, given, batches))[1]
        return trainer
    unbroken = watched(start())
    assert unbroken.run() is True
    expected, limits[:] = list(limits), []
    stopped = watched(start(at))
    assert stopped.run() is False
    assert (stopped.progress.epoch, stopped.progress.step) == (at[0], at[1] + 1)
    progress = replace(stopped.stored_progress())
    assert progress.pending == (2 if at == (0, 2) else 1)
    resumed = watched(start())
    for name, var in resumed.state.vars().items():
        var.assign(stopped.state.vars()[name].numpy().copy())
    resumed.resume(progress)
    assert resumed.run() is True
    assert limits == expected and np.isfinite(limits).any()
    assert differing(copy_of(unbroken), copy_of(resumed)) == set()
    assert resumed.records[-1]["train_loss"] == unbroken.records[-1]["train_loss"]
    assert [record["skipped"] for record in stopped.records + resumed.records] == [
        record["skipped"] for record in unbroken.records]


def test_a_late_run_goes_on_on_a_cpu(build, dataset, tmp_path, monkeypatch):
    with monkeypatch.context() as gpu:
        use_updates(gpu, "composed")
        late = late_trainer(build, dataset, tmp_path)
        batches = list(late.loader.epoch(0))
        late.train_step(batches[0])
        late.train_step(batches[1])
        late.progress.step = 2
    progress = replace(late.stored_progress(), losses=list(late.progress.losses))
    assert (len(progress.losses), progress.pending, progress.n_step) == (1, 1, 2)
    waiting = late_trainer(build, dataset, tmp_path)
    for name, var in waiting.state.vars().items():
        var.assign(late.state.vars()[name].numpy().copy())
    waiting.resume(progress)
    assert len(waiting.progress.losses) == len(waiting.guard.accepted) == 2
    assert waiting.run() is True and waiting.optimizer.n_step == 3 * 4
