"""The journal: what is written is read again, whatever happened to the process or the disk."""

import errno
import os
import resource
import signal
import time

import pytest

from lenet.tracking.journal import Facts, Journal, JournalError, remove_remains, unfinished

FACTS = Facts("http://127.0.0.1:9", "a run", "lenet5", 1, "host 1 1", {"idea": "wide"})


@pytest.fixture
def journal(tmp_path):
    journal = Journal.create(tmp_path / "runs", FACTS)
    yield journal
    journal.close()


def point(step, value=0.5, key="train/loss"):
    return [key, value, 1000 + step, step]


def reopened(journal):
    journal.close()
    return Journal.open(journal.folder)


def steps_of(journal):
    return [value[0][3] for _, value in journal.entries]


def test_entries_are_read_again_in_order(journal):
    journal.append("metrics", [point(1), point(2, float("inf"))])
    journal.append("artifact", "a.txt")
    journal.append("tags", {"name": "é\n"})
    again = reopened(journal)
    assert again.entries == journal.entries
    assert again.facts == journal.facts
    assert again.points == {("train/loss", 1), ("train/loss", 2)}
    again.close()


def test_a_torn_last_line_is_dropped(journal):
    for step in (1, 2):
        journal.append("metrics", [point(step)])
    path = journal.folder / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for length in range(0, len(lines[1]), 7):
        path.write_bytes(lines[0] + lines[1][:length])
        again = reopened(journal)
        assert steps_of(again) == [1], length
        again.append("metrics", [point(3)])
        again = reopened(again)
        assert steps_of(again) == [1, 3]
        again.close()


def test_a_damaged_journal_is_refused_in_one_line(journal):
    journal.append("metrics", [point(1)])
    journal.close()
    (journal.folder / "journal.jsonl").write_bytes(b"\0\n")
    with pytest.raises(JournalError, match="no journal of a run") as caught:
        Journal.open(journal.folder)
    assert str(caught.value).isprintable()


def test_the_journal_of_a_living_process_cannot_be_opened(journal):
    with pytest.raises(JournalError, match="still running"):
        Journal.open(journal.folder)


def test_opening_a_removed_folder_does_not_create_it(journal):
    journal.close(remove=True)
    with pytest.raises(JournalError, match="no journal of a run"):
        Journal.open(journal.folder)
    assert not journal.folder.exists()


@pytest.mark.parametrize("text", ['{"id": "x"', '{"id": "x"}', "[]"])
def test_a_folder_without_facts_is_no_run(journal, tmp_path, capsys, text):
    (journal.folder / "run.json").unlink()
    assert list(unfinished(tmp_path / "runs")) == []
    (journal.folder / "run.json").write_text(text)
    assert list(unfinished(tmp_path / "runs")) == []
    assert capsys.readouterr().err.count("no journal of a run") == 1


@pytest.fixture
def full_disk(journal):
    """The limit of a file's size, a few bytes above the journal's: writing beyond it fails."""
    journal.append("metrics", [point(1)])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = (journal.folder / "journal.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


def test_after_a_full_disk_entries_are_in_memory_alone(journal, full_disk, capsys):
    for step in (2, 3):
        journal.append("metrics", [point(step)])
    assert not journal.is_whole
    assert steps_of(journal) == [1, 2, 3]
    assert capsys.readouterr().err.count("journal.jsonl: ") == 1
    again = reopened(journal)
    assert steps_of(again) == [1]
    again.close()


def test_nothing_stays_of_a_file_that_failed(journal):
    def write(path):
        path.write_text("half")
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        journal.write(journal.file("a/b.txt"), write)
    assert not journal.file("a/b.txt").exists()


def test_the_remains_of_a_killed_process_go_after_an_hour(journal):
    root = journal.folder.parent
    for name, hours in (("a" * 32, 2), ("b" * 32, 0), ("submitit", 2), ("photos", 2)):
        (root / name).mkdir()
        (root / name / ".lock").touch()
        past = time.time() - hours * 3600
        os.utime(root / name, (past, past))
    os.utime(journal.folder, (0, 0))
    remove_remains(root)
    left = {each.name for each in root.iterdir()}
    assert left == {"b" * 32, "submitit", "photos", journal.folder.name}


def test_only_the_owner_can_read_the_stores_password(journal):
    assert (journal.folder / "run.json").stat().st_mode & 0o077 == 0
