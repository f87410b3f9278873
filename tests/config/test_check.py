"""A wrong configuration is one line: the key, the value and what is accepted."""

import contextlib
import copy
import os
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lenet.config.build import build, try_out
from lenet.config.check import check
from lenet.config.errors import ConfigError
from lenet.config.hydra_errors import one_line_errors
from lenet.config.record import config_hash, flatten, tree_lines
from tests.conftest import CONF, ROOT

WRONG = {
    "optimizer.lr=-1": "optimizer.lr=-1: should be greater than 0",
    "optimizer.lr=0": "optimizer.lr=0: should be greater than 0",
    "optimizer.lr=nan": "optimizer.lr=nan: should be a finite number",
    "optimizer.lr=abc": "optimizer.lr=abc: should be a valid number",
    "optimizer.lr=true": "optimizer.lr=true: should be a valid number",
    "optimizer.lr=null": "optimizer.lr=null: should be a valid number",
    "optimizer.momentum=1": "optimizer.momentum=1: should be less than 1",
    "epochs=0": "epochs=0: should be greater than or equal to 1",
    "epochs=1.5": "epochs=1.5: should be a valid integer",
    "epochs=true": "epochs=true: should be a valid integer",
    "seed=-1": "seed=-1: should be greater than or equal to 0",
    "data.batch_size=[64]": "data.batch_size=[64]: should be a valid integer",
    "data.image_size=8": "data.image_size=8: should be greater than or equal to 16",
    "loss.label_smoothing=2": "loss.label_smoothing=2: should be less than or equal to 1",
    "device.type=tpu": "device.type=tpu: should be 'auto', 'cpu', 'cuda' or 'mps'",
    "objective=accuracy": "objective=accuracy: should be 'train/loss'",
    "objective=test/accuracy": "objective=test/accuracy: the test set is scored once",
    "objective=val/loss": "objective=val/loss: needs a validation set; set data.val_size",
    "patience=3": "patience: stopping early needs a validation set; set data.val_size",
    "+epoch=3": "epoch: no such key; did you mean epochs?",
    "+optimizer.momentun=0.9": "optimizer.momentun: no such key; did you mean optimizer.momentum?",
    "~optimizer": "optimizer=null: expected one of its options",
    "seed=${nothing}": "seed: Interpolation key 'nothing' not found",
    "model.activation._target_=torch.nn.Tan": "model.activation._target_=torch.nn.Tan: ",
    "~data.val_size patience=3": "patience: stopping early needs a validation set",
    "seed=" + "9" * 30: "seed=999999999999999999999999999999: should fit into 64 bits",
    "+tags={1:a}": "tags: expected text for each key, got 1",
    'note="\udcff"': 'note="\\udcff": should be UTF-8 text without NUL',
    "optimizer._target_=os.system": "optimizer._target_=os.system: Target 'os.system' is blocklist",
    "optimizer._target_=builtins.dict": "optimizer._target_=builtins.dict: no signature found",
    "optimizer._target_=functools.partial": "optimizer._target_=functools.partial: no signature",
    "optimizer._target_=[a]": "optimizer._target_=['a']: should be a valid string",
    "optimizer._partial_=false": "optimizer (torch.optim.SGD): missing a required argument",
    "optimizer._partial_=3": "optimizer._partial_=3: should be a valid boolean",
    "model.pooling._convert_=x": "model.pooling._convert_=x: should be 'none', 'partial',",
    "+device._args_=5": "device._args_=5: should be a valid list",
    "data=files": "data.train: Missing mandatory value: train",
}

WRONG_AT_COMPOSITION = {
    "optimizer.lrr=1": "optimizer.lrr: no such key; did you mean optimizer.lr?",
    "optimzer.lr=1": "optimzer: no such key; did you mean optimizer?",
    "optimizer=sgdd": "optimizer=sgdd: no such option; expected one of adam, adamw, rmsprop, "
    "sdlm, sgd",
    "model/activaton=relu": "model/activaton: no such key; did you mean model/activation?",
    "optimizer.lr=[": "optimizer.lr=[: expected KEY=VALUE",
    "optimizer=null": "optimizer=null: ValueError: Config group override must be a string or a",
    "tags.idea=wide": "tags.idea: to add a tag write +tags.idea=...",
    "epochs=1,2": "epochs=1,2: several values need -m, for a sweep; a list is epochs=[1,2]",
}


