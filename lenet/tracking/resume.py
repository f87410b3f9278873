"""Runs that come back: to be gone on with (`resume`) or done again (`rerun`).

What a run left may have been written by anybody who can write to the tracking store, so it is
held to what this checkout's own configuration could have said: see `lenet.tracking.stored_config`.
"""

import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from lenet.config.build import build
from lenet.config.check import check_values
from lenet.config.errors import ConfigError
from lenet.config.record import config_hash
from lenet.data.inputs import Inputs
from lenet.data.sets import Data
from lenet.tracking import store
from lenet.tracking.journal import Journal, find
from lenet.tracking.provenance import code_state, environment, environment_differences, is_alive
from lenet.tracking.sender import waiting_root
from lenet.tracking.store import TrackingError
from lenet.tracking.stored_config import check_targets, read_config, together
from lenet.training import checkpoints as checkpoint
from lenet.training.progress import Epoch
from lenet.training.state import StateError, progress_of

State = dict[str, Any]
MOST_BYTES = 1_000_000  # of a text that comes back


@dataclass
class Past:
    """A run of before. `journal` and, where a checkpoint was reached, `state` are there to go on
    from; a run that is only done again has neither.
    """

    run_id: str
    config: dict[str, Any]
    epochs: int  # that it was to have before now
    tags: Mapping[str, str]
    environment: str
    state: State | None = None
    journal: Journal | None = None
    history: list[Epoch] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Of the training that is in the state."""
        if not self.state:
            return 0.0
        under_way: float = self.state["progress"]["tally"]["seconds"]
        return sum(epoch.seconds for epoch in self.history) + under_way

    def check_here(self, data: Data) -> None:
        """Raises: ConfigError where it is not the data that the run had. Another environment is
        told, to go on there is allowed.
        """
        check_data(self.run_id, self.tags, data)
        code = [(tag, self.tags.get(tag, ""), now) for tag, now in code_state().items()]
        other = [row for row in code if row[1] not in ("", row[2])]
        if other := other + environment_differences(self.environment, environment()):
            named = ", ".join(f"{what} {there} -> {here}" for what, there, here in other[:5])
            print(f"Warning: not as where the run began, bits may differ: {named}", file=sys.stderr)


def check_data(run_id: str, tags: Mapping[str, str], data: Data) -> None:
    """Raises: ConfigError where it is not the data that the run had."""
    pairs = [("dataset.sha256", data.sha256), ("dataset.val_sha256", data.val_sha256 or "none")]
    for tag, found in pairs:
        expected = tags.get(tag, found)
        if expected != found:
            raise ConfigError(
                f"data: run {run_id} had {tags.get('dataset')} with {tag} "
                f"{expected[:12]}..., here it is {data.name} with {found[:12]}..."
            )


@contextmanager
def recall(
    config: Mapping[str, Any], asked: Mapping[str, Any], folders: Sequence[Path]
) -> Iterator[Past]:
    """The run that `resume` or `rerun` names; `asked` is what the command line says beside it,
    `folders` hold the configuration groups. A folder that was made for it here is gone afterwards,
    unless something was recorded in it.

    Raises: ConfigError where both are given, or more is asked for than can be; TrackingError or
    JournalError where the run can't be had.
    """
    if config["resume"] and config["rerun"]:
        raise ConfigError("resume, rerun: expected one of them, got both")
    uri = config["tracking"]["uri"]
    meant = {k: config[k] and store.named(config[k], uri) for k in ("resume", "rerun")}
    config = {**config, **meant}
    if config["rerun"]:
        yield _again(config, asked, folders)
        return
    root = waiting_root(config["tracking"]["folder"])
    journal, run = _found(config["resume"], root, config["tracking"]["uri"])
    try:
        yield _opened(journal, run, config, asked, folders)
    finally:
        journal.close(remove=not journal.entries)


def _again(config: Mapping[str, Any], asked: Mapping[str, Any], folders: Sequence[Path]) -> Past:
    run_id, uri = config["rerun"], config["tracking"]["uri"]
    run = store.read_run(run_id, uri)
    stored = read_config(_artifact(run_id, "config.yaml", uri))
    config = together(stored, config, asked, folders, f"rerun={run_id}")
    before = _artifact(run_id, "environment.txt", uri)
    return Past(run_id, config, config["epochs"], run.tags, before)


def _artifact(run_id: str, name: str, uri: str | None) -> str:
    with store.fetched(run_id, name, uri) as path:
        if path is None:
            store.read_run(run_id, uri)  # there may be no run at all
            raise TrackingError(f"{run_id}: the run has no artifact {name}")
        return _text(path)


def _text(path: Path) -> str:
    """Raises: TrackingError where it is no text, or too much."""
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise TrackingError(f"{path.name}: expected at most {MOST_BYTES:,} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise TrackingError(f"{path.name}: expected a text") from None


def _found(run_id: str, root: Path, uri: str | None) -> tuple[Journal, store.Stored | None]:
    """The run's folder here, or a new one for it, and the run as the store has it.

    Raises: JournalError or TrackingError where it is alive, or neither has it.
    """
    local, facts = find(root, run_id) or (None, {"run_id": run_id})
    run = None
    try:
        run = store.read_run(facts["run_id"], uri) if facts["run_id"] else None
    except TrackingError as error:
        if local is None:
            raise
        print(f"Warning: {error}; going on with what is in {local}", file=sys.stderr)
    if local:
        return Journal.open(local), run
    assert run
    if run.status == "RUNNING":
        host, *process = run.tags.get(store.PROCESS_TAG, "").split()[:3] or [""]
        if host == platform.node() and is_alive(*process):
            raise TrackingError(f"{run_id}: its process is still running")
        if host != platform.node():
            print(f"Warning: it ran on {host or 'another machine'}; see that it is over there")
    about = {"uri": uri, "experiment": run.experiment, "name": run.name, "start_time": 0}
    journal = Journal.create(root, about | {"tags": {}, "process": ""})
    journal.describe(run_id=run.run_id)
    return journal, run


def _opened(
    journal: Journal,
    run: store.Stored | None,
    config: Mapping[str, Any],
    asked: Mapping[str, Any],
    folders: Sequence[Path],
) -> Past:
    """Raises: ConfigError where the run is finished, or another configuration is asked for."""
    run_id, uri = config["resume"], config["tracking"]["uri"]
    stored = read_config(_own_text(journal, "config.yaml", uri))
    merged = together(stored, config, asked, folders, f"resume={run_id}", longer=True)
    tags = dict(run.tags) if run else {}
    statuses = [run.status] if run else []
    for kind, value in journal.entries:
        if kind == "tags":
            tags |= value
        elif kind == "status":
            statuses.append(value[0])
    if statuses[-1:] == ["FINISHED"] and merged["epochs"] == stored["epochs"]:
        unsent = "; python -m lenet send sends what MLflow lacks" if journal.waiting else ""
        raise ConfigError(
            f"resume={run_id}: the run is finished; epochs={2 * stored['epochs']}, for one, "
            f"extends it{unsent}"
        )
    if run:  # what MLflow has is not sent again, wherever it came from
        for name, points in run.metrics.items():
            journal.points |= {(name, step) for step, _ in points}
            journal.latest.setdefault(name, points[-1][1])
    state = _newest(journal, merged, tags)
    before = _own_text(journal, "environment.txt", uri)
    history = progress_of(state).history if state else []
    after = f"after {len(history)} epochs" if state else "from its beginning: it has no checkpoint"
    if state and (batches := state["progress"]["batches"]):
        after += f" and {batches} batches"
    print(f"Going on with run {run_id} {after}")
    return Past(run_id, merged, stored["epochs"], tags, before, state, journal, history)


def _own_text(journal: Journal, name: str, uri: str | None) -> str:
    """An artifact of the run, from its folder here or, where that has none, from the store.

    Raises: TrackingError where neither has it.
    """
    if ("artifact", name) in journal.entries and journal.file(name).is_file():
        return _text(journal.file(name))
    if run_id := journal.facts["run_id"]:
        with store.fetched(run_id, name, uri) as path:
            if path is not None:
                return _text(path)
    raise TrackingError(f"{journal.folder.name}: it was killed before it began; start it anew")


def _newest(journal: Journal, config: Mapping[str, Any], tags: Mapping[str, str]) -> State | None:
    """The last whole checkpoint here; where there is none, the store's."""

    def check(state: State) -> None:
        _check_state(state, config, tags)

    state = checkpoint.newest(checkpoint.kept(journal.folder / "checkpoints"), check)
    if state is not None:
        return state
    for artifact in ("checkpoint.pt", "checkpoint.previous.pt") if journal.facts["run_id"] else ():
        try:
            with store.fetched(
                journal.facts["run_id"], artifact, config["tracking"]["uri"]
            ) as path:
                state = checkpoint.newest([path] if path else [], check)
        except TrackingError as error:
            print(f"Warning: {error}", file=sys.stderr)
        if state is not None:
            return state
    return None


