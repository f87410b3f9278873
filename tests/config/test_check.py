"""A wrong value is refused in one line: the key, the value and what is accepted."""

import copy

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lenet.config.check import check
from lenet.config.errors import ConfigError
from tests.conftest import CONF

WRONG = {
    "optimizer.lr=-1": "optimizer.lr=-1: should be greater than 0",
    "optimizer.lr=.nan": "optimizer.lr=nan: should be a finite number",
    "optimizer.lr=abc": "optimizer.lr=abc: should be a valid number",
    "optimizer.lr=null": "optimizer.lr=null: should be a valid number",
    "optimizer.momentum=1": "optimizer.momentum=1: should be less than 1",
    "epochs=1.5": "epochs=1.5: should be a valid integer",
    "epochs=true": "epochs=true: should be a valid integer",
    "data.batch_size=[64]": "data.batch_size=[64]: should be a valid integer",
    "data.image_size=8": "data.image_size=8: should be greater than or equal to 16",
    "loss.label_smoothing=2": "loss.label_smoothing=2: should be less than or equal to 1",
    "device.type=tpu": "device.type=tpu: expected auto, cpu, mps, cuda, or a GPU by its number",
    "resume=nope": "resume=nope: expected a run's id, or the first 4 of its digits or more",
    "objective=accuracy": "objective=accuracy: should be 'train/loss'",
    "objective=test/accuracy": "objective=test/accuracy: the test set is scored once",
    "objective=val/loss": "objective=val/loss: needs a validation set; set data.val_size",
    "patience=3": "patience: stopping early needs a validation set; set data.val_size",
    "epoch=3": "epoch: no such key; did you mean epochs?",
    "optimizer.momentun=0.9": "optimizer.momentun: no such key; did you mean optimizer.momentum?",
    "optimizer={b: 1, lrr: 2}": "optimizer.b: no such key; there are optimizer.dampening, ",
    "optimizer=null": "optimizer=null: expected one of its options",
    "seed=${nothing}": "seed: Interpolation key 'nothing' not found",
    "seed=" + "9" * 30: "seed=999999999999999999999999999999: should be less than",
    "tags={1: a}": "tags={1: 'a'}: should be a valid string",
    "model.activation._target_=torch.nn.Tan": "model.activation._target_=torch.nn.Tan: ",
    "optimizer._target_=os.system": "optimizer._target_=os.system: Target 'os.system' is blocklist",
    "optimizer._target_=builtins.dict": "optimizer._target_=builtins.dict: no signature found",
    "optimizer._target_=[a]": "optimizer._target_=['a']: ",
    "optimizer={nesterov: true, momentum: 0}": "optimizer.nesterov=true: needs a momentum above 0",
    "optimizer._partial_=false": "optimizer (torch.optim.SGD): missing a required argument",
}


@pytest.fixture(scope="module")
def defaults():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("config"))


@pytest.mark.parametrize(("setting", "message"), WRONG.items(), ids=list(WRONG))
def test_a_wrong_value_is_refused_in_one_line(defaults, setting, message):
    with pytest.raises(ConfigError) as caught:
        check(OmegaConf.merge(defaults, OmegaConf.from_dotlist([setting])))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=9),
    st.lists(st.integers(), max_size=2),
)


@given(st.sampled_from(["epochs", "optimizer.lr", "device.threads", "loss", "tags"]), VALUES)
def test_any_value_passes_or_is_refused_in_one_line(defaults, key, value):
    cfg = OmegaConf.create(copy.deepcopy(defaults))
    OmegaConf.update(cfg, key, value, merge=False)
    try:
        check(cfg)
    except ConfigError as error:  # any other error is a bug
        assert len(str(error).splitlines()) == 1
