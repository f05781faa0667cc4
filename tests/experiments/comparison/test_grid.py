"""The search of an arm's grid: key by key, and beyond an end at which the best stands."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.comparison.grid import arm_grid, search


def run(grid, score, extend=6):
    """Everything that was asked for, and the choice."""
    searching, asked = search(grid, extend), []
    wanted = next(searching)
    while True:
        asked += wanted
        try:
            wanted = searching.send({settings: score(*settings) for settings in wanted})
        except StopIteration as ended:
            return asked, ended.value


def number(setting):
    return float(setting.partition("=")[2])


def test_a_best_value_inside_of_the_grid_ends_the_search():
    asked, choice = run({"w": ["0.1", "1", "10"]}, lambda w: -abs(math.log(number(w))))
    assert asked == [("w=0.1",), ("w=1",), ("w=10",)]
    assert choice.settings == ("w=1",)
    assert not choice.at_an_end


@given(st.floats(-4, 5))
def test_the_search_goes_beyond_an_end_until_the_best_stands_at_none(at):
    _, choice = run({"w": ["0.1", "1", "10"]}, lambda w: -abs(math.log10(number(w)) - at))
    assert abs(math.log10(number(choice.settings[0])) - at) <= 0.5 + 1e-6
    assert not choice.at_an_end


def test_it_goes_only_so_far_and_says_that_it_stands_at_an_end():
    asked, choice = run({"w": ["1", "3"]}, lambda w: number(w), extend=2)
    assert [number(*each) for each in asked] == [1, 3, 9, 27]
    assert choice.settings == choice.at_an_end == ("w=27",)


def test_every_key_that_stands_at_an_end_is_told():
    grid = {"w": ["0.1", "1"], "d": ["1", "2", "3"]}
    _, choice = run(grid, lambda w, d="d=2": number(w) - abs(number(d) - 2), extend=2)
    assert choice.settings == ("w=1e+02", "d=2")
    assert choice.at_an_end == ("w=1e+02",)


@pytest.mark.parametrize(
    ("values", "next_value"), [(["10", "11", "12"], "13"), (["256", "512"], "1024"), (["0.9", "1"], "1.1")]
)
def test_the_next_number_lies_beyond_the_end(values, next_value):
    asked, _ = run({"w": values}, lambda w: number(w), extend=1)
    assert asked[-1] == (f"w={next_value}",)


def test_a_later_key_is_searched_with_the_best_of_those_before():
    asked, choice = run(
        {"w": ["1", "2", "4"], "d": ["0.1", "0.2", "0.4"]}, lambda w, d="d=0.2": -abs(number(w) - 2) - number(d)
    )
    assert asked[:3] == [("w=1",), ("w=2",), ("w=4",)]
    assert all(each[0] == "w=2" for each in asked[3:])
    assert choice.settings[0] == "w=2"
    assert number(choice.settings[1]) < 0.1


@pytest.mark.parametrize("values", [["0", "1", "2"], ["inputs", "exact"], ["5.0"]])
def test_values_that_have_no_next_are_not_extended(values):
    asked, choice = run({"w": values}, lambda w: 0.0)
    assert len(asked) == len(values)
    assert choice.settings == (f"w={values[0]}",)  # the first of equals
    assert not choice.at_an_end


def test_what_failed_is_not_chosen_and_if_all_failed_it_is_an_error():
    _, choice = run({"w": ["0.1", "1", "10"]}, lambda w: None if number(w) >= 10 else number(w))
    assert choice.settings == ("w=1",)
    with pytest.raises(ConfigurationError, match=r"w: every value of 1, 2 failed"):
        run({"w": ["1", "2"]}, lambda w: None)


def test_an_arm_has_its_own_grid_or_the_default():
    config = OmegaConf.create({"grid": {"none": ["a.b=1,2", "c=x"], "default": ["c=range(1,4)"]}})
    assert arm_grid(config, "none") == {"a.b": ["1", "2"], "c": ["x"]}
    assert arm_grid(config, "gram") == {"c": ["1", "2", "3"]}
    for wrong in ({"none": [1]}, {"none": []}, {"none": {"a": [1]}}, {"none": "a=1,2"}, {}):
        with pytest.raises(ConfigurationError, match=r"grid\.none=.* must be a list of keys with values"):
            arm_grid(OmegaConf.create({"grid": wrong}), "none")
