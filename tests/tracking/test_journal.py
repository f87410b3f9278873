"""The journal: what is written is read again, whatever happened to the process or the disk."""

import errno
import os
import resource

import pytest

from lenet.tracking.journal import RECORDS, Facts, Journal, JournalError, unfinished

FACTS = Facts("", "http://127.0.0.1:9", "lenet5", "a run", 1, "host 1 1", {"idea": "wide"})


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
    journal.mark_sent(RECORDS, 1)
    again = reopened(journal)
    assert again.entries == journal.entries
    assert again.facts == journal.facts
    assert (again.sent, again.waiting) == ([1, 0], 2)
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


def test_if_more_was_sent_than_the_disk_has_all_is_sent_again(journal):
    for step in (1, 2, 3):
        journal.append("metrics", [point(step)])
    journal.mark_sent(RECORDS, 3)
    path = journal.folder / "journal.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    again = reopened(journal)
    assert again.sent == [0, 0]
    again.append("metrics", [point(4)])
    again = reopened(again)
    assert (again.sent, steps_of(again)) == ([0, 0], [1, 4])
    again.close()


def test_the_journal_of_a_living_process_cannot_be_opened(journal):
    with pytest.raises(JournalError, match="still running"):
        Journal.open(journal.folder)


def test_opening_a_removed_folder_does_not_create_it(journal):
    journal.close(remove=True)
    with pytest.raises(JournalError, match="no journal of a run"):
        Journal.open(journal.folder)
    assert not journal.folder.exists()


def test_a_folder_without_facts_is_no_run(journal, tmp_path, capsys):
    (journal.folder / "run.json").unlink()
    assert list(unfinished(tmp_path / "runs")) == []
    (journal.folder / "run.json").write_text('{"id": "x"')
    assert list(unfinished(tmp_path / "runs")) == []
    assert capsys.readouterr().err.count("no journal of a run") == 1


@pytest.fixture
def full_disk(journal):
    """The limit of a file's size, a few bytes above the journal's: writing beyond it fails."""
    journal.append("metrics", [point(1)])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = (journal.folder / "journal.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, limits[1]))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_costs_a_warning_and_no_entry(journal, full_disk, capsys):
    for step in (2, 3):
        journal.append("metrics", [point(step)])
    content = (journal.folder / "journal.jsonl").read_bytes()
    assert (content.count(b"\n"), content[-1:]) == (1, b"\n")
    assert not journal.save()
    assert steps_of(journal) == [1, 2, 3]
    full_disk()
    journal.append("metrics", [point(4)])
    assert capsys.readouterr().err.count(os.strerror(errno.EFBIG)) <= 1
    again = reopened(journal)
    assert steps_of(again) == [1, 2, 3, 4]
    again.close()


def test_nothing_stays_of_a_file_that_failed(journal):
    def write(path):
        path.write_text("half")
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        journal.write(journal.file("a/b.txt"), write)
    assert not journal.file("a/b.txt").exists()


def test_only_the_owner_can_read_the_stores_password(journal):
    assert (journal.folder / "run.json").stat().st_mode & 0o077 == 0
