"""Real signals, raised in this process."""

import signal
import subprocess
import sys
import threading

import pytest

from lenet.training.signals import Interrupt
from tests.conftest import ROOT

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_the_first_signal_only_asks(number, status, capfd):
    with Interrupt() as interrupt, interrupt.deferred():
        assert not interrupt()
        signal.raise_signal(number)
        assert interrupt()
        assert interrupt.exit_status == status
    assert interrupt()
    assert "once more to stop at once" in capfd.readouterr().err


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("second", "status"), SIGNALS)
def test_the_second_signal_ends_the_process(first, second, status):
    with Interrupt() as interrupt, interrupt.deferred():
        signal.raise_signal(first)
        with pytest.raises(SystemExit) as caught:
            signal.raise_signal(second)
    assert caught.value.code == status


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_outside_the_deferred_part_the_first_ends_the_process(number, status):
    with Interrupt(), pytest.raises(SystemExit) as before:
        signal.raise_signal(number)
    assert before.value.code == status
    with Interrupt() as interrupt:
        with interrupt.deferred():
            pass
        with pytest.raises(SystemExit) as after:
            signal.raise_signal(number)
    assert after.value.code == status
    assert interrupt.exit_status == status


def test_a_signal_after_the_deferred_part_ends_what_one_within_has_asked():
    with Interrupt() as interrupt:
        with interrupt.deferred():
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(SystemExit) as caught:
            signal.raise_signal(signal.SIGINT)
    assert caught.value.code == 130


def test_the_deferred_part_ends_with_an_exception_too():
    with Interrupt() as interrupt:
        with pytest.raises(ZeroDivisionError), interrupt.deferred():
            raise ZeroDivisionError
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_handlers_are_put_back(number):
    def mine(number, frame):
        raise AssertionError

    before = signal.signal(number, mine)
    try:
        with Interrupt():
            assert signal.getsignal(number) is not mine
        assert signal.getsignal(number) is mine
        with pytest.raises(ZeroDivisionError), Interrupt():
            raise ZeroDivisionError
        assert signal.getsignal(number) is mine
    finally:
        signal.signal(number, before)


def test_a_stop_of_one_run_is_not_the_next_ones():
    with Interrupt() as first, first.deferred():
        signal.raise_signal(signal.SIGINT)
    with Interrupt() as second:
        assert not second()


def test_off_the_main_thread_nothing_is_taken_over():
    before = [signal.getsignal(number) for number, _ in SIGNALS]
    seen = []

    def job():
        with Interrupt() as interrupt, interrupt.deferred():
            seen.append([signal.getsignal(number) for number, _ in SIGNALS])
            seen.append(interrupt())

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()
    assert seen == [before, False]
    assert [signal.getsignal(number) for number, _ in SIGNALS] == before


CHILD = """
import os, signal, sys
from lenet.training.signals import Interrupt
with Interrupt() as interrupt, interrupt.deferred():
    for number in sys.argv[1:]:
        os.kill(os.getpid(), int(number))
    print("asked" if interrupt() else "not asked")
"""


@pytest.mark.parametrize(
    ("numbers", "out", "status"),
    [
        ([], "not asked\n", 0),
        (["15"], "asked\n", 0),
        (["15", "15"], "", 143),
        (["2", "2"], "", 130),
    ],
)
def test_a_shell_sees_the_status_and_no_traceback(numbers, out, status):
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *numbers], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (status, out)
    assert "Traceback" not in done.stderr


def test_a_closed_standard_error_does_not_end_the_training():
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" "$@" 2>&-', sys.executable, "-c", CHILD, "15"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout) == (0, "asked\n")


def test_a_signal_in_the_middle_of_a_print_is_taken():
    """A handler that prints may meet the buffer it interrupted: "reentrant call" ends the run."""

    class Stream:
        writing = False

        def write(self, text):
            assert not self.writing, "reentrant call"
            self.writing = True
            signal.raise_signal(signal.SIGINT)
            self.writing = False

        def flush(self):
            pass

    stream, real = Stream(), sys.stderr
    with Interrupt() as interrupt, interrupt.deferred():
        sys.stderr = stream
        try:
            sys.stderr.write("a line")
        finally:
            sys.stderr = real
    assert interrupt()


def test_a_hangup_that_nohup_has_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt, interrupt.deferred():
            signal.raise_signal(signal.SIGHUP)
            assert not interrupt()
    finally:
        signal.signal(signal.SIGHUP, before)
