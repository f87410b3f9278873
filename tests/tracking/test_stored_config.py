"""A configuration from a tracking store is a stranger's: it builds only what conf/ names."""

import copy
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir

from lenet.config.check import check
from lenet.config.errors import ConfigError
from lenet.data.tensor_files import save
from lenet.model.lenet5 import LeNet5
from lenet.tracking.client import connect
from lenet.tracking.names import TrackingError
from lenet.tracking.resume import check_state
from lenet.tracking.stored_config import check_targets, merge_configs, read_config
from lenet.tracking.trained import load_data, load_trained
from lenet.training.checkpoints import load_newest
from tests.conftest import CONF, copy_store


@pytest.fixture(scope="module")
def default_config():
    with (
        pytest.MonkeyPatch.context() as patch,
        initialize_config_dir(str(CONF), version_base="1.3"),
    ):
        patch.delenv("LENET_DATA", raising=False)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return check(compose("config"))


@pytest.fixture
def config(default_config):
    return copy.deepcopy(default_config)


def with_value(config, path, value):
    changed = copy.deepcopy(config)
    *groups, leaf = path.split(".")
    inner = changed
    for group in groups:
        inner = inner.setdefault(group, {})
    inner[leaf] = value
    return changed


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model/activation=scaled_tanh", "model/pooling=subsample", "optimizer=adamw"],
        ["schedule=one_cycle", "data=fashion_mnist", "+tags.idea=wide"],
    ],
)
def test_what_conf_names_is_allowed(composed, overrides):
    config = check(composed(*overrides))
    check_targets(read_config(yaml.safe_dump(config)), [CONF])


def test_a_run_of_an_earlier_version_is_allowed(config):
    config["loss"] = {"_target_": "torch.nn.CrossEntropyLoss", "label_smoothing": 0.0}
    config["loss"]["_convert_"] = "all"
    check_targets(config, [CONF])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("optimizer._target_", "os.system"),
        ("optimizer._target_", "torch.nn.Tanh"),  # allowed elsewhere
        ("model.activation._target_", ["torch.nn.Tanh"]),
        ("elsewhere._target_", "torch.optim.SGD"),
        ("data.extra", {"_target_": "os.system"}),
        ("optimizer.betas", [[{"deep": {"_target_": "torch.optim.SGD"}}]]),
        ("optimizer._args_", [1]),
        ("optimizer._recursive_", False),
        ("optimizer.lr", "${oc.env:HOME}"),
        ("tags.${oc.env:HOME}", "x"),
        ("a\x1b[31mb", 1),
        ("note", b"bytes"),
        ("tags", {1: {"_target_": "os.system"}, "1": "a key that is no text"}),
    ],
)
def test_anything_else_is_refused_in_one_line(config, path, value):
    with pytest.raises(ConfigError) as caught:
        check_targets(with_value(config, path, value), [CONF])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "- 1\n- 2\n",
        "",
        "!!python/object/apply:os.system ['true']",
        "a: " + "[" * 5000,
        "a: !!timestamp x",  # PyYAML: AttributeError
        "a: !!bool x",  # KeyError
        "a: 2001-01-01",
        "a: 1\n---\na: 2\n",
        "a: \x00",
    ],
)
def test_what_is_no_plain_yaml_is_refused_in_one_line(text):
    with pytest.raises(ConfigError) as caught:
        check_targets(read_config(text), [CONF])
    assert str(caught.value).isprintable()


# ---- Together with today's configuration -------------------------------------------------------


def merged(stored, today, explicit=None, may_extend=False):
    return merge_configs(stored, today, explicit or {}, [CONF], "resume=x", may_extend)


def test_folders_servers_and_mirrors_are_this_machines(config):
    stored = copy.deepcopy(config)
    stored["data"] |= {"root": "/stranger", "mirror": "http://stranger/", "download": False}
    stored["tracking"] |= {"uri": "http://stranger/", "folder": "/stranger"}
    stored["optimizer"]["lr"] = 0.5
    result = merged(stored, config)
    assert result["data"] == config["data"]
    assert result["tracking"] == config["tracking"]
    assert result["optimizer"]["lr"] == 0.5


