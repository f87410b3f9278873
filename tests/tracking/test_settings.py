"""What a resumed or repeated run is compared with: everything that its bits depend on."""

import pytest

from lenet.config.errors import ConfigError
from lenet.tracking.provenance import code_state, environment
from lenet.tracking.settings import Past

SETUP = {
    "lenet.dataset": "digits",
    "lenet.dataset.sha256": "d" * 64,
    "lenet.dataset.val_sha256": "none",
    "lenet.model": "LeNet5",
    "lenet.device": "cpu, AVX2",
    "lenet.kernels": "native",
    "lenet.kernels.why": "built by g++ 12.2.0",
}


def past(**changes):
    tags = SETUP | code_state() | {f"lenet.{k}".replace("_", "."): v for k, v in changes.items()}
    return Past("r" * 32, 2, tags, environment())


def test_the_same_machine_costs_no_warning(capsys):
    past().check(SETUP)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("before", "shown"),
    [
        ({"kernels": "eager"}, "kernels eager -> native"),
        ({"kernels_why": "built by g++ 9"}, "kernels.why built by g++ 9 -> built by g++ 12.2.0"),
        ({"device": "cpu, AVX512"}, "device cpu, AVX512 -> cpu, AVX2"),
        ({"git_dirty": "unknown"}, "git.dirty unknown -> "),
    ],
)
def test_what_the_bits_depend_on_is_named_where_it_differs(before, shown, capsys):
    past(**before).check(SETUP)
    err = capsys.readouterr().err
    assert err.startswith("Warning: not as where the run began, bits may differ: ")
    assert shown in err


def test_other_data_are_refused():
    with pytest.raises(ConfigError, match=r"^data: run r+ had digits with dataset\.sha256 eeee"):
        past(dataset_sha256="e" * 64).check(SETUP)
