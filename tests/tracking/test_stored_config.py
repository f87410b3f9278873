"""A configuration from a tracking store is a stranger's: it builds only what conf/ names."""

import copy
import os

import pytest
import yaml
from hydra import compose, initialize_config_dir

from lenet.config.check import check
from lenet.config.errors import ConfigError
from lenet.config.record import config_hash
from lenet.data.tensor_files import save
from lenet.model.lenet5 import LeNet5
from lenet.tracking import trained
from lenet.tracking.client import TrackingError
from lenet.tracking.read import read_run, text_of
from lenet.tracking.resume import check_state
from lenet.tracking.stored_config import MOST_CHARACTERS, check_targets, merge_configs, read_config
from lenet.tracking.trained import load_trained
from lenet.training.checkpoints import load_newest
from tests.conftest import CONF

FOLDERS = [CONF]


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


def test_what_conf_names_is_allowed(composed):
    for overrides in (
        [],
        ["model/activation=scaled_tanh", "model/pooling=subsample", "optimizer=adamw"],
        ["schedule=one_cycle", "data=fashion_mnist", "+tags.idea=wide"],
    ):
        config = check(composed(*overrides))
        check_targets(read_config(yaml.safe_dump(config)), FOLDERS)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("optimizer._target_", "os.system"),
        ("optimizer._target_", "lenet.tracking.provenance.git"),
        ("optimizer._target_", "lenet.data.tensor_files.save"),
        ("optimizer._target_", "torch.load"),
        ("optimizer._target_", "torch.nn.Tanh"),  # allowed elsewhere
        ("model.activation._target_", "torch.optim.SGD"),
        ("model.activation._target_", 3),
        ("data.extra", {"_target_": "os.system"}),
        ("optimizer.betas", [{"_target_": "os.system"}]),
        ("optimizer.betas", [[{"deep": {"_target_": "torch.optim.SGD"}}]]),
        ("optimizer._args_", [1]),
        ("optimizer._recursive_", False),
        ("optimizer._partial_", "yes"),
        ("optimizer.lr", "${oc.env:HOME}"),
        ("tags.${oc.env:HOME}", "x"),
        ("note", "a ${oc.env:HOME} b"),
        ("elsewhere._target_", "torch.optim.SGD"),
        ("optimizer.inner._target_", "torch.optim.SGD"),
        ("hydra.launcher._target_", "os.system"),
        ("a\x1b[31mb", 1),
        ("note", "${now:%Y}"),
        ("note", b"bytes"),
        ("tags", {1: "a key that is no text"}),
        ("loss", {"label_smoothing": {"_target_": "torch.nn.CrossEntropyLoss"}}),
    ],
)
def test_anything_else_is_refused_in_one_line(config, path, value):
    with pytest.raises(ConfigError) as caught:
        check_targets(with_value(config, path, value), FOLDERS)
    assert len(str(caught.value).splitlines()) == 1
    assert "/root" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1, 1]\nb: *a\n",
        "a: [",
        "\t",
        "- 1\n- 2\n",
        "text",
        "",
        "!!python/object/apply:os.system ['true']",
        "a: " + "[" * 90_000,
        "? {a: 1}\n: 2\n",
        "a: !!timestamp x",  # PyYAML: AttributeError
        "a: !!bool x",  # KeyError
        "a: !!int ''",  # IndexError
        "a: 2001-02-30",
        "a: " + "9" * 5000,
        "a: 2001-01-01",
        "a: !!binary aGk=",
        "a: !!set {b}",
        "<<: {a: 1}\n- b",
        "a: 1\n---\na: 2\n",
        "a: \x00",
        "a" * (MOST_CHARACTERS + 1),
        "%YAML 9.9\n---\na: 1",
    ],
)
def test_what_is_no_plain_yaml_is_refused_in_one_line(text):
    with pytest.raises(ConfigError) as caught:
        check_targets(read_config(text), FOLDERS)
    assert len(str(caught.value).splitlines()) == 1


def test_a_config_nested_too_deeply_is_refused():
    nested: dict = {}
    for _ in range(100):
        nested = {"a": nested}
    with pytest.raises(ConfigError, match="nested too deeply"):
        check_targets(nested, FOLDERS)