def test_only_what_has_no_effect_on_the_result_may_change(config):
    result = merged(config, config, {"tracking.wait": 1.0, "checkpoint.epochs": 5})
    assert (result["tracking"]["wait"], result["checkpoint"]["epochs"]) == (1.0, 5)
    stored = with_value(config, "optimizer.lr", 0.5)
    with pytest.raises(ConfigError, match=r"optimizer\.lr 0\.5 \(here 0\.01\)"):
        merged(stored, config, {"optimizer.lr": 0.01})
    assert merged(stored, config, {"optimizer.lr": 0.5})["optimizer"]["lr"] == 0.5


def test_only_a_resume_may_add_epochs(config):
    assert merged(config, config, {"epochs": 20}, may_extend=True)["epochs"] == 20
    for epochs, may_extend in ((20, False), (5, True)):
        with pytest.raises(ConfigError, match=rf"epochs 10 \(here {epochs}\)"):
            merged(config, config, {"epochs": epochs}, may_extend)


def test_a_stranger_s_values_are_held_to_the_limits(config):
    for path, value in (("epochs", "ten"), ("data.image_size", 10**6), ("optimizer.lr", -1)):
        with pytest.raises(ConfigError, match=path):
            merged(with_value(config, path, value), config)


def files(composed, train):
    return check(composed("data=files", f"data.train=['{train}']", "data.test=[test.pt]"))


@pytest.mark.parametrize("path", ["/etc/passwd", "b/../../b.pt", "~/a.pt", "outside/a.pt"])
def test_files_outside_the_current_folder_are_not_read(
    composed, config, tmp_path, monkeypatch, path
):
    here = tmp_path / "here"
    here.mkdir()
    (here / "outside").symlink_to(tmp_path)
    monkeypatch.chdir(here)
    stored = files(composed, path)
    with pytest.raises(ConfigError, match=r"data\.train has .*say where the files are here"):
        merged(stored, config)
    explicit = {"data.train": ["/own/a.pt"]}
    assert merged(stored, config, explicit)["data"]["train"] == ["/own/a.pt"]


