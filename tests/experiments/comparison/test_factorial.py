"""What a penalty brings in place of other regularizers, from a full factorial."""

import itertools
import statistics

import pytest

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.comparison.factorial import Factor, Factorial
from tests.experiments.comparison import folders

KEYS = ["model.optimizer.weight_decay", "model.net.norm"]
CONFIDENCE = 0.95


def accuracy(arm, decay, norm, seed):
    """Each seed has its own level and its own effects; the penalty helps by 2 points, and by 3 more without norms."""
    own = seed * (1 + 0.1 * decay + 0.2 * norm + 0.3 * (arm == "lsh"))
    return 50 + own + 1 * decay + 8 * norm + (arm == "lsh") * (5 - 3 * norm)


def accuracies(arms=("none", "lsh"), seeds=range(4)):
    cells = list(itertools.product((False, True), repeat=2))
    return {arm: {cell: {seed: accuracy(arm, *cell, seed) for seed in seeds} for cell in cells} for arm in arms}


def factors():
    return [Factor.of(KEYS[0], [0.0, 0.005]), Factor.of(KEYS[1], ["batch", None])]


def replacements(found):
    return Factorial(factors(), found, "none", CONFIDENCE).replacements()


@pytest.fixture
def made():
    return {one.factor: one for one in replacements(accuracies())}


@pytest.mark.parametrize(("place", "name"), [(0, "weight_decay"), (1, "norm")])
def test_effects_are_means_over_the_other_factors_paired_by_seed(made, place, name):
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


def test_what_replaces_a_factor_is_told_by_its_share(made):
    # without weight decay lsh brings 3.5 points on average and its seeds' part; weight decay 1 and its seeds' part
    seeds = 1.5  # their mean
    assert made["weight_decay"].share == pytest.approx((3.5 + 0.3 * seeds) / (1 + 0.1 * seeds))
    assert made["norm"].share == pytest.approx((5 + 0.3 * seeds) / (8 + 0.2 * seeds))
    harmful = {
        arm: {tuple(not on for on in cell): seeds for cell, seeds in cells.items()}
        for arm, cells in accuracies().items()
    }
    assert [one.share for one in replacements(harmful)] == [None, None]


def test_factors_are_corrected_for_their_number_and_arms_for_all_rows():
    more = {**accuracies(), "gram": accuracies(("lsh",))["lsh"]}
    found = replacements(more)
    assert [(one.factor, one.arm) for one in found] == [
        ("weight_decay", "lsh"), ("weight_decay", "gram"), ("norm", "lsh"), ("norm", "gram"),
    ]  # fmt: skip
    smallest = min(found, key=lambda one: one.gains.p)
    assert smallest.gains.p_holm == pytest.approx(4 * smallest.gains.p)
    first = min(found, key=lambda one: one.brings.p)
    assert first.brings.p_holm == pytest.approx(2 * first.brings.p)


def test_only_seeds_with_every_cell_count():
    some = accuracies()
    del some["lsh"][True, False][2]
    assert {one.gains.n for one in replacements(some)} == {3}
    del some["lsh"][True, True]
    with pytest.raises(ConfigurationError, match="no seed has finished runs of lsh and none"):
        replacements(some)


@pytest.mark.parametrize("values", [[0.1], [0.1, 0.2], [0.0, 0.1, 0.2], [None, 0.0], []])
def test_a_factor_is_on_or_off(values):
    with pytest.raises(ConfigurationError, match=r"weight_decay.*two, one of which is off"):
        Factor.of(KEYS[0], values)


def test_the_runs_of_folders_make_the_cells(tmp_path):
    for place, (arm, decay, norm, seed) in enumerate(
        itertools.product(("none", "lsh"), (0.0, 0.005), (None, "batch"), range(3))
    ):
        folder = tmp_path / f"{place}"
        changes = {"model/optimizer/weight_decay": decay, "model/net": {"norm": norm}}
        folders.make(folder, arm, seed, accuracy=accuracy(arm, bool(decay), norm is not None, seed) / 100, **changes)
    folders.make(tmp_path / "failed", "gram", 0, failure="diverged", **changes)
    runs = sorted(tmp_path.iterdir())
    direct = replacements(accuracies(seeds=range(3)))
    for one, other in zip(Factorial.of(runs, KEYS, "none", CONFIDENCE).replacements(), direct, strict=True):
        assert (one.factor, one.arm) == (other.factor, other.arm)
        assert one.gains.mean == pytest.approx(other.gains.mean)
        assert one.brings.low_holm == pytest.approx(other.brings.low_holm)
    folders.make(tmp_path / "other", "lsh", 0, **changes)
    with pytest.raises(ConfigurationError, match="differ in more than the factors"):
        Factorial.of(sorted(tmp_path.iterdir()), KEYS, "none", CONFIDENCE)
