"""Every scalar was computed in the step that it is logged for, and means what its name says."""

import threading

import pytest
import torch
from torch import nn

from ortho_lightning import OrthogonalityCallback
from ortho_lightning import functional as OF
from ortho_lightning.regularizers import LSH, Gram
from tests.callbacks.fits import kept_logger
from tests.callbacks.helpers import PACKAGES, boring, images, make_trainer, vision_module


@pytest.fixture(params=PACKAGES)
def package(request):
    return request.param


def known_module(package):
    """A module that keeps the task's loss of each step."""

    class Known(boring(package).BoringModel):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(32, 4)
            self.tasks = []

        def training_step(self, batch, batch_idx):
            loss = self.layer(batch).square().mean()
            self.tasks.append(loss.item())
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    return Known()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_task_loss_is_of_the_task_however_many_penalties_join(package, count, tmp_path):
    module, logger = known_module(package), kept_logger(package, tmp_path)
    callbacks = [
        OrthogonalityCallback(LSH(), weight=1.0, name="a", log_every_n_steps=1),
        OrthogonalityCallback(Gram(), weight=0.5, name="b", log_every_n_steps=1),
        OrthogonalityCallback(None, name="c", log_every_n_steps=1),
    ][:count]
    make_trainer(callbacks, package, max_steps=3, logger=logger).fit(module)
    losses = {name: [row[f"{name}/task_loss"] for _, row in logger.rows if f"{name}/task_loss" in row] for name in "ab"}
    for name in "ab"[:count]:
        assert losses[name] == pytest.approx(module.tasks)
    penalties = [
        sum(row[f"{name}/penalty_loss"] for step, row in logger.rows if step == last and f"{name}/penalty_loss" in row)
        for name in "ab"[:count]
        for last in (2,)
    ]
    totals = [row["a/total_loss"] for step, row in logger.rows if step == 2 and "a/total_loss" in row]
    assert totals == pytest.approx([module.tasks[2] + sum(penalties)], rel=1e-5)


@pytest.mark.parametrize(("steps", "every"), [(7, 5), (6, 5), (3, 50), (1, 50), (5, 2)])
def test_the_last_step_has_the_loss_and_its_parts_beside_the_penalty(package, steps, every, tmp_path):
    module, logger = known_module(package), kept_logger(package, tmp_path)
    callback = OrthogonalityCallback(Gram(), weight=0.5, log_every_n_steps=every)
    trainer = make_trainer(callback, package, max_steps=steps, logger=logger)
    trainer.fit(module)
    parts = {"ortho/task_loss", "ortho/penalty_loss", "ortho/total_loss", "ortho/penalty", "ortho/weight"}
    rows = {}
    for step, row in logger.rows:
        rows.setdefault(step, {}).update(row)
    assert parts <= set(rows[steps - 1])
    for step, row in rows.items():
        if "ortho/task_loss" in row:
            assert row["ortho/task_loss"] == pytest.approx(module.tasks[step])
            assert row["ortho/penalty_loss"] == pytest.approx(0.5 * row["ortho/penalty"])
    assert trainer.callback_metrics["ortho/task_loss"].item() == pytest.approx(module.tasks[-1])


def test_loggers_get_metrics_by_name(package, tmp_path):
    import importlib

    class Named(importlib.import_module(f"{package}.loggers").CSVLogger):
        calls = 0

        def log_metrics(self, *, metrics, step):
            Named.calls += 1

    callback = OrthogonalityCallback(Gram(), log_every_n_steps=1)
    make_trainer(callback, package, max_steps=2, logger=Named(tmp_path)).fit(known_module(package))
    assert Named.calls >= 2


@pytest.mark.parametrize("error", [False, True])
def test_no_thread_outlives_fit(package, error, tmp_path):
    import importlib

    before = set(threading.enumerate())
    module = vision_module(package)
    if error:

        def failing(outputs, batch, batch_idx):
            raise ZeroDivisionError

        module.on_train_batch_end = failing
    logger = importlib.import_module(f"{package}.loggers").TensorBoardLogger(tmp_path, name="", version="")
    trainer = make_trainer(OrthogonalityCallback(log_every_n_steps=1), package, max_steps=2, logger=logger)
    if error:
        with pytest.raises(ZeroDivisionError):
            trainer.fit(module, images(8))
    else:
        trainer.fit(module, images(8))
    left = [thread.name for thread in set(threading.enumerate()) - before if "ortho" in thread.name]
    assert left == []


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("k", [2, 4, 8])
def test_the_floor_is_the_mean_of_the_penalty_of_orthogonal_filters_from_one_sample_on(n, k):
    filters = torch.linalg.qr(torch.randn(32, k, dtype=torch.float64))[0]
    outputs = torch.randn(20_000, n, 32, dtype=torch.float64) @ filters
    for lambda1, lambda2 in ((0.0, 1.0), (100.0, 1.0)):
        penalties = OF.lsh_penalties(outputs, lambda1, lambda2)
        error = penalties.std() / len(penalties) ** 0.5
        floor = OF.lsh_penalty_floor(n, k, lambda1, lambda2)
        assert abs(penalties.mean() - floor) < 5 * error + 1e-9


def test_the_floor_is_a_mean_and_no_bound_most_single_samples_are_below_it():
    filters = torch.linalg.qr(torch.randn(32, 8))[0]
    penalties = OF.lsh_penalties(torch.randn(4000, 1, 32) @ filters)
    assert (penalties < OF.lsh_penalty_floor(1, 8)).float().mean() > 0.8
    alone = OF.lsh_penalties(torch.randn(100, 1, 32) @ filters, lambda1=0.0)
    torch.testing.assert_close(alone, torch.full_like(alone, OF.lsh_penalty_floor(1, 8, lambda1=0.0)))
