"""Runs that make one comparison, and runs that are rejected."""

import pytest

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.comparison.gather import experiment_of, gathered
from ortho_lightning.experiments.comparison.run_folder import find_runs
from tests.experiments.comparison.folders import make


def test_arms_may_differ_in_the_penalty_and_in_their_own_settings(tmp_path):
    decay = "model.optimizer.weight_decay"
    make(tmp_path / "a", "none", 0, [f"{decay}=0.001"], **{decay.replace(".", "/"): 0.001})
    make(tmp_path / "b", "lsh", 0)
    make(tmp_path / "deep" / "c", "lsh", 1)
    runs = find_runs(tmp_path)
    assert [(one.regularizer, one.seed) for one in gathered(runs)] == [("none", 0), ("lsh", 0), ("lsh", 1)]
    assert experiment_of(runs) == "shapes"


@pytest.mark.parametrize("setting", ["++model.optimizer.weight_decay=0.001", "model.optimizer={weight_decay:0.001}"])
def test_settings_of_an_arm_may_be_added_or_several_at_once(tmp_path, setting):
    make(tmp_path / "a", "none", 0)
    make(tmp_path / "b", "lsh", 0, [setting], **{"model/optimizer/weight_decay": 0.001})
    assert [one.regularizer for one in gathered(find_runs(tmp_path))] == ["none", "lsh"]


def test_arms_may_be_a_constraint_or_an_optimizer(tmp_path):
    make(tmp_path / "a", "none", 0, **{"callbacks/constraint": None, "model/kernel_optimizer": None})
    make(tmp_path / "b", "hard", 0, **{"callbacks/constraint": {"method": "orthogonal", "layers": None}})
    make(tmp_path / "c", "muon", 0, **{"model/kernel_optimizer": {"lr": 0.001}})
    assert [one.regularizer for one in gathered(find_runs(tmp_path))] == ["none", "hard", "muon"]


@pytest.mark.parametrize(
    ("change", "value", "arm"),
    [
        ("trainer/max_epochs", 9, "none"),
        ("model/optimizer/lr", 0.5, "none"),
        ("data/batch_size", 16, "none"),
        ("callbacks/orthogonality/weight", 0.9, "lsh"),
        ("regularizer/weight", 0.9, "lsh"),
    ],
)
def test_runs_of_other_length_optimizer_data_or_penalty_are_rejected(tmp_path, change, value, arm):
    make(tmp_path / "a", "lsh", 0)
    make(tmp_path / "b", arm, 1, **{change: value})
    with pytest.raises(ConfigurationError, match=f"cannot be compared: they differ in {change.replace('/', '.')}"):
        gathered(find_runs(tmp_path))


def test_a_finished_run_counts_more_than_a_failed_one_and_two_different_ones_are_rejected(tmp_path):
    make(tmp_path / "a", "lsh", 0, failure="out of memory")
    make(tmp_path / "b", "lsh", 0)
    make(tmp_path / "c", "lsh", 0)
    (found,) = gathered(find_runs(tmp_path))
    assert found.test_accuracy == 0.5
    (tmp_path / "c" / "results.json").write_text('{"regularizer": "lsh", "seed": 0, "test_accuracy": 0.6}')
    with pytest.raises(ConfigurationError, match="are different runs of lsh with seed 0"):
        gathered(find_runs(tmp_path))


def test_what_never_ended_is_told_as_such(tmp_path):
    make(tmp_path / "a", "lsh", 0, failure="")
    (found,) = gathered(find_runs(tmp_path))
    assert found.failure == "not finished"


def test_a_sweep_makes_an_arm_of_each_value(tmp_path):
    make(tmp_path / "none", "none", 0)
    for number, (weight, rate) in enumerate([(0.1, 0.1), (0.1, 0.2), (0.3, 0.1)]):
        for seed in (0, 1):
            changes = {"regularizer/weight": weight, "model/optimizer/lr": rate}
            make(tmp_path / f"{number}-{seed}", "lsh", seed, **changes)
    by = ["regularizer.weight", "model.optimizer.lr"]
    found = gathered(find_runs(tmp_path), by)
    assert {(one.regularizer, one.seed) for one in found if one.seed == 1} == {
        ("lsh weight=0.1 lr=0.1", 1), ("lsh weight=0.1 lr=0.2", 1), ("lsh weight=0.3 lr=0.1", 1),
    }  # fmt: skip
    with pytest.raises(ConfigurationError, match="cannot be compared: they differ in model"):
        gathered(find_runs(tmp_path), ["regularizer.weight"])
    with pytest.raises(ConfigurationError, match=r"by='regularizer\.share': no run has this key"):
        gathered(find_runs(tmp_path), ["regularizer.share"])


def test_the_baseline_of_a_sweep_has_a_value_only_where_its_configuration_does(tmp_path):
    make(tmp_path / "none", "none", 0)
    make(tmp_path / "lsh", "lsh", 0, **{"regularizer/penalty": {"lambda1": 10.0}})
    found = gathered(find_runs(tmp_path), ["regularizer.penalty.lambda1", "regularizer.weight"])
    assert [one.regularizer for one in found] == ["none", "lsh lambda1=10.0 weight=0.1"]


def started_from(folder, arm, seed, first):
    place = "outputs/{}/{}-seed{}/checkpoints/last.ckpt"
    given = place.format("first", first, "${seed}")
    make(
        folder / f"{first}-{arm}-{seed}", arm, seed,
        overrides=[f"pretrained={given}"], pretrained=place.format("first", first, seed),
    )  # fmt: skip


def test_runs_of_an_arm_may_start_from_checkpoints_whose_paths_name_the_seed(tmp_path):
    for seed in (0, 1):
        started_from(tmp_path, "none", seed, "none")
        started_from(tmp_path, "lsh", seed, "none")
    assert len(gathered(find_runs(tmp_path))) == 4
    started_from(tmp_path, "lsh", 2, "lsh")
    with pytest.raises(ConfigurationError, match="they differ in pretrained"):
        gathered(find_runs(tmp_path))


def test_paths_make_arms_named_by_the_parts_in_which_they_differ(tmp_path):
    for first in ("none", "lsh"):
        for arm in ("none", "lsh"):
            started_from(tmp_path, arm, 0, first)
    assert [one.regularizer for one in gathered(find_runs(tmp_path), ["pretrained"])] == [
        "lsh pretrained=lsh", "lsh pretrained=none", "none pretrained=lsh", "none pretrained=none"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["runs/a/last.ckpt", "runs/b/last.ckpt"], {"a", "b"}),
        (["runs/a", "runs/a/b"], {"a", "a/b"}),
        (["last.ckpt", "runs/last.ckpt"], {"last.ckpt", "runs/last.ckpt"}),
        (["runs/a/last.ckpt"], {"runs/a/last.ckpt"}),
    ],
)
def test_no_two_paths_get_the_same_name(tmp_path, values, names):
    for number, value in enumerate(values):
        make(tmp_path / str(number), "lsh", 0, pretrained=value)
    assert {one.regularizer for one in gathered(find_runs(tmp_path), ["pretrained"])} == {
        f"lsh pretrained={name}" for name in names
    }
