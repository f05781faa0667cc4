"""The summary of runs over seeds, against scipy's own tests and by simulation."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.records import without_nan
from ortho_lightning.experiments.comparison import inference
from ortho_lightning.experiments.comparison.measures import run_measures
from ortho_lightning.experiments.comparison.statistics import check_settings, summarize
from tests.experiments.synthetic import comparison, full, records, run, scores

NONE = [0.70, 0.71, 0.69, 0.72, 0.70]
LSH = [0.71, 0.73, 0.70, 0.72, 0.72]


def arm_of(summary, name):
    return next(arm for arm in summary["arms"] if arm["arm"] == name)


def notes_of(summary):
    return "\n".join(summary["notes"])


def sound(runs, **options):
    """The summary as ``results.json`` holds it, of which every number must be a number."""
    summary = comparison(runs, **options).to_json()["summary"]
    json.dumps(summary, allow_nan=False)
    assert summary["sentence"].endswith(".")
    assert "nan" not in summary["sentence"].lower().split()
    return summary


def test_the_difference_is_that_of_scipys_paired_test():
    arm = arm_of(sound(scores("none", NONE) + scores("lsh", LSH)), "lsh")
    own, other = 100 * np.array(LSH), 100 * np.array(NONE)
    test = stats.ttest_rel(own, other)
    interval = test.confidence_interval(0.95)
    difference = arm["difference"]
    assert difference["n"] == 5
    assert difference["mean"] == pytest.approx(1.2)
    assert difference["p"] == difference["p_holm"] == pytest.approx(test.pvalue, rel=1e-9)
    assert (difference["low"], difference["high"]) == pytest.approx((interval.low, interval.high), rel=1e-9)
    # with one comparison there is nothing to correct
    assert (difference["low_holm"], difference["high_holm"]) == (difference["low"], difference["high"])
    assert arm["figures"]["test_accuracy"]["mean"] == pytest.approx(71.6)
    assert arm["spread"]["std"] == pytest.approx(own.std(ddof=1))
    assert arm["spread"]["ratio"] == pytest.approx(own.std(ddof=1) / other.std(ddof=1))


def test_pairs_are_seeds_that_both_finished():
    runs = scores("none", NONE) + scores("lsh", LSH, seeds=[4, 3, 2, 1, 9])
    runs[0]["failure"] = "exit status 1"
    summary = sound(runs)
    # seeds 1 to 4 are shared; lsh has 0.72, 0.70, 0.73, 0.71 there
    difference = arm_of(summary, "lsh")["difference"]
    assert difference["n"] == 4
    assert difference["mean"] == pytest.approx(100 * np.mean([0.72 - 0.71, 0.70 - 0.69, 0.73 - 0.72, 0.71 - 0.70]))
    none = arm_of(summary, "none")
    assert none["runs"] == 5
    assert none["failed"] == [{"seed": 0, "reason": "exit status 1"}]
    assert none["figures"]["test_accuracy"]["n"] == 4


def test_corrected_intervals_agree_with_the_corrected_decisions():
    rng = np.random.default_rng(3)
    decided = set()
    for _ in range(25):
        runs = scores("none", 0.7 + 0.01 * rng.normal(size=5))
        for arm, gain in (("a", 0.0), ("b", 0.012), ("c", 0.02), ("d", 0.04)):
            runs += scores(arm, 0.7 + gain + 0.01 * rng.normal(size=5))
        tests = [arm["difference"] for arm in sound(runs)["arms"][1:]]
        for one in tests:
            decided.add(one["p_holm"] < 0.05)
            assert (one["p_holm"] < 0.05) == (not one["low_holm"] <= 0 <= one["high_holm"])
            assert one["p_holm"] >= one["p"]
            assert one["low_holm"] <= one["low"] < one["high"] <= one["high_holm"]
    assert decided == {True, False}


def test_false_findings_are_as_rare_as_the_confidence_says():
    # three arms without a difference, paired with one baseline: some arm is taken for another in at most 5% of cases
    samples = np.random.default_rng(4).normal(size=(2000, 4, 6))
    p_values = stats.ttest_1samp(samples[:, 1:] - samples[:, :1], 0.0, axis=2).pvalue
    wrong = sum(min(inference.holm(list(row), 0.05)[0]) < 0.05 for row in p_values)
    assert 0 < wrong / 2000 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
    assert (p_values.min(axis=1) < 0.05).mean() > 0.08  # as they would be without the correction


def test_the_sentence_tells_gains_losses_and_no_difference():
    runs = (
        scores("none", NONE)
        + scores("up", [value + 0.05 + 0.001 * i for i, value in enumerate(NONE)])
        + scores("down", [value - 0.05 + 0.001 * i for i, value in enumerate(NONE)])
        + scores("level", [0.71, 0.70, 0.70, 0.71, 0.71])
    )
    sentence = sound(runs)["sentence"]
    assert sentence.startswith("With 5 seeds, up was better than none in test accuracy: +5.20 points (corrected 95%")
    assert "down was worse than none in test accuracy: -4.80 points" in sentence
    assert "level showed no significant difference from none in test accuracy: +0.20 points" in sentence
    assert "may have been missed" in sentence


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_than_three_seeds_give_no_interval(n):
    summary = sound(scores("none", NONE[:n]) + scores("lsh", LSH[:n]))
    for arm in summary["arms"]:
        figure = arm["figures"]["test_accuracy"]
        assert figure["n"] == n
        assert figure["low"] is None
        assert figure["high"] is None
        assert (figure["std"] is None) == (n == 1)
    difference = arm_of(summary, "lsh")["difference"]
    assert difference["mean"] > 0
    assert all(difference[key] is None for key in ("low", "high", "p", "p_holm", "detectable"))
    assert f"With {n} seed" in summary["sentence"]
    assert "lsh cannot be compared with none on so few seeds" in summary["sentence"]
    assert "Fewer than 3 seeds give no interval" in notes_of(summary)
    assert "small gains cannot be detected" in notes_of(summary)
    assert "cannot prove that an arm is more stable" in notes_of(summary)


def test_eight_seeds_need_no_warning_of_small_gains():
    rng = np.random.default_rng(5)
    runs = scores("none", list(0.7 + 0.01 * rng.normal(size=8))) + scores("lsh", list(0.7 + 0.01 * rng.normal(size=8)))
    text = notes_of(sound(runs))
    assert "small gains" not in text
    assert "The standard deviation between seeds of lsh was" in text
    assert "does not show that either is more stable" in text


def test_equal_differences_are_no_proof():
    runs = scores("none", NONE) + scores("same", NONE) + scores("shifted", [value + 0.01 for value in NONE])
    summary = sound(runs)
    for name, mean in (("same", 0.0), ("shifted", 1.0)):
        difference = arm_of(summary, name)["difference"]
        assert difference["mean"] == pytest.approx(mean, abs=1e-9)
        assert difference["std"] == 0.0
        assert all(difference[key] is None for key in ("low", "high", "p", "p_holm", "detectable"))
    assert "same had the same accuracy as none with every seed" in summary["sentence"]
    assert "shifted differed from none by the same amount with every seed" in summary["sentence"]
    assert "no interval and no test can be computed" in notes_of(summary)


def test_ratios_of_deviations_are_corrected_for_the_number_of_arms_and_paired_by_seed():
    rng = np.random.default_rng(4)
    level = rng.normal(70, 1, size=6)
    arms = {"none": level, "lsh": level + rng.normal(0, 0.3, size=6), "gram": 4 * level + rng.normal(0, 1, size=6)}
    runs = [run for arm, values in arms.items() for run in scores(arm, [value / 300 for value in values])]
    found = {arm: arm_of(sound(runs), arm)["spread"] for arm in ("lsh", "gram")}
    assert found["gram"]["p_holm"] == pytest.approx(2 * found["gram"]["p"])
    assert found["lsh"]["p_holm"] == found["lsh"]["p"]
    for arm, one in found.items():
        assert one["ratio"] == pytest.approx(arms[arm].std() / level.std())
        assert (one["ratio_low"] <= 1 <= one["ratio_high"]) == (one["p_holm"] >= 0.05)
    text = " ".join(sound(runs)["notes"])
    assert "gram was less stable" in text


def test_arms_without_a_common_seed_have_no_ratio_of_deviations():
    other = arm_of(sound(scores("none", NONE) + scores("lsh", LSH, seeds=range(50, 50 + len(LSH)))), "lsh")
    assert other["spread"]["std"] > 0
    assert other["spread"]["ratio"] is other["spread"]["p"] is None


def test_an_arm_without_spread_has_no_intervals():
    summary = sound(scores("none", [0.5] * 4) + scores("lsh", [0.5, 0.6, 0.55, 0.5]))
    none = arm_of(summary, "none")
    assert none["figures"]["test_accuracy"]["low"] is None
    assert none["spread"] == dict.fromkeys(("low", "high", "ratio", "ratio_low", "ratio_high", "p", "p_holm")) | {
        "std": 0.0
    }
    assert arm_of(summary, "lsh")["spread"]["ratio"] is None


@pytest.mark.parametrize("accuracy", [math.nan, math.inf])
def test_a_diverged_run_counts_as_failed(accuracy):
    summary = sound(scores("none", NONE) + scores("lsh", [accuracy, *LSH[1:]]))
    lsh = arm_of(summary, "lsh")
    assert lsh["failed"] == [{"seed": 0, "reason": f"the run diverged: its test accuracy is {accuracy}"}]
    assert lsh["difference"]["n"] == 4
    assert "lsh: 1 of 5 runs failed (seed 0)" in notes_of(summary)


def test_a_run_whose_loss_ended_as_nan_is_told():
    runs = scores("none", NONE)
    runs[2]["history"] = [without_nan({"epoch": 0, "train_loss": math.nan, "val_accuracy": 0.1})]
    assert "none: the loss of the last epoch was not finite with seed 2" in notes_of(sound(runs))


def test_untested_runs_are_finished_but_not_compared():
    summary = sound(scores("none", [None] * 3) + scores("lsh", [None] * 3))
    assert summary["sentence"] == "No run has a test accuracy, so nothing is compared."
    assert all(arm["failed"] == [] and arm["difference"] is None for arm in summary["arms"])


def test_no_runs_at_all():
    summary = sound([])
    assert summary["arms"] == []
    assert summary["sentence"] == "No run finished, so there is no result."


def test_all_runs_failed():
    runs = [{"regularizer": arm, "seed": seed, "failure": "broken"} for arm in ("none", "lsh") for seed in (0, 1)]
    summary = sound(runs)
    assert summary["sentence"] == "No run finished, so there is no result."
    assert "none: every run failed" in notes_of(summary)
    assert summary["target"] is None


def test_an_arm_of_failures_leaves_the_others_compared():
    broken = [{"regularizer": "gram", "seed": seed, "failure": "broken"} for seed in range(5)]
    summary = sound(scores("none", NONE) + broken + scores("lsh", LSH))
    assert arm_of(summary, "gram")["difference"] is None
    assert arm_of(summary, "lsh")["difference"]["p"] is not None
    assert "gram: every run failed" in notes_of(summary)


def test_without_the_baseline_nothing_is_compared():
    for runs in (scores("lsh", LSH), scores("lsh", LSH) + scores("gram", NONE)):
        summary = sound(runs)
        assert summary["baseline"] is None
        assert all(arm["difference"] is None for arm in summary["arms"])
        assert "lsh reached a test accuracy of 71.60% (95% interval" in summary["sentence"]
        assert "There is no arm none" in notes_of(summary)
    assert sound(scores("lsh", LSH) + scores("gram", NONE), baseline="gram")["baseline"] == "gram"


def with_curve(arm, seed, curve):
    history = [{"epoch": epoch, "train_loss": 1.0, "val_accuracy": value} for epoch, value in enumerate(curve)]
    return scores(arm, [0.7], seeds=[seed])[0] | {"history": history}


def test_epochs_to_the_target_are_counted_from_one():
    runs = [with_curve("none", 0, [0.1, 0.5, 0.4]), with_curve("none", 1, [0.2, None, 0.9]),
            with_curve("none", 2, [0.6, 0.1, 0.7])]  # fmt: skip
    # the lowest of the best, 0.5, 0.9 and 0.7, is what all of them reach, in epochs 2, 3 and 1
    summary = sound(runs)
    assert summary["target"] == 0.5
    figure = arm_of(summary, "none")["figures"]["epochs_to_target"]
    assert (figure["n"], figure["mean"]) == (3, 2.0)
    strict = sound(runs, target=0.7)
    figure = arm_of(strict, "none")["figures"]["epochs_to_target"]
    assert (figure["n"], figure["mean"]) == (2, 3.0)
    assert "none did not reach the validation accuracy of 70.00% with seed 0" in notes_of(strict)
    assert "after its first epoch" not in notes_of(strict)
    collapsed = sound([*runs, with_curve("none", 3, [0.1, 0.1, 0.1])])
    assert "Every run was at the target of 10.00% after its first epoch" in notes_of(collapsed)


def test_many_arms_without_a_verdict_are_one_clause_and_one_note():
    gains = [0.0, 0.001, -0.002, 0.003, 0.001, -0.001]
    noise = [[0.004, -0.003, 0.001], [-0.004, 0.002, 0.003], [0.001, 0.004, -0.004]]
    runs = scores("none", [0.70, 0.71, 0.69])
    for number, gain in enumerate(gains):
        shifts = noise[number % 3]
        runs += scores(f"arm{number}", [0.70 + gain + shifts[0], 0.71 + gain + shifts[1], 0.69 + gain + shifts[2]])
    summary = sound(runs)
    means = [arm["difference"]["mean"] for arm in summary["arms"] if arm["difference"]]
    found = (
        f"6 arms showed no significant difference from none in test accuracy: {min(means):+.2f} to {max(means):+.2f}"
    )
    assert found in summary["sentence"]
    assert "arm0" not in summary["sentence"]
    assert notes_of(summary).count("more or less stable") == 1
    few = sound([one for one in runs if one["regularizer"] in ("none", "arm0", "arm1")])
    assert "arm0 and arm1 showed no significant difference" in few["sentence"]
    assert notes_of(few).count("this does not show that either is more stable") == 2


def test_convergence_angles_and_perturbed_data_are_compared_in_pairs_as_scipy_does():
    curves = {"none": [[0.1, 0.5], [0.2, 0.6], [0.3, 0.55]], "lsh": [[0.3, 0.6], [0.3, 0.7], [0.5, 0.65]]}
    stds = {"none": [8.0, 9.0, 8.5], "lsh": [6.0, 6.5, 7.0]}
    rotated = {"none": [40.0, 42.0, 41.0], "lsh": [42.0, 46.0, 44.0]}
    runs = [
        with_curve(arm, seed, curve)
        | {
            "layers": [{"name": "a", "k": 2, "d": 2, "std": stds[arm][seed]}],
            "robustness": {"rotated": rotated[arm][seed] / 100},
        }
        for arm in curves
        for seed, curve in enumerate(curves[arm])
    ]
    found = arm_of(sound(runs), "lsh")["other_differences"]
    area = {arm: [100 * (first + last) / 2 for first, last in curves[arm]] for arm in curves}
    for name, of_arm in (("mean_val_accuracy", area), ("angle_std", stds), ("robustness/rotated", rotated)):
        assert found[name]["n"] == 3
        assert found[name]["mean"] == pytest.approx(np.mean(of_arm["lsh"]) - np.mean(of_arm["none"]))
        theirs = stats.ttest_rel(of_arm["lsh"], of_arm["none"])
        assert found[name]["p_holm"] == pytest.approx(theirs.pvalue)  # of one arm
        ends = theirs.confidence_interval(0.95)
        assert [found[name]["low_holm"], found[name]["high_holm"]] == pytest.approx([ends.low, ends.high])
    assert found["epochs_to_target"]["mean"] == pytest.approx(-1 / 3)  # at 50% in epochs 2, 2, 2 and 2, 2, 1
    assert "response_angle_std" not in found
    assert arm_of(sound(runs), "none")["other_differences"] == {}


def test_figures_of_a_run():
    layers = [{"name": "a", "mean": 90.0, "std": 4.0, "spread_ratio": 1.0, "max_abs_cos": 0.5},
              {"name": "b", "mean": 88.0, "std": 6.0, "spread_ratio": 1.5, "max_abs_cos": 0.3,
               "response_mean": 92.0, "response_std": 12.0},
              {"name": "one filter", "mean": math.nan, "std": math.nan, "spread_ratio": math.nan,
               "max_abs_cos": math.nan}]  # fmt: skip
    one = scores("lsh", [0.5])[0] | {"layers": layers, "robustness": {"rotated": 0.25}, "penalty": 0.125,
                                    "best": {"epoch": 3, "val_accuracy": 0.75, "test_accuracy": 0.625}}  # fmt: skip
    found = run_measures(records([one])[0], None)
    assert found == {
        "test_accuracy": 50.0, "best_test_accuracy": 62.5, "best_epoch": 4.0, "val_accuracy": None,
        "mean_val_accuracy": None, "epochs_to_target": None,
        "angle_mean": 89.0, "angle_std": 5.0, "spread_ratio": 1.25, "max_abs_cos": 0.5,
        "response_angle_mean": 92.0, "response_angle_std": 12.0,
        "penalty": 0.125, "robustness/rotated": 25.0,
    }  # fmt: skip


def test_the_layer_table_averages_seeds_and_adds_counts():
    runs = [run(arm, seed, epochs=1, shapes=((12, 4), (6, 8))) for arm in ("none", "lsh") for seed in (0, 1)]
    layers = sound(runs)["layers"]
    assert [(row["name"], row["k"], row["d"]) for row in layers] == [
        ("net.stage0.conv", 12, 4),
        ("net.stage1.conv", 6, 8),
    ]
    assert layers[0]["welch_floor"] == pytest.approx(math.sqrt(8 / 44))
    assert layers[1]["welch_floor"] == 0.0
    own = [one["layers"][0] for one in runs if one["regularizer"] == "lsh"]
    shown = layers[0]["arms"]["lsh"]
    assert shown["spread_ratio"] == pytest.approx((own[0]["spread_ratio"] + own[1]["spread_ratio"]) / 2)
    for kind in ("counts", "response_counts"):
        assert shown[kind] == [a + b for a, b in zip(own[0][kind], own[1][kind], strict=True)]
        assert sum(shown[kind]) == 2 * 12 * 11 // 2
    assert shown["response_samples"] == own[0]["response_samples"]


def test_arms_that_start_otherwise_are_named():
    runs = scores("none", NONE) + scores("lsh", LSH)
    assert "Not paired" not in notes_of(sound(runs))
    runs[7]["start"] = {"weights": "other", "batch": "b2"}
    runs[8]["start"] = {"weights": "other", "batch": "b3"}
    assert "Not paired: lsh and none started differently with seed 2, 3 (different weights)" in notes_of(sound(runs))
    runs[7]["start"] = None
    assert "lsh (seed 2)" in notes_of(sound(runs))


@pytest.mark.parametrize("options", [{"confidence": 95, "target": None}, {"confidence": 0.95, "target": 75}])
def test_percentages_for_fractions_are_rejected(options):
    with pytest.raises(ConfigurationError, match=r"95: must lie|75: a validation accuracy as a fraction"):
        check_settings(**options)
    with pytest.raises(ConfigurationError):
        summarize([], **options)


def test_everything_at_once():
    summary = sound([one.to_json() for one in full().runs])
    assert summary["seeds"] == list(range(8))
    assert arm_of(summary, "gram")["difference"]["n"] == 7
    assert arm_of(summary, "lsh")["figures"]["robustness/rotated"]["n"] == 8
    assert len(summary["layers"]) == 7
