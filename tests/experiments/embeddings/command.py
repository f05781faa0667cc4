"""``ortho-whiten`` in this process: a process each would take a minute."""

import sys

import pytest

from ortho_lightning.experiments import whiten


class Command:
    """Runs the command in a folder."""

    def __init__(self, folder, monkeypatch, capsys):
        self.folder = folder
        self._patch = monkeypatch
        self._capsys = capsys
        monkeypatch.chdir(folder)

    def __call__(self, *arguments):
        """Run it; returns what it printed."""
        self._patch.setattr(sys, "argv", ["ortho-whiten", *arguments])
        whiten.main()
        return self._capsys.readouterr().out

    def rejects(self, *arguments):
        """Run what cannot work; returns the message, after checking that nothing was written."""
        before = {path.name for path in self.folder.rglob("*")}
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            self(*arguments)
        assert ended.value.code == 2
        assert {path.name for path in self.folder.rglob("*")} == before
        message = self._capsys.readouterr().err.split("error: ")[-1]
        assert message.count("\n") == 1
        return message
