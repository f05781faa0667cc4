"""The estimate of the time that the rest of a comparison takes, beside the time that it then takes."""

import pytest

from ortho_lightning.experiments.comparison.time_left import Timeline, in_words, seconds_left

START, EPOCH, END = 8.0, 5.0, 3.0


def after(seconds, runs=3, epochs=8, jobs=1, paces=None):
    """Runs one after the other, ``jobs`` at a time, as they stand some seconds after the first has started."""
    found, free = [], [0.0] * jobs
    for number in range(runs):
        pace = (paces or [EPOCH] * runs)[number]
        begin = free.pop(0)
        finish = begin + START + epochs * pace + END
        free.append(finish)
        free.sort()
        run = Timeline(f"run {number}", f"arm {number}", epochs)
        if begin <= seconds:
            run.started = begin
            if begin + START <= seconds:
                run.trained = begin + START
                run.done = min(epochs, int((seconds - run.trained) // pace))
                run.last = run.trained + run.done * pace if run.done else None
            run.ended = finish if finish <= seconds else None
        found.append(run)
    return found, max(free)


def test_before_the_first_epoch_there_is_no_estimate():
    for seconds in (0.0, START + EPOCH - 0.1):
        assert seconds_left(after(seconds)[0], 1, seconds) is None


def test_from_the_first_epoch_on_the_estimate_lacks_only_the_ends_that_were_not_seen():
    for seconds in (START + EPOCH, START + 2.5 * EPOCH, START + 7 * EPOCH):
        runs, total = after(seconds)
        assert seconds_left(runs, 1, seconds) == pytest.approx(total - seconds - 3 * END)


@pytest.mark.parametrize("share", [0.4, 0.5, 0.7, 0.99])
def test_after_the_first_run_the_estimate_is_the_time_left(share):
    _, total = after(0.0)
    runs, _ = after(share * total)
    assert seconds_left(runs, 1, share * total) == pytest.approx((1 - share) * total)


def test_jobs_share_the_work_but_no_run_is_divided():
    seconds = START + EPOCH
    runs, total = after(seconds, runs=4, jobs=2)
    assert seconds_left(runs, 2, seconds) == pytest.approx(total - seconds - 2 * END)
    runs, total = after(seconds, runs=2, jobs=8)
    assert seconds_left(runs, 8, seconds) == pytest.approx(total - seconds - END)


def test_an_arm_has_its_own_pace_and_others_that_of_all():
    seconds = 2 * (START + 4 * EPOCH + END) + START + 2 * EPOCH  # a second run of the slow arm is in its second epoch
    runs, _ = after(seconds, runs=4, epochs=4, paces=[EPOCH, EPOCH, 2 * EPOCH, EPOCH])
    runs[3].arm = runs[0].arm
    left = 3 * 2 * EPOCH + END + START + 4 * EPOCH + END
    assert seconds_left(runs, 1, seconds) == pytest.approx(left)


def test_epochs_of_an_earlier_try_do_not_make_the_others_look_fast():
    run = Timeline("lsh, seed 0", "lsh", epochs=10, before=6, done=8, started=100.0, trained=110.0, last=120.0)
    assert seconds_left([run], 1, 120.0) == pytest.approx(2 * 5.0)
    waiting = Timeline("gram, seed 0", "gram", epochs=10, before=9, done=9)
    assert seconds_left([run, waiting], 1, 120.0) == pytest.approx(2 * 5.0 + 10.0 + 5.0)


def test_a_slow_epoch_and_a_failed_run_leave_the_estimate_sane():
    runs, _ = after(START + EPOCH)
    assert seconds_left(runs, 1, START + EPOCH + 1000) >= 6 * EPOCH
    failed = Timeline("lsh, seed 1", "lsh", 8, started=0.0, ended=2.0)
    assert seconds_left([failed, *runs], 1, START + EPOCH) == pytest.approx(seconds_left(runs, 1, START + EPOCH))
    assert failed.settled == 8


def test_the_words_are_as_exact_as_the_estimate():
    assert in_words(None) == "time left: known after the first epoch"
    assert [in_words(seconds) for seconds in (0, 44, 95, 1800, 7300, 8000)] == [
        "almost done", "about 40 s left", "about 2 min left", "about 30 min left", "about 2 h left",
        "about 2 h 10 min left",
    ]  # fmt: skip
