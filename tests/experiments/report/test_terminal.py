"""The end of a comparison in a terminal: plain words, both kinds of angle, what to do next."""

import sys
from pathlib import Path

from ortho_lightning.experiments.comparison.next_steps import next_steps
from ortho_lightning.experiments.comparison.step_costs import StepCost
from ortho_lightning.experiments.report.terminal import terminal
from tests.experiments.synthetic import ARMS, comparison, full, run, scores


def cells(text):
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|-")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_has_the_accuracy_both_kinds_of_angle_and_the_cost_of_each_arm():
    content = full()
    heading, *rows = cells(terminal(content))
    assert heading == [
        "arm",
        "seeds",
        "test accuracy",
        "filter angles (std)",
        "response angles (std)",
        "time of a step",
    ]
    for row, arm in zip(rows, content.summary.ranked, strict=True):
        one = arm.accuracy
        assert row == [
            arm.arm,
            str(arm.finished),
            f"{one.mean:.2f}% ({one.low:.2f} to {one.high:.2f})",
            f"{arm.measures['angle_std'].mean:.1f} degrees",
            f"{arm.measures['response_angle_std'].mean:.1f} degrees",
            f"{content.costs[arm.arm].ratio:.2f} times none's",
        ]


def test_the_arm_with_the_narrowest_angles_of_each_kind_is_named_beside_the_baseline():
    content = full()
    text = terminal(content)
    for kind, name in (("filter", "angle_std"), ("response", "response_angle_std")):
        stds = {arm.arm: arm.measures[name].mean for arm in content.summary.arms}
        least = min(stds, key=stds.get)
        if least == "none":
            assert f"No arm has narrower {kind} angles than none ({stds['none']:.1f} degrees)." in text
        else:
            assert f"The {kind} angles are narrowest with {least}: {stds[least]:.1f} degrees; with none " in text


def test_without_angles_costs_or_finished_runs_there_is_still_a_table():
    bare = terminal(comparison(scores("none", [0.5]), {"none": StepCost(ratio=1.0)}))
    assert cells(bare)[1] == ["none", "1", "50.00%", "-", "-", "1.00 times none's"]
    without = terminal(comparison(scores("hard", [0.5]), {"hard": StepCost(ratio=1.0)}))
    assert "times" not in without
    other = terminal(comparison(scores("hard", [0.5]), {"hard": StepCost(ratio=1.0)}, baseline="hard"))
    assert cells(other)[1][-1] == "1.00 times hard's"
    failed = terminal(comparison([{"regularizer": arm, "seed": 0, "failure": "no"} for arm in ARMS]))
    assert [row[2] for row in cells(failed)[1:]] == ["failed"] * 3
    assert "narrow" not in bare + failed
    assert "narrowest" not in terminal(comparison([run("lsh", 0)]))  # nothing to compare with


def test_the_next_commands_are_tensorboard_ones_own_data_and_more_seeds(monkeypatch, tmp_path):
    script = tmp_path / "scripts" / "compare.py"
    script.parent.mkdir()
    script.touch()
    monkeypatch.setattr(sys, "argv", [str(script), "experiment=shapes", "seeds=[0]"])
    monkeypatch.chdir(tmp_path)
    (_, tensorboard), (_, data), (_, seeds) = next_steps(Path("outputs"), ["experiment=shapes", "seeds=[0]"], [0])
    assert tensorboard.endswith("tensorboard --logdir outputs")
    assert "scripts/compare.py" in data
    assert "data.root=PATH" in data
    assert seeds.endswith("scripts/compare.py experiment=shapes 'seeds=[0,1,2]'")
    (*_, (_, seeds)) = next_steps(Path("outputs"), [], [7, 0, 1, 2])
    assert seeds.endswith("'seeds=[7,0,1,2,3,4,5,6]'")
