"""The gain of an arm in place of other regularizers, from a full factorial."""

import itertools
import statistics

import pytest
from omegaconf import OmegaConf

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.comparison.factorial import Factor, Factorial
from ortho_lightning.experiments.comparison.gather import gather
from tests.experiments.comparison import folders

DECAY, NORM = KEYS = ["model.optimizer.weight_decay", "model.net.norm"]
CONFIDENCE = 0.95


def accuracy(arm, decay, norm, seed):
    """Each seed has its own level and its own effects; the penalty helps by 2 points, and by 3 more without norms."""
    own = seed * (1 + 0.1 * decay + 0.2 * norm + 0.3 * (arm == "lsh"))
    return 50 + own + 1 * decay + 8 * norm + (arm == "lsh") * (5 - 3 * norm)


def accuracies(arms=("none", "lsh"), seeds=range(4)):
    cells = list(itertools.product((False, True), repeat=2))
    return {arm: {cell: {seed: accuracy(arm, *cell, seed) for seed in seeds} for cell in cells} for arm in arms}


def factorial(found):
    return Factorial([Factor.of(DECAY, [0.0, 0.005]), Factor.of(NORM, ["batch", None])], found, "none")


def replacements(found):
    return factorial(found).replacements(CONFIDENCE)


# ------------------------------------------------------------------------------------------------------------- effects


@pytest.mark.parametrize(("place", "name"), [(0, "weight_decay"), (1, "norm")])
def test_effects_are_means_over_the_other_factors_paired_by_seed(place, name):
    made = {one.factor: one for one in replacements(accuracies())}

    def mean(arm, on, seed):
        cells = [(on, other) if place == 0 else (other, on) for other in (False, True)]
        return statistics.fmean(accuracy(arm, *cell, seed) for cell in cells)

    for effect, (first, second) in {
        "brings": (("none", True), ("none", False)),
        "gains": (("lsh", False), ("none", False)),
        "instead": (("lsh", False), ("none", True)),
        "beside": (("lsh", True), ("none", True)),
    }.items():
        differences = [mean(*first, seed) - mean(*second, seed) for seed in range(4)]
        one = getattr(made[name], effect)
        assert one.n == 4
        assert one.mean == pytest.approx(statistics.fmean(differences))
        assert one.std == pytest.approx(statistics.stdev(differences))


def test_the_share_tells_what_replaces_a_factor_that_brings_something():
    # means over four seeds, 1.5, and over the other factor
    decay, norm = (one.share for one in replacements(accuracies()))
    assert decay == pytest.approx((3.5 + 0.3 * 1.5) / (1 + 0.1 * 1.5))
    assert norm == pytest.approx((5 + 0.3 * 1.5) / (8 + 0.2 * 1.5))
    harmful = {
        arm: {tuple(not on for on in cell): seeds for cell, seeds in cells.items()}
        for arm, cells in accuracies().items()
    }
    assert [one.share for one in replacements(harmful)] == [None, None]
    unsure = accuracies()
    unsure["none"][True, True][0] -= 20  # the mean of the factor's effect stays positive for norms
    assert [one.share for one in replacements(unsure)] == [None, None]


def test_factors_are_corrected_for_their_number_and_arms_for_all_rows():
    found = replacements({**accuracies(), "gram": accuracies(("lsh",))["lsh"]})
    assert [(one.factor, one.arm) for one in found] == [
        ("weight_decay", "lsh"), ("weight_decay", "gram"), ("norm", "lsh"), ("norm", "gram"),
    ]  # fmt: skip
    smallest = min(found, key=lambda one: one.gains.p)
    assert smallest.gains.p_holm == pytest.approx(4 * smallest.gains.p)
    first = min(found, key=lambda one: one.brings.p)
    assert first.brings.p_holm == pytest.approx(2 * first.brings.p)


def test_each_row_is_of_the_seeds_that_its_arm_and_the_baseline_have_in_every_cell():
    some = {**accuracies(), "gram": accuracies(("lsh",))["lsh"]}
    del some["lsh"][True, False][2]
    for one in replacements(some):
        assert {one.brings.n, one.gains.n, one.instead.n, one.beside.n} == {3 if one.arm == "lsh" else 4}
        assert one.instead.mean == pytest.approx(one.gains.mean - one.brings.mean)
    del some["lsh"][True, True]
    assert {one.arm for one in replacements(some)} == {"gram"}
    assert factorial(some).incomplete == ["lsh"]
    assert factorial(some).accuracy("lsh", (True, True), CONFIDENCE).mean is None


# ------------------------------------------------------------------------------------------------------------- factors


@pytest.mark.parametrize("values", [[0.1], [0.1, 0.2], [0.0, 0.1, 0.2], [None, 0.0, 1], [], [["a"], ["b"]]])
def test_a_factor_is_on_or_off(values):
    with pytest.raises(ConfigurationError, match=r"weight_decay.*two, one of which is off"):
        Factor.of(DECAY, values)


def test_equal_values_are_one():
    assert Factor.of(DECAY, [0, 0.0, 5e-3, 0.005]) == Factor(DECAY, 0.005, 0)
    assert Factor.of("data.classes", [None, ["cat", "dog"]]).on == ["cat", "dog"]


