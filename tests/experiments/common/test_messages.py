"""Errors of a configuration: on one line, and before anything runs."""

import pytest
from omegaconf import OmegaConf

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.messages import one_line
from ortho_lightning.experiments.common.option_types import check_types, check_value


def test_lines_become_sentences_lists_stay_lists_and_noise_goes():
    text = "Could not override 'a.b'.\nUse +a.b=1\nKey 'b' is not in struct\n    full_key: a.b\n    object_type=dict"
    assert one_line(text) == "Could not override 'a.b'. Use +a.b=1. Key 'b' is not in struct"
    assert one_line("There are:\n\tone\n\ttwo\n\nChoose") == "There are: one, two. Choose"
    assert one_line("as it is") == "as it is"
    assert (
        one_line("Could not find 'a'\n\nConfig search path:\n\tprovider=main, path=file:///x") == "Could not find 'a'"
    )


@pytest.mark.parametrize(
    ("value", "hint", "words"),
    [
        ("abc", int, "an integer"),
        (0.5, int | None, "an integer or null"),
        ("abc", float, "a number"),
        ("yes", bool, "true or false"),
        ("1h", dict | None, "dict or null"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_what_is_allowed(value, hint, words):
    with pytest.raises(ConfigurationError) as caught:
        check_value("some.key", value, hint)
    assert str(caught.value) == f"some.key={value}: must be {words}"


@pytest.mark.parametrize(("value", "hint"), [(1, float), (None, int), ("auto", str | int), ("???", int), ([1], int)])
def test_what_may_be_right_is_left_alone(value, hint):
    check_value("some.key", value, hint)


def test_values_are_checked_against_the_signatures_of_nested_targets():
    config = {
        "trainer": {"_target_": "pytorch_lightning.Trainer", "max_epochs": 3, "devices": "auto"},
        "outer": {"penalty": {"_target_": "ortho_lightning.regularizers.LSH", "gamma": "${steep}"}},
        "steep": 10,
        "theirs": {"_target_": "some_package.Thing", "max_epochs": "abc"},
    }
    check_types(OmegaConf.create(config))
    with pytest.raises(ConfigurationError, match=r"^outer\.penalty\.gamma=steep: must be a number$"):
        check_types(OmegaConf.create({**config, "steep": "steep"}))
    with pytest.raises(ConfigurationError, match=r"^trainer\.max_epochs=abc: must be an integer or null$"):
        check_types(OmegaConf.create({**config, "trainer": {**config["trainer"], "max_epochs": "abc"}}))
