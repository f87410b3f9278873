"""Earlier runs: to resume one (`resume=RUN`), or to repeat one (`rerun=RUN`).

To resume a run is to
1. find it: its folder on this machine, and what the store has of it,
2. take its configuration, of which the command line may change only a few keys,
3. take its last good checkpoint.

Anybody who can write to the store may have written what is read here. So the configuration may
only name what this checkout's own could name: see `lenet.tracking.stored_config`.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lenet.config.build import build
from lenet.config.errors import ConfigError
from lenet.config.overrides import config_folders, explicit_overrides
from lenet.config.record import config_hash
from lenet.tracking.client import resolved
from lenet.tracking.journal import Facts, Journal, unfinished
from lenet.tracking.names import (
    ID_TAG,
    PROCESS_TAG,
    TrackingError,
    Unreachable,
    send_command,
    waiting_root,
)
from lenet.tracking.outbox import what_to_do
from lenet.tracking.read import (
    Summary,
    check_is_no_sweep,
    fetched,
    read_run,
    read_text,
    resolve_run,
    text_of,
)
from lenet.tracking.settings import Past, Settings
from lenet.tracking.stored_config import merge_configs, read_config
from lenet.tracking.trained import stored_state
from lenet.tracking.turns import SILENCE_SECONDS, check_not_deleted, check_turn, silence_of
from lenet.training.checkpoints import load_newest, newest_first
from lenet.training.progress import Progress, State
from lenet.training.state import StateError, progress_of, sets_rates_of


@contextmanager
def resume(settings: Settings) -> Iterator[Settings]:
    """The settings to resume the run that the key `resume` names."""
    run_id = resolve_run(str(settings.config["resume"]), settings.uri)
    here = _folders_of(run_id, settings)
    settings = _at_its_store(here, settings)
    journal, stored = _find(run_id, here, settings)
    try:
        yield _resumed(run_id, journal, stored, settings)
    finally:  # a folder that was made for the run here goes, unless something was recorded in it
        journal.close(remove=journal.is_new and not journal.entries)


def _resumed(run_id: str, journal: Journal, stored: Summary | None, settings: Settings) -> Settings:
    """Raises: ConfigError where the run is finished, or another configuration is asked for."""
    before = read_config(_text(journal, "config.yaml", settings.uri))
    config = _merge(settings, before, "resume", run_id)
    tags, status = _tags_and_status(journal, stored)
    state = _last_state(journal, config, settings.uri)
    is_extended = config["epochs"] > before["epochs"]
    more = config["epochs"] if is_extended else 2 * before["epochs"]
    can_extend = state is None or _can_extend({**config, "epochs": more}, progress_of(state))
    if is_extended and not can_extend:
        raise ConfigError(
            f"resume={run_id}: its schedule would have had other learning rates with "
            f"epochs={more}; start a new run instead"
        )
    if status == "FINISHED" and not is_extended:
        sends = f"; {send_command(journal.folder)} sends what MLflow lacks"
        unsent = sends if journal.entries else ""
        advice = f"; epochs={more}, for one, extends it" if can_extend else ""
        raise ConfigError(f"resume={run_id}: the run is finished{advice}{unsent}")
    environment = _text(journal, "environment.txt", settings.uri)
    history = progress_of(state).history if state else []
    past = Past(run_id, before["epochs"], tags, environment, state, journal, history)
    return replace(settings, config=config, past=past)


def repeat(settings: Settings) -> Settings:
    """The settings to repeat the run that the key `rerun` names."""
    run_id = resolve_run(str(settings.config["rerun"]), settings.uri)
    run = read_run(run_id, settings.uri)
    stored = read_config(read_text(run_id, "config.yaml", settings.uri))
    config = _merge(settings, stored, "rerun", run_id)
    environment = read_text(run_id, "environment.txt", settings.uri)
    past = Past(run_id, config["epochs"], run.tags, environment)
    options = {group: run.params[group] for group in settings.options if group in run.params}
    return replace(settings, config=config, past=past, options=options)


def _folders_of(run_id: str, settings: Settings) -> dict[Path, Facts]:
    """The run's folders on this machine, that with the most turns first."""
    root = waiting_root(settings.config["tracking"]["folder"])
    own = [each for each in unfinished(root) if run_id in (each[1].id, each[1].run_id)]
    return dict(sorted(own, key=lambda each: -len(each[1].earlier)))


def _at_its_store(here: Mapping[Path, Facts], settings: Settings) -> Settings:
    """The settings with the address at which the run began, whatever this shell's is."""
    own = next(iter(here.values())).uri if here else resolved(settings.uri)
    if own == resolved(settings.uri):
        return settings
    tracking = {**settings.config["tracking"], "uri": own}
    return replace(settings, config={**settings.config, "tracking": tracking})


