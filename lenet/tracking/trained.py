"""What a run trained: its network, and the data that it was trained on."""

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import nn

from lenet.cli import one_line, shortened
from lenet.config.build import build
from lenet.config.check import check_values
from lenet.config.errors import ConfigError
from lenet.config.labs import conf_folders
from lenet.config.record import flatten
from lenet.data.inputs import Inputs
from lenet.data.sets import Data
from lenet.tracking.names import WEIGHTS_TAG, TrackingError
from lenet.tracking.read import fetched, read_run, read_text
from lenet.tracking.records import weights_sha256
from lenet.tracking.settings import check_data, data_tags
from lenet.tracking.stored_config import check_targets, merge_configs, read_config, stored_paths
from lenet.training.checkpoints import load_newest
from lenet.training.progress import State
from lenet.training.state import StateError


def stored_state(
    run_id: str, uri: str | None, check: Callable[[State], None] = lambda state: None
) -> State | None:
    """The last good checkpoint of a run in the store, None if there is none that `check` accepts.

    Raises: TrackingError where the store can't be reached.
    """
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        with fetched(run_id, name, uri) as path:
            state = load_newest([path] if path else [], check)
        if state:
            return state
    return None


def load_trained(run_id: str, uri: str | None = None) -> tuple[nn.Module, Inputs]:
    """The network of a run with the weights of its last checkpoint, and what it reads.

    Raises: TrackingError where there is no such run, or no checkpoint with the weights that its
    training ended with; ConfigError, CheckpointError, StateError where its configuration or
    checkpoint is not as it should be.
    """
    config = read_config(read_text(run_id, "config.yaml", uri))
    recorded = read_run(run_id, uri).tags.get(WEIGHTS_TAG)
    check_targets(config, conf_folders())
    state = stored_state(run_id, uri)
    if state is None:
        raise TrackingError(f"{run_id}: the run has no checkpoint to take the network from")
    try:
        inputs = Inputs.from_values(state["inputs"])
        checked = check_values({**config, "job": None}, run_id)
        model: nn.Module = build(checked, "model", **inputs.model_arguments)
        # As a plain dict: the metadata that a state_dict may carry is trusted by torch.
        model.load_state_dict(dict(state["progress"]["best_model"] or state["model"]))
        found = weights_sha256(model)
    except ConfigError:
        raise
    except Exception as error:  # anybody may have written the checkpoint
        reason = shortened(" ".join(str(error).split()), 200)
        raise StateError(f"{run_id}: expected the checkpoint of its network ({reason})") from None
    if recorded not in (None, found):
        raise TrackingError(
            f"{run_id}: its last checkpoint could not be written, and the one before has other "
            f"weights; rerun={run_id} trains it again"
        )
    return model.eval(), inputs


def load_data(run_id: str, uri: str | None = None, folder: Path | None = None) -> Data:
    """The data of a run, found or downloaded as for a new run; `folder` is where its files are.

    Raises: TrackingError where there is no such run; ConfigError where its configuration is not
    allowed, or the data here is different; DataError where there is none.
    """
    run = read_run(run_id, uri)
    stored = read_config(read_text(run_id, "config.yaml", uri))
    here = {
        "data": {
            "root": str(folder or os.environ.get("LENET_DATA", "data")),
            "mirror": None,
            "download": True,
        },
        "tracking": {"uri": uri, "folder": "outputs"},
        **dict.fromkeys(("resume", "rerun", "job")),
    }
    paths = stored_paths(flatten(stored))
    before = _common_folder(paths)
    moved = {
        key: [str(folder / os.path.relpath(path, before or ".")) for path in each]
        for key, each in paths.items()
        if folder
    }
    say_where = f"--data {shlex.quote(one_line(before or '.'))}"
    config = merge_configs(stored, here, moved, conf_folders(), run_id, say_where=say_where)
    data: Data = build(config, "data")
    check_data(run_id, run.tags, data_tags(data))
    return data


def _common_folder(paths: Mapping[str, Sequence[str]]) -> str:
    """The folder in which all paths of data=files lie."""
    parents = [os.path.dirname(path) for each in paths.values() for path in each]
    try:
        return os.path.commonpath(parents) if parents else ""
    except ValueError:
        raise ConfigError("data: expected absolute or relative paths, found both") from None