def _check_state(state: State, config: Mapping[str, Any], tags: Mapping[str, str]) -> None:
    """Raises: StateError where it is not of this run: it lay here, or was sent, by mistake."""
    try:
        epochs = state["epochs"]
        same = state["config_sha256"] == config_hash({**config, "epochs": epochs})
        if not same or type(epochs) is not int or epochs > config["epochs"]:
            raise StateError("checkpoint: expected one of this configuration, found another's")
        if state["data_sha256"] != tags.get("dataset.sha256"):
            raise StateError("checkpoint: expected one of the run's data, found another's")
        progress_of(state)
    except StateError:
        raise
    except Exception as error:  # it may hold anything at any place
        reason = " ".join(str(error).split())[:200]
        raise StateError(f"checkpoint: expected one of a run, found another ({reason})") from None


# ---- What a run trained ----------------------------------------------------------------------


def load_trained(run_id: str, uri: str | None = None) -> tuple[nn.Module, Inputs]:
    """The network that a run trained, as its last checkpoint has it, and what it reads.

    Raises: TrackingError where there is no such run, or no checkpoint of it; ConfigError,
    CheckpointError, StateError where they are not what they should be.
    """
    config = read_config(_artifact(run_id, "config.yaml", uri))
    check_targets(config, [store.ROOT / "conf"])
    with (
        store.fetched(run_id, "checkpoint.pt", uri) as last,
        store.fetched(run_id, "checkpoint.previous.pt", uri) as before,
    ):
        state = checkpoint.newest([path for path in (last, before) if path])
    if state is None:
        raise TrackingError(f"{run_id}: the run has no checkpoint to take the network from")
    try:
        inputs = Inputs.from_values(state["inputs"])
        model: nn.Module = build(check_values(config, run_id), "model", **inputs.model_arguments)
        # Without the metadata that a state_dict may carry, which torch trusts.
        model.load_state_dict(dict(state["progress"]["best_model"] or state["model"]))
    except ConfigError:
        raise
    except Exception as error:  # it may hold anything at any place
        reason = " ".join(str(error).split())[:200]
        raise StateError(f"{run_id}: expected the checkpoint of its network ({reason})") from None
    return model.eval(), inputs


def load_data(run_id: str, uri: str | None = None) -> Data:
    """The data that a run had, found or downloaded here as for a new run.

    Raises: TrackingError where there is no such run; ConfigError where its configuration is not
    allowed, or the data here is other data; DataError where it can't be had.
    """
    run = store.read_run(run_id, uri)
    stored = read_config(_artifact(run_id, "config.yaml", uri))
    root = os.environ.get("LENET_DATA", "data")
    here = {
        "data": {"root": root, "mirror": None, "download": True},
        "tracking": {"uri": uri, "folder": "outputs"},
        "resume": None,
        "rerun": None,
        "job": None,
    }
    config = together(stored, here, {}, [store.ROOT / "conf"], run_id)
    data: Data = build(config, "data")
    check_data(run_id, run.tags, data)
    return data