@pytest.mark.parametrize(("override", "line"), WRONG.items(), ids=list(WRONG))
def test_a_wrong_value_is_answered_in_one_line(composed, override, line):
    with pytest.raises(ConfigError) as caught:
        check(composed(*override.split(" ")))
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("override", "line"), WRONG_AT_COMPOSITION.items())
def test_a_wrong_override_is_answered_in_one_line(composed, capsys, monkeypatch, override, line):
    monkeypatch.setattr(sys, "argv", ["run.py", override])
    with pytest.raises(SystemExit) as caught:
        with one_line_errors(CONF):
            composed(override)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {line}")
    assert said.count("\n") == 1


@pytest.fixture(scope="module")
def defaults():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("config"))


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=9),
    st.lists(st.integers(), max_size=2),
)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["epochs", "optimizer.lr", "device.threads", "loss", "tags"]), VALUES)
def test_any_value_passes_or_is_refused_in_one_line(defaults, key, value):
    cfg = OmegaConf.create(copy.deepcopy(defaults))
    OmegaConf.update(cfg, key, value, merge=False)
    with contextlib.suppress(ConfigError):
        check(cfg)  # any other error is a bug
        return
    with pytest.raises(ConfigError) as caught:
        check(cfg)
    assert len(str(caught.value).splitlines()) == 1


def test_the_hash_says_what_is_computed_not_where_or_how_it_is_called(composed):
    def hashed(*overrides):
        return config_hash(check(composed(*overrides)))

    same = ["data.root=/elsewhere", "note=hello", "+tags.a=b", "tracking.experiment=x"]
    assert hashed() == hashed(*same)
    assert hashed() != hashed("optimizer.lr=0.02")
    assert hashed() != hashed("seed=1")


def test_flatten_keeps_lists_and_empty_groups_as_values():
    assert flatten({"a": {"b": 1, "c": [1, 2]}, "d": {}}) == {"a.b": 1, "a.c": [1, 2], "d": {}}


def test_the_tree_shows_every_key_and_what_an_object_is_made_by(composed):
    config = check(composed())
    text = "\n".join(tree_lines(config))
    assert "├── optimizer: torch.optim.SGD\n│   ├── lr: 0.01" in text
    assert "patience: null" in text
    shown = sum(not key.rpartition(".")[2].startswith("_") for key in flatten(config))
    groups = text.count("_target_")
    assert groups == 0
    assert len(text.splitlines()) >= shown


@pytest.mark.parametrize("override", ["kernel_size=30", "stride=0", "padding=5", "stride=1"])
def test_layers_that_do_not_fit_are_named_before_the_run(composed, override):
    import torch

    config = check(composed(f"model.pooling.{override}"))
    model = build(config, "model", num_classes=10, in_channels=1, image_size=32)
    with pytest.raises(ConfigError, match=r"^model: "):
        try_out("model", model, torch.zeros(1, 1, 32, 32))


def test_a_bug_keeps_its_traceback(capsys):
    with pytest.raises(KeyError):
        with one_line_errors(CONF, in_run=True):
            raise KeyError("a bug")


def test_ctrl_c_before_the_run_is_one_line_and_130(capsys):
    with pytest.raises(SystemExit) as caught:
        with one_line_errors(CONF):
            raise KeyboardInterrupt
    assert caught.value.code == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_run_py_answers_a_misspelt_key_with_status_2_and_leaves_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "run.py", "optimizer.lrr=1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"},
    )
    assert done.returncode == 2
    assert done.stderr == "error: optimizer.lrr: no such key; did you mean optimizer.lr?\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "size"),
    [
        (MemoryError(), ""),
        (RuntimeError("can't allocate memory: you tried to allocate 9 bytes."), " (9 bytes in"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"), " (20.00 MiB in"),
    ],
)
def test_no_memory_is_one_line_and_a_failure(capsys, error, size):
    with pytest.raises(SystemExit) as caught:
        with one_line_errors(CONF, in_run=True):
            raise error
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: out of memory{size}")
    assert said.count("\n") == 1
