"""The recipes are found in a checkout; tests/integration/test_wheel.py finds them in a wheel."""

import pytest

from ortho_lightning.configuration import configuration_folder, recipe_file
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.cli import conf_dir


def test_every_recipe_is_found_by_name_and_an_unknown_one_lists_them(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert str(configuration_folder()) == conf_dir()
    for name in ("adalora", "heads", "kasa", "olora", "router"):
        assert f"name: {name}" in recipe_file(name).read_text()
    with pytest.raises(ConfigurationError, match="recipes are adalora, heads, kasa, olora, router"):
        recipe_file("lora")
