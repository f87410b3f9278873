"""What a sweep prints while its jobs end, in a pipe and on terminals."""

import pytest

from lenet.sweeps.display import Progress
from lenet.sweeps.jobs import DONE, FAILED, Job
from lenet.sweeps.launcher import Outcome
from tests.support.terminal import make_terminal


def job(seed, **facts):
    return Job({"seed": seed}, {}, f"sha-{seed}", **facts)


def ended(jobs, capsys, **expected):
    """The time left before, and what is printed while the jobs end after 9 seconds each."""
    with Progress(len(jobs), **expected) as progress:
        before = progress.time_left
        for number, each in enumerate(jobs):
            progress.end(each, Outcome(number, seconds=9.0))
    out, err = capsys.readouterr()
    assert out == ""
    return before, err


def test_the_time_left_is_known_from_the_start_if_an_earlier_run_tells(capsys):
    jobs = [job(k, state=DONE) for k in range(4)]
    assert ended(jobs, capsys, seconds=30.0, workers=2)[0] == "about 60 s left"
    assert ended(jobs, capsys, workers=2)[0] == ""


def test_each_job_that_ends_is_a_line_in_a_pipe(capsys):
    jobs = [job(0, state=DONE), job(1, state=FAILED, reason="no [red] disk"), job(2, state=DONE)]
    _, err = ended(jobs, capsys, seconds=30.0, workers=1)
    assert err.splitlines() == [
        "[1/3] seed=0: done in 9.0 s; 2 to go, about 18 s",
        "[2/3] seed=1: failed: no [red] disk; 1 to go, about 9 s",
        "[3/3] seed=2: done in 9.0 s",
    ]


@pytest.mark.parametrize("columns", [40, 120])
def test_on_a_terminal_the_bar_takes_one_line_below_them(columns, capsys, monkeypatch):
    make_terminal(monkeypatch, columns)
    _, err = ended([job(k, state=DONE) for k in range(3)], capsys, seconds=30.0, workers=1)
    last = err.rpartition("done in 9.0 s\n")[2]
    assert "Jobs" in last
    assert "3/3" in last
    assert last.count("\n") == last.count("\x1b[1A\x1b[2K")  # the line is erased at the end
