"""Progress of a comparison on the screen: lines in a log, one refreshed line in a terminal."""

import io
import sys

from ortho_lightning.experiments.comparison.progress import Progress
from ortho_lightning.experiments.comparison.time_left import Timeline


def trained(runs, epochs):
    """The comparison second by second, an epoch in each."""
    now = 0.0
    for run in runs:
        run.started = run.trained = now
        for epoch in range(epochs):
            now += 1
            run.done, run.last = epoch + 1, now
            yield now
        run.ended = now
        yield now


def lines_of(capsys, runs, epochs):
    with Progress(runs, 1) as progress:
        for now in trained(runs, epochs):
            progress.update(now)
            progress.update(now)  # nothing has changed
    return capsys.readouterr().out.splitlines()


def test_a_log_of_a_short_comparison_has_a_line_for_each_epoch_of_every_arm_with_the_time_left(capsys):
    runs = [Timeline(f"{arm}, seed 0", arm, 8) for arm in ("none", "gram", "lsh")]
    lines = lines_of(capsys, runs, 8)
    assert len(lines) == 24
    assert lines[0] == "none, seed 0: 1 of 8 epochs; 1 of 24 in all, about 20 s left"
    assert lines[9] == "gram, seed 0: 2 of 8 epochs; 10 of 24 in all, about 10 s left"
    assert lines[-1].startswith("lsh, seed 0: 8 of 8 epochs; 24 of 24 in all")


def test_a_log_of_a_long_comparison_begins_with_the_first_epoch_and_stays_short(capsys):
    runs = [Timeline(f"lsh, seed {seed}", "lsh", 200) for seed in range(20)]
    lines = lines_of(capsys, runs, 200)
    assert lines[0] == "lsh, seed 0: 1 of 200 epochs; 1 of 4000 in all, about 1 h 10 min left"
    assert 30 <= len(lines) <= 50


def test_a_terminal_shows_the_running_arms_and_keeps_nothing_but_the_results(capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "160")
    runs = [Timeline("none, seed 0", "none", 4, started=0.0), Timeline("lsh, seed 0", "lsh", 4)]
    with Progress(runs, 2) as progress:
        progress.update(1.0)
        assert "none, seed 0: starting" in terminal.getvalue()
        runs[0].trained, runs[0].done, runs[0].last, runs[1].started = 0.0, 1, 5.0, 1.0
        progress.update(5.0)
        shown = terminal.getvalue().split("\r")[-1]
        assert "none, seed 0: 1 of 4 epochs; lsh, seed 0: starting" in shown
        assert "1 of 8 epochs, about" in shown
        progress.write("[1/2] none, seed 0: 95.00%")
    assert capsys.readouterr().out == "[1/2] none, seed 0: 95.00%\n"
