"""Two processes on this machine against one process with the joined batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ortho_lightning import GradientShare
from ortho_lightning import functional as OF
from tests.callbacks.helpers import lsh_penalty
from tests.integration import ddp_arms_script, ddp_script, ddp_whitening_script

ROOT = Path(__file__).resolve().parents[2]


def run(tmp_path, sync, branching, regularizer="lsh", strategy="ddp", weight="0.5", apply="loss"):
    return run_program(tmp_path, "ddp_script", sync, branching, regularizer, strategy, weight, apply)


def run_program(tmp_path, program, *arguments):
    target = tmp_path / "found"
    command = [sys.executable, "-m", f"tests.integration.{program}", str(target), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(f"{target}.{rank}") for rank in (0, 1)]


def test_global_statistics_equal_one_process_with_the_joined_batch(tmp_path):
    ranks = run(tmp_path, "global", "plain")
    alone, callback = ddp_script.fit("local", False, devices=1)
    for found in ranks:
        torch.testing.assert_close(found["penalty"], callback.penalty, rtol=1e-10, atol=0)
        for name, expected in alone.found.items():
            torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-12, msg=name)
        assert len(alone.ratios) == 4
        for name, expected in alone.ratios.items():
            torch.testing.assert_close(found[name], expected, rtol=1e-6, atol=0, msg=name)
        for row, expected in zip(found["report"], callback.angle_report(), strict=True):
            assert row["stable_rank"] == pytest.approx(expected["stable_rank"], rel=1e-6)


def test_local_statistics_are_the_average_of_each_process_alone(tmp_path):
    ranks = run(tmp_path, "local", "plain")
    reference = ddp_script.Net(False)
    rows = next(iter(ddp_script.data()))
    gradients = []
    for rank in (0, 1):
        x = rows[rank::2]
        z = reference.conv(x)
        h = torch.relu(z).flatten(1)
        side, head = reference.side(h[:, :16]), reference.head(h)
        grouped = (z - reference.conv.bias[:, None, None]).movedim(1, -1).flatten(0, -2).unflatten(1, (2, 2))
        penalty = (
            lsh_penalty(grouped.transpose(0, 1))
            + lsh_penalty(side - reference.side.bias)
            + lsh_penalty(head - reference.head.bias)
        )
        torch.testing.assert_close(ranks[rank]["penalty"], penalty.detach(), rtol=1e-10, atol=0)
        outputs = [grouped.transpose(0, 1), side - reference.side.bias, head - reference.head.bias]
        for row, own in zip(ranks[rank]["report"], outputs, strict=True):  # each process measures its own samples
            assert row["response_std"] == pytest.approx(OF.response_statistics(own).std, abs=1e-9)
        loss = head.square().mean() + side.square().mean() + 0.5 * penalty
        gradients.append(torch.autograd.grad(loss, [reference.conv.weight])[0])
    for found in ranks:
        torch.testing.assert_close(found["conv.weight"], sum(gradients) / 2, rtol=1e-9, atol=1e-12)


def test_a_share_of_the_gradient_is_the_same_weight_on_every_process(tmp_path):
    first, second = run(tmp_path, "global", "plain", weight="share")
    assert first["state"] == second["state"]
    assert first["ortho/gradient_ratio"].item() == pytest.approx(0.1, rel=1e-6)
    _, alone = ddp_script.fit("local", False, devices=1, weight=GradientShare(0.1))
    assert first["state"]["weight"]["value"] == pytest.approx(alone.state_dict()["weight"]["value"], rel=1e-6)


@pytest.mark.parametrize("sync", ["local", "global"])
def test_a_layer_that_ran_on_one_process_only_does_not_hang(tmp_path, sync):
    first, second = run(tmp_path, sync, "branching")
    torch.testing.assert_close(first["side.weight"], second["side.weight"])
    assert first["ortho/gradient_ratio"] == second["ortho/gradient_ratio"] > 0
    if sync == "global":
        torch.testing.assert_close(first["penalty"], second["penalty"])


@pytest.mark.parametrize(
    "rows", [16, 19, 3]
)  # even shards; a repeated row; batches on one process that are repeats only
def test_a_whitening_is_that_of_one_process_over_the_same_rows(tmp_path, rows):
    ranks = run_program(tmp_path, "ddp_whitening_script", str(rows))
    trainer, alone = ddp_whitening_script.fit(rows, devices=1)
    assert alone.whitening.moments.count == rows
    for name, expected in alone.whitening.state_dict().items():
        for found in ranks:
            assert torch.equal(found["state"][name], ranks[0]["state"][name]), name
            torch.testing.assert_close(found["state"][name], expected, rtol=1e-7, atol=1e-10, msg=name)
    for name, value in trainer.callback_metrics.items():
        for found in ranks:
            assert found["metrics"][name] == pytest.approx(value.item(), rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("regularizer", ["gram", "gaussian", "srip"])
def test_a_decoupled_penalty_moves_every_process_as_one_process_alone(tmp_path, regularizer):
    ranks = run(tmp_path, "local", "plain", regularizer, apply="decoupled")
    alone, callback = ddp_script.fit("local", False, devices=1, regularizer=regularizer, apply="decoupled")
    for found in ranks:
        torch.testing.assert_close(found["penalty"], callback.penalty, rtol=1e-9, atol=0)
        for name, expected in alone.named_parameters():
            torch.testing.assert_close(found[f"{name} after"], expected.detach(), rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("arm", ["orthogonal", "geotorch", "muon"])
def test_arms_without_a_penalty_train_as_one_process_with_the_joined_batch(tmp_path, arm):
    if arm == "geotorch":
        pytest.importorskip("geotorch")
    if arm == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("torch.optim.Muon came with torch 2.9")
    first, second = run_program(tmp_path, "ddp_arms_script", arm)
    alone, _ = ddp_arms_script.fit(arm, devices=1)
    for name, expected in alone.items():
        assert torch.equal(first[name], second[name])
        # Muon iterates in bfloat16
        torch.testing.assert_close(first[name], expected, rtol=1e-9, atol=2e-3 if arm == "muon" else 1e-9)
        if arm != "muon":
            gram = first[name].flatten(1) @ first[name].flatten(1).T
            torch.testing.assert_close(gram, torch.eye(len(gram), dtype=gram.dtype), rtol=0, atol=1e-9)