def merged(stored, today, asked=None, longer=False):
    return merge_configs(stored, today, asked or {}, FOLDERS, "resume=x", longer)


def test_paths_servers_and_mirrors_are_this_machines(config):
    stored = copy.deepcopy(config)
    stored["data"] |= {"root": "/stranger", "mirror": "http://stranger/", "download": False}
    stored["tracking"] |= {"uri": "http://stranger/", "folder": "/stranger"}
    stored["optimizer"]["lr"] = 0.5
    result = merged(stored, config)
    for key in ("root", "mirror", "download"):
        assert result["data"][key] == config["data"][key]
    for key in ("uri", "folder"):
        assert result["tracking"][key] == config["tracking"][key]
    assert result["optimizer"]["lr"] == 0.5


def test_what_has_no_effect_may_be_asked_for(config):
    result = merged(config, config, {"tracking.wait": 1.0, "checkpoint.epochs": 5})
    assert (result["tracking"]["wait"], result["checkpoint"]["epochs"]) == (1.0, 5)


def test_a_difference_is_shown_with_both_values(config):
    stored = with_value(config, "optimizer.lr", 0.5)
    with pytest.raises(ConfigError, match=r"optimizer\.lr 0\.5 \(here 0\.01\)"):
        merged(stored, config, {"optimizer.lr": 0.01})
    assert merged(stored, config, {"optimizer.lr": 0.5})["optimizer"]["lr"] == 0.5


@pytest.mark.parametrize(("epochs", "longer", "allowed"), [(20, True, True), (20, False, False)])
def test_more_epochs_are_for_a_resume_alone(config, epochs, longer, allowed):
    if allowed:
        assert merged(config, config, {"epochs": epochs}, longer)["epochs"] == epochs
    else:
        with pytest.raises(ConfigError, match="epochs 10"):
            merged(config, config, {"epochs": epochs}, longer)


def test_fewer_epochs_are_refused(config):
    with pytest.raises(ConfigError, match=r"epochs 10 \(here 5\)"):
        merged(config, config, {"epochs": 5}, longer=True)


def test_a_stranger_s_values_are_held_to_the_limits(config):
    for path, value in (("epochs", "ten"), ("data.image_size", 10**6), ("optimizer.lr", -1)):
        with pytest.raises(ConfigError, match=path):
            merged(with_value(config, path, value), config)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, True, "1", [], {}, None])
def test_no_kind_of_nonsense_passes_for_a_number(config, value):
    with pytest.raises(ConfigError) as caught:
        merged(with_value(config, "optimizer.lr", value), config)
    assert len(str(caught.value).splitlines()) == 1


def test_a_stranger_s_root_is_dropped_where_this_machine_says_none(config):
    today = copy.deepcopy(config)
    for key in ("root", "mirror", "download"):
        del today["data"][key]
    stored = with_value(config, "data.root", "/stranger")
    try:
        assert merged(stored, today)["data"]["root"] != "/stranger"
    except ConfigError as error:
        assert "data.root=null" in str(error)


def files(composed, train):
    return check(composed("data=files", f"data.train=['{train}']", "data.test=[test.pt]"))


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../a.pt", "a/../../b.pt", "~/a.pt", "outside/a.pt", "/dev/zero"]
)
def test_files_outside_the_current_folder_are_not_read(composed, config, tmp_path, path):
    here = tmp_path / "here"
    here.mkdir()
    (here / "outside").symlink_to(tmp_path)
    before = os.getcwd()
    os.chdir(here)
    try:
        stored = files(composed, path)
        with pytest.raises(ConfigError, match=r"data\.train has .*say where the files are here"):
            merged(stored, config)
        asked = {"data.train": ["/own/a.pt"]}
        assert merged(stored, config, asked)["data"]["train"] == ["/own/a.pt"]
    finally:
        os.chdir(before)


