"""The first signal asks a training to end, the second ends it at once."""

import signal
import subprocess
import sys
import threading

import pytest

from lenet.training.signals import Interrupt
from tests.conftest import ROOT

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_the_first_signal_only_asks_and_the_second_ends_the_process(number, status, capfd):
    with Interrupt() as interrupt, interrupt.deferred():
        assert not interrupt()
        signal.raise_signal(number)
        assert interrupt()
        assert "once more to stop at once" in capfd.readouterr().err
        with pytest.raises(SystemExit) as caught:
            signal.raise_signal(signal.SIGTERM)
        assert caught.value.code == 143
    assert interrupt()
    with Interrupt() as of_another_run:
        assert not of_another_run()


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_outside_the_deferred_part_the_first_ends_the_process(number, status):
    with Interrupt() as interrupt:
        with pytest.raises(ZeroDivisionError), interrupt.deferred():
            raise ZeroDivisionError
        with pytest.raises(SystemExit) as caught:
            signal.raise_signal(number)
    assert caught.value.code == interrupt.exit_status == status


def test_outside_the_main_thread_no_signal_handler_is_set():
    before = [signal.getsignal(number) for number, _ in SIGNALS]
    seen = []

    def job():
        with Interrupt() as interrupt, interrupt.deferred():
            seen.extend(signal.getsignal(number) for number, _ in SIGNALS)

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()
    assert seen == before


def test_a_hangup_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt, interrupt.deferred():
            signal.raise_signal(signal.SIGHUP)
            assert not interrupt()
    finally:
        signal.signal(signal.SIGHUP, before)


CHILD = """
import os, signal, sys
from lenet.training.signals import Interrupt
with Interrupt() as interrupt, interrupt.deferred():
    for number in sys.argv[1:]:
        os.kill(os.getpid(), int(number))
    print("asked" if interrupt() else "not asked")
"""


@pytest.mark.parametrize(
    ("shell", "out", "status"),
    [
        ('"$0" -c "$1" 15 2>&-', "asked\n", 0),  # standard error may be closed
        ('"$0" -c "$1" 15 15', "", 143),
        ('"$0" -c "$1" 2 2', "", 130),
    ],
)
def test_a_shell_sees_the_status_and_no_traceback(shell, out, status):
    done = subprocess.run(
        ["sh", "-c", f"exec {shell}", sys.executable, CHILD],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout) == (status, out)
    assert "Traceback" not in done.stderr
