import pytest

from tests.experiments.embeddings.command import Command


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """``ortho-whiten`` in an empty folder."""
    return Command(tmp_path, monkeypatch, capsys)