def test_files_below_the_current_folder_are_read(composed, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = merged(files(composed, "own/a.pt"), config)
    assert result["data"]["train"] == ["own/a.pt"]
    assert "root" not in result["data"]  # which today's configuration has, and files do not


def test_where_the_files_are_changes_no_hash(composed):
    assert config_hash(files(composed, "a.pt")) == config_hash(files(composed, "b.pt"))


def test_a_yaml_of_another_program_beside_ours_does_no_harm(config, tmp_path):
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "tagged.yaml").write_text("a: !reference [b]")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "device.yaml").symlink_to("/nowhere")
    assert merge_configs(config, config, {}, [CONF, tmp_path], "resume=x")


# ---- What a run trained ----------------------------------------------------------------------


class Shelf:
    """A run's artifacts as files, instead of a store's."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder

        class Fetched:
            def __init__(self, run_id, artifact, uri=None):
                self.path = folder / artifact

            def __enter__(self):
                return self.path if self.path.exists() else None

            def __exit__(self, *_):
                pass

        monkeypatch.setattr(trained, "fetched", Fetched)
        read = lambda run_id, name, uri: text_of(folder / name)  # noqa: E731
        monkeypatch.setattr(trained, "read_text", read)


@pytest.fixture
def shelf(tmp_path, monkeypatch, config):
    model = LeNet5()
    inputs = {"classes": list("0123456789"), "mean": 0.1, "std": 0.3}
    state = {
        "progress": {"best_model": None},
        "model": model.state_dict(),
        "inputs": inputs | {"image_size": 32, "in_channels": 1},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    shelf = Shelf(tmp_path, monkeypatch)
    shelf.state = state
    save(state, tmp_path / "checkpoint.pt")
    return shelf


def test_what_a_run_trained_is_loaded(shelf):
    model, inputs = load_trained("0" * 32)
    assert len(inputs.classes) == 10
    assert not model.training


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("classes", []),
        ("classes", ["x"] * 10**4),
        ("classes", "0123456789"),
        ("mean", -1.0),
        ("mean", float("nan")),
        ("std", 0.0),
        ("image_size", 10**6),
        ("image_size", 15),
        ("in_channels", 0),
        ("in_channels", 99),
        ("image_size", None),
    ],
)
def test_what_a_network_reads_is_held_to_bounds(shelf, key, value):
    shelf.state["inputs"][key] = value
    save(shelf.state, shelf.folder / "checkpoint.pt")
    assert_refused()


def assert_refused():
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load_trained("0" * 32)
    assert type(caught.value).__module__.startswith("lenet.")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("model", {}),
        ("model", [1]),
        ("model", None),
        ("progress", {}),
        ("progress", {"best_model": 3}),
        ("progress", {"best_model": {"conv1.weight": 1}}),
        ("inputs", 3),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(shelf, part, value):
    save(shelf.state | {part: value}, shelf.folder / "checkpoint.pt")
    assert_refused()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"a: \xff", b"a: 1\n" * 300_000])
def test_what_is_no_text_or_too_much_is_refused(shelf, content):
    (shelf.folder / "config.yaml").write_bytes(content)
    assert_refused()


def test_a_stranger_s_network_is_none_but_ours(shelf, config):
    config["model"]["_target_"] = "os.system"
    (shelf.folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert_refused()


@pytest.mark.parametrize(
    "run_id", ["../../etc", "a/b", "0" * 31, "0" * 33, "A" * 32, "0" * 31 + "\n"]
)
def test_what_is_no_id_asks_no_store(run_id, empty_store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{empty_store}")
    for ask in (load_trained, read_run):
        with pytest.raises(TrackingError) as caught:
            ask(run_id)
        assert len(str(caught.value).splitlines()) == 1
        assert "32 hexadecimal digits" in str(caught.value)


# ---- Which checkpoint ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"progress": {}},
        {"progress": {}, "epochs": 10},
        {"progress": {}, "epochs": 3, "config_sha256": 3},
        {"progress": {}, "epochs": 10, "config_sha256": "0" * 64},
        {"progress": 3},
    ],
)
def test_a_state_of_nothing_is_passed_over(config, tmp_path, capsys, state):
    path = tmp_path / "000001-000000000.pt"
    save(state, path)
    found = load_newest([path], lambda state: check_state(state, config, {}))
    assert found is None
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert warning.startswith("Warning: ")