def test_factors_with_the_same_last_part_are_named_in_full():
    keys = [DECAY, "regularizer.kernel_optimizer.weight_decay", NORM]
    assert Factorial([Factor(key, 1, 0) for key in keys], {}, "none").names == [*keys[:2], "norm"]


# ------------------------------------------------------------------------------------------------------------- folders


def make(folder, arm, seed, decay=0.0, norm=None, lr=None, **more):
    """A run's folder; the learning rate goes with the norm."""
    changes = {
        "model/optimizer/weight_decay": decay, "model/net": {"norm": norm},
        "model/optimizer/lr": lr or (0.03 if norm is None else 0.1),
    }  # fmt: skip
    value = accuracy(arm, bool(decay), norm is not None, seed) / 100
    folders.make(folder, arm, seed, accuracy=value, **{**changes, **more})


@pytest.fixture
def made(tmp_path):
    """The folder of a full factorial."""
    cells = itertools.product(("none", "lsh"), (0, 0.005), (None, "batch"), range(3))
    for place, (arm, decay, norm, seed) in enumerate(cells):
        make(tmp_path / f"{place}", arm, seed, decay, norm)
    return tmp_path


def gathered(folder, factors=tuple(KEYS), by=("model.optimizer.lr",), baseline="none"):
    options = {"gather": str(folder), "by": list(by), "factors": list(factors), "baseline": baseline}
    return gather(OmegaConf.create(options), [])


def test_the_runs_of_folders_make_the_cells(made):
    found = gathered(made)
    direct = replacements(accuracies(seeds=range(3)))
    for one, other in zip(found.factorial.replacements(CONFIDENCE), direct, strict=True):
        assert (one.factor, one.arm) == (other.factor, other.arm)
        assert one.gains.mean == pytest.approx(other.gains.mean)
        assert one.brings.low_holm == pytest.approx(other.brings.low_holm)


@pytest.mark.parametrize(
    ("baseline", "arm", "full"),
    [
        ("none", "none", "none lr=0.1 weight_decay=0.005 norm=batch"),
        ("lsh", "lsh", "lsh lr=0.1 weight_decay=0.005 norm=batch"),
        ("none lr=0.03 weight_decay=0 norm=None", "none", "none lr=0.03 weight_decay=0 norm=None"),
    ],
)
def test_the_baseline_is_an_arm_with_every_factor_or_the_one_that_was_named(made, baseline, arm, full):
    found = gathered(made, baseline=baseline)
    assert (found.factorial.baseline, found.baseline) == (arm, full)
    assert full in {record.regularizer for record in found.records}


def test_zero_has_one_name(made):
    make(made / "again", "none", 7, 0.0, "batch")
    names = {record.regularizer for record in gathered(made).records}
    assert len(names) == 8


def test_an_arm_that_failed_is_known_to_be_incomplete(made):
    make(made / "failed", "gram", 0, failure="diverged")
    found = gathered(made)
    assert found.factorial.incomplete == ["gram"]
    assert {one.arm for one in found.factorial.replacements(CONFIDENCE)} == {"lsh"}


def test_a_value_of_a_penalty_makes_arms_of_their_own(made):
    for folder in made.iterdir():
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace("regularizer:\n  weight: 0.1", "regularizer:\n  weight: 0.2"))
    for place, (decay, norm, seed) in enumerate(itertools.product((0, 0.005), (None, "batch"), range(3))):
        make(made / f"more{place}", "lsh", seed, decay, norm)
    found = gathered(made, by=["model.optimizer.lr", "regularizer.weight"]).factorial
    assert list(found.accuracies) == ["none", "lsh weight=0.1", "lsh weight=0.2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "batch", "lr": 0.2}, r"by=\['model.optimizer.lr'\]: .* have \[0.1\] and \[0.2\] with the same"),
        ({"data/batch_size": 16}, r"cannot be compared: they differ in data.batch_size"),
        ({"regularizer/weight": 0.5}, r"cannot be compared: they differ in regularizer.weight \(0.1 and 0.5\)"),
        ({"decay": 0.01}, r"factors='model.optimizer.weight_decay': has the values \[0, 0.005, 0.01\]"),
    ],
)
def test_runs_that_differ_in_more_are_rejected(made, change, message):
    make(made / "other", "lsh", 7, **change)
    with pytest.raises(ConfigurationError, match=message):
        gathered(made)


def test_a_run_without_a_factor_is_rejected(made):
    make(made / "other", "lsh", 7)
    config = made / "other" / "config.yaml"
    config.write_text(config.read_text().replace("    weight_decay: 0.0\n", ""))
    with pytest.raises(ConfigurationError, match=r"factors='model.optimizer.weight_decay': .*other has no value of it"):
        gathered(made)


def test_what_cannot_be_a_factorial_is_rejected(made):
    with pytest.raises(ConfigurationError, match=r"factors='model.net.width': no run has this key"):
        gathered(made, factors=["model.net.width"])
    with pytest.raises(ConfigurationError, match=r"name each once"):
        gathered(made, factors=[NORM, NORM], by=["model.optimizer.lr", DECAY])
    with pytest.raises(ConfigurationError, match=r"no seed has finished runs of hard with and without"):
        gathered(made, baseline="hard")