def test_the_advice_for_files_elsewhere_can_be_typed_as_it_is_printed(
    composed, config, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    stored = check(composed("data=files", "data.train='/my sets/a, b'", "data.test_size=0.2"))
    with pytest.raises(ConfigError) as caught:
        merged(stored, config)
    advised = shlex.split(str(caught.value).rpartition("are here: ")[2])
    explicit = {"data.train": check(composed(*advised))["data"]["train"]}
    assert merged(stored, config, explicit)["data"]["test_size"] == 0.2
    assert explicit == {"data.train": "/my sets/a, b"}


def test_files_below_the_current_folder_are_read(composed, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = merged(files(composed, "own/a.pt"), config)
    assert result["data"]["train"] == ["own/a.pt"]
    assert "root" not in result["data"]  # which today's configuration has, and files do not


def test_a_yaml_of_another_program_beside_ours_does_no_harm(config, tmp_path):
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "device.yaml").symlink_to("/nowhere")
    assert merge_configs(config, config, {}, [CONF, tmp_path], "resume=x")


# ---- What a run trained ------------------------------------------------------------------------


class Stored:
    """A run in a store, whose artifacts a test may change."""

    def __init__(self, uri, folder):
        self.uri, client = uri, connect(uri)
        experiment = client.create_experiment("strange", folder.as_uri())
        self.run_id = client.create_run(experiment).info.run_id
        self.artifacts = folder / self.run_id / "artifacts"
        self.artifacts.mkdir(parents=True)

    def load(self):
        return load_trained(self.run_id, self.uri)

    def refuse(self):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            self.load()
        assert type(caught.value).__module__.startswith("lenet.")
        assert str(caught.value).isprintable()


INPUTS = {"classes": list("0123456789"), "mean": 0.1, "std": 0.3, "image_size": 32}
STATE = {"progress": {"best_model": None}, "inputs": INPUTS | {"in_channels": 1}}


@pytest.fixture
def stored(tmp_path, empty_store, config):
    stored = Stored(copy_store(empty_store, tmp_path), tmp_path)
    (stored.artifacts / "config.yaml").write_text(yaml.safe_dump(config))
    save(STATE | {"model": LeNet5().state_dict()}, stored.artifacts / "checkpoint.pt")
    return stored


def test_what_a_run_trained_is_loaded(stored):
    model, inputs = stored.load()
    assert len(inputs.classes) == 10
    assert not model.training


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("inputs", INPUTS | {"classes": ["x"] * 10**4}),
        ("inputs", INPUTS | {"image_size": 10**6}),
        ("inputs", 3),
        ("model", {}),
        ("model", None),
        ("progress", {}),
        ("progress", {"best_model": {"conv1.weight": 1}}),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(stored, part, value):
    state = STATE | {"model": LeNet5().state_dict()} | {part: value}
    save(state, stored.artifacts / "checkpoint.pt")
    stored.refuse()


def test_data_that_lie_elsewhere_now_are_read_from_the_folder_that_is_named(
    stored, composed, tmp_path
):
    there, here = tmp_path / "there", tmp_path / "here"
    for name in ("train/a.pt", "test/a.pt"):
        (there / name).parent.mkdir(parents=True)
        images = torch.arange(20 * 784).reshape(20, 28, 28).remainder(251 + len(name))
        torch.save((images.to(torch.uint8), torch.arange(20) % 10), there / name)
    paths = [f"data.train=['{there}/train/a.pt']", f"data.test=['{there}/test/a.pt']"]
    config = check(composed("data=files", *paths, "data.val_size=5"))
    (stored.artifacts / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match="say where the files are here: --data ") as caught:
        load_data(stored.run_id, stored.uri)
    advised = shlex.split(str(caught.value).rpartition(" --data ")[2])
    assert load_data(stored.run_id, stored.uri, Path(*advised)).train.count == 15
    there.rename(here)
    data = load_data(stored.run_id, stored.uri, here)
    assert data.val is not None
    assert (data.train.count, data.val.count, data.test.count) == (15, 5, 20)


@pytest.mark.parametrize("content", [b"", b"a: \xff", b"a: 1\n" * 30_000])
def test_what_is_no_text_or_too_long_is_refused(stored, content):
    (stored.artifacts / "config.yaml").write_bytes(content)
    stored.refuse()


def test_a_stranger_s_network_is_none_but_ours(stored, config):
    config["model"]["_target_"] = "os.system"
    (stored.artifacts / "config.yaml").write_text(yaml.safe_dump(config))
    stored.refuse()


@pytest.mark.parametrize("run_id", ["../../etc", "0" * 33, "A" * 32, "0" * 31 + "\n"])
def test_what_is_no_id_is_refused(run_id, stored):
    with pytest.raises(TrackingError, match="32 hexadecimal digits") as caught:
        load_trained(run_id, stored.uri)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "state",
    [
        [],
        {"progress": {}},
        {"progress": {}, "epochs": "ten"},
        {"progress": {}, "epochs": 10, "config_sha256": "0" * 64},
    ],
)
def test_the_state_of_another_training_is_passed_over(config, tmp_path, capsys, state):
    path = tmp_path / "000001-000000000.pt"
    save(state, path)
    assert load_newest([path], lambda state: check_state(state, config)) is None
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert warning.startswith("Warning: ")


def test_a_configuration_of_aliases_is_refused_before_it_grows():
    """Ten lines that stand for a billion values."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 10)]
    with pytest.raises(ConfigError, match="expected no aliases"):
        read_config("\n".join(lines))
