"""`python run.py --help` explains what can be typed after `python run.py`."""

import re
import subprocess
import sys

import pytest

from lenet.config.help import help_lines
from lenet.sweeps.plugins import register
from tests.conftest import CONF, ROOT


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    register()
    for name in ("LENET_DATA", "LENET_RUNS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def help_of(*overrides, config_dir=None):
    return help_lines(CONF, overrides, config_dir)


def keys_in(lines):
    """Each key with its sentence."""
    found = [re.fullmatch(r"  ([\w.]+)=(?:\[.*?\]|\S*)(?:  +(.*))?", line) for line in lines]
    return {each[1]: each[2] for each in found if each}


def test_it_explains_every_key_in_a_sentence():
    keys = keys_in(help_of())
    assert {"seed", "sweep.dry", "data.batch_size", "model.pooling.stride", "optimizer.lr"} <= {
        *keys
    }
    assert keys["epochs"] == "how often the training set is gone through"
    assert keys["tracking.experiment"].endswith(
        "null: as MLFLOW_EXPERIMENT_NAME or _ID says, else lenet5"
    )
    assert [key for key, sentence in keys.items() if not sentence] == []


def test_it_lists_the_options_of_each_group_the_chosen_one_first():
    assert "  model/pooling     avg, max, subsample" in help_of()


def test_it_lists_experiments_with_their_claims_and_sweeps_with_their_questions():
    lines = help_of()
    assert any(re.match(r"  fast +more than 99.0 % on the test set in the sh", x) for x in lines)
    for path in (ROOT / "sweeps").glob("*.yaml"):
        question = path.read_text().splitlines()[0].removeprefix("# ")
        assert any(line.split(maxsplit=1) == [path.stem, question] for line in lines)


@pytest.mark.parametrize("group", ["optimizer", "augment", "hydra/sweeper", "data"])
def test_an_option_that_is_named_is_explained_with_its_keys_and_no_others(group):
    option = {"optimizer": "sdlm", "augment": "best", "hydra/sweeper": "tpe", "data": "digits"}[
        group
    ]
    lines = help_of(f"{group}={option}")
    assert lines[0] == f"{group}={option}"
    assert lines[1] == f"  {(CONF / group / f'{option}.yaml').read_text().splitlines()[0][2:]}"
    keys = keys_in(lines)
    assert all(key.startswith(group.replace("/", ".")) for key in keys)
    assert all(sentence for key, sentence in keys.items() if key != "hydra.sweeper.sampler")


def test_an_option_of_a_folder_of_the_users_own_is_explained(tmp_path):
    (tmp_path / "loss").mkdir()
    own = "# My own loss. It is new.\n_target_: torch.nn.NLLLoss\nignore_index: 3  # to skip\n"
    (tmp_path / "loss" / "mine.yaml").write_text(own)
    lines = help_of("loss=mine", config_dir=str(tmp_path))
    assert "  My own loss. It is new." in lines
    assert keys_in(lines) == {"loss.ignore_index": "to skip"}


def test_it_needs_no_torch():
    code = (
        "import sys, run; sys.argv[1:] = ['--help']; run.main(); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
