"""`python -m lenet data`: what a set holds, or one line that says what is wrong."""

import pytest
import torch

from lenet.__main__ import main
from lenet.commands.data import describe
from lenet.data.sets import prepare
from lenet.data.sources import Raw


def test_the_command_prints_counts_checksum_and_classes(capsys):
    assert main(["data", "digits"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    lines = shown.out.splitlines()
    assert lines[0] == "digits from scikit-learn"
    assert lines[1].split() == ["train", "1,437", "images"]
    assert lines[2].split() == ["test", "360", "images"]
    assert lines[3].startswith("  network    1x32x32 pixels, mean 0.")
    assert lines[4].split()[0] == "SHA-256"
    assert len(lines[4].split()[1]) == 64
    assert len(lines) == 6 + 10
    counts = [[int(word.replace(",", "")) for word in line.split()] for line in lines[6:]]
    assert [row[0] for row in counts] == list(range(10))
    assert [sum(row[k] for row in counts) for k in (1, 2)] == [1437, 360]


def test_a_description_counts_each_class_under_its_name():
    images, labels = torch.zeros(4, 8, 8, dtype=torch.uint8), torch.tensor([0, 0, 2, 0])
    raw = Raw("own", (images, labels), (images, labels * 0), ("ox", "a", "b"), "x")
    lines = describe(prepare(raw, val_size=0, image_size=16)).splitlines()
    assert [line.split() for line in lines[-3:]] == [
        ["ox", "3", "4"],
        ["a", "0", "0"],
        ["b", "1", "0"],
    ]
    assert "  validation" not in "\n".join(lines)
    lines = describe(prepare(raw, val_size=1, image_size=16)).splitlines()
    assert lines[2].split() == ["validation", "1", "images"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["mnist", "--no-download"], "error: no mnist under "),
        (["emnist", "--no-download"], "error: data.split=None: expected one of balanced"),
        (["mnist", "--split", "letters"], "error: data.split=letters: only emnist has splits"),
    ],
)
def test_a_set_that_cannot_be_loaded_is_one_line(tmp_path, capsys, arguments, expected):
    assert main(["data", *arguments, "--root", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(expected)
    assert shown.err.count("\n") == 1