def _find(
    run_id: str, here: Mapping[Path, Facts], settings: Settings
) -> tuple[Journal, Summary | None]:
    """The run's journal, in its folder here or in a new one, and the run as the store has it.

    Raises: JournalError or TrackingError where its process is alive, or there is no such run.
    """
    root, uri = waiting_root(settings.config["tracking"]["folder"]), settings.uri
    if here:
        journal = Journal.open(next(iter(here)))
    else:
        stored = _stored(run_id, uri)
        _check_is_over(stored)
        folder = root / stored.tags.get(ID_TAG, run_id)
        if not (folder / "run.json").exists():
            facts = Facts(resolved(uri), stored.name, process=stored.holder, run_id=run_id)
            return Journal.create(root, facts), stored
        journal = Journal.open(folder)  # its process ended before it wrote down MLflow's id
        journal.facts = replace(journal.facts, run_id=run_id)
    try:
        return journal, _stored_for(journal, uri)
    except BaseException:
        journal.close()
        raise


def _stored_for(journal: Journal, uri: str | None) -> Summary | None:
    """The run of a journal as the store has it, None if the store does not answer.

    Raises: TrackingError where the folder is outdated, or the store has no such run.
    """
    facts = journal.facts
    if facts.run_id is None:
        return None
    try:
        stored = _stored(facts.run_id, uri)
        check_turn(stored.run_id, stored.holder, facts.writers)
        return stored
    except Unreachable as error:
        print(f"Warning: {error}; going on with what is in {journal.folder}", file=sys.stderr)
        return None
    except TrackingError as error:
        advice = what_to_do(error, journal)
        raise TrackingError(f"resume={facts.run_id}: {error}{advice}") from None


def _stored(run_id: str, uri: str | None) -> Summary:
    """Raises: TrackingError where there is no such run, or somebody has deleted it."""
    stored = read_run(run_id, uri)
    check_not_deleted(run_id, stored.stage)
    check_is_no_sweep(stored)
    return stored


def _check_is_over(run: Summary) -> None:
    """Raises: TrackingError where the run's process is alive."""
    is_worked_on, silence = run.is_worked_on, silence_of(run.tags)
    host = (run.holder or run.tags.get(PROCESS_TAG, "")).partition(" ")[0] or "another machine"
    if is_worked_on:
        raise TrackingError(
            f"{run.run_id}: its process is still running on {host}"
            + (f", alive {silence:.0f} s ago" if silence is not None else "")
            + f"; a process that died counts as dead after {SILENCE_SECONDS / 60:.0f} minutes"
        )
    if is_worked_on is None:
        print(f"Warning: it ran on {host}; make sure that it has ended there", file=sys.stderr)


def _merge(settings: Settings, before: Mapping[str, Any], key: str, run_id: str) -> dict[str, Any]:
    """The run's configuration with what the command line may change of it."""
    today = {**settings.config, key: run_id}
    explicit = explicit_overrides(settings.config, settings.overrides)
    what, may_extend = f"{key}={run_id}", key == "resume"
    return merge_configs(before, today, explicit, config_folders(), what, may_extend)


def _text(journal: Journal, name: str, uri: str | None) -> str:
    """An artifact of the run: from its folder here, else from the store.

    Raises: TrackingError where neither has it.
    """
    if ("artifact", name) in journal.entries and journal.file(name).is_file():
        return text_of(journal.file(name))
    if run_id := journal.facts.run_id:
        with fetched(run_id, name, uri) as path:
            if path is not None:
                return text_of(path)
    run_id = journal.facts.run_id or journal.facts.id
    raise TrackingError(f"{run_id}: no run of this lab that has begun; start it again")


def _tags_and_status(journal: Journal, run: Summary | None) -> tuple[dict[str, str], str | None]:
    """The newest of each: the journal may hold some that MLflow does not have."""
    tags = dict(run.tags) if run else dict(journal.facts.tags)
    status = run.status if run else None
    for kind, value in journal.entries:
        if kind == "tags":
            tags |= value
        elif kind == "status":
            status = value[0]
    return tags, status


def _last_state(journal: Journal, config: Mapping[str, Any], uri: str | None) -> State | None:
    """The last good checkpoint in the run's folder; if there is none, that of the store."""
    check = partial(check_state, config=config)
    state = load_newest(newest_first(journal.folder / "checkpoints"), check)
    if state is None and journal.facts.run_id:
        try:
            return stored_state(journal.facts.run_id, uri, check)
        except TrackingError as error:
            print(f"Warning: {error}", file=sys.stderr)
    return state


def check_state(state: State, config: Mapping[str, Any]) -> None:
    """Raises: StateError where the checkpoint is of another configuration."""
    found = state if isinstance(state, dict) else {}  # anybody may have written it
    epochs, known = found.get("epochs"), found.get("config_sha256")
    same = isinstance(epochs, int) and known == config_hash({**config, "epochs": epochs})
    if not same or epochs > config["epochs"]:
        raise StateError("checkpoint: expected one of this configuration, found another's")
    progress_of(state)


def _can_extend(config: Mapping[str, Any], at: Progress) -> bool:
    """Whether a run of this configuration would have come to `at` in the same way."""
    optimizer = build(config, "optimizer", [nn.Parameter(torch.zeros(1))])
    lengths = {"epochs": config["epochs"], "steps_per_epoch": at.steps_per_epoch}
    return sets_rates_of(at, build(config, "schedule", optimizer, **lengths), optimizer)
