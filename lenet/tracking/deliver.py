"""Entries of a journal -> requests to MLflow.

Every request may be repeated: what MLflow has already is not doubled. So nobody who sends needs to
know whether an answer was lost.
"""

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import yaml
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.tracking import MlflowClient

from lenet.tracking import registry
from lenet.tracking.client import experiment_id_of
from lenet.tracking.journal import Entry, Journal
from lenet.tracking.names import ERROR_TAG, ID_TAG, PARENT_TAG, PROCESS_TAG, SWEEP_KIND_TAG
from lenet.tracking.turns import is_worked_on, last_turn
from lenet.tracking.variables import adopt_run

MAX_METRICS, MAX_PARAMS, MAX_CHARACTERS = 1000, 100, 6000  # of one request
LOST = "its process ended without setting a status"


def start_run(client: MlflowClient, journal: Journal, may_exist: bool) -> str:
    """MLflow's id of the journal's run. With `may_exist` an earlier try may have created it, and
    its answer was lost.

    Raises: TrackingError where its experiment is deleted, or the run that it adopts is taken.
    """
    facts = journal.facts
    tags = {ID_TAG: facts.id, PROCESS_TAG: facts.process, **facts.tags}
    if facts.adopts:
        return adopt_run(client, facts.adopts, tags, facts.process)
    experiment_id = experiment_id_of(client, facts.experiment)
    if may_exist and (found := _runs_of(client, experiment_id, facts.id)):
        return str(found[0].info.run_id)
    run = client.create_run(experiment_id, facts.start_time, tags, facts.name)
    return str(run.info.run_id)


def delete_twins(client: MlflowClient, journal: Journal) -> None:
    """Deletes the empty runs that a slow server made of earlier tries to create the journal's run,
    after a later try had come through.
    """
    own = client.get_run(str(journal.facts.run_id)).info
    for run in _runs_of(client, own.experiment_id, journal.facts.id):
        if run.info.run_id != own.run_id and not run.data.params:
            client.delete_run(run.info.run_id)


def _runs_of(client: MlflowClient, experiment_id: str, folder_id: str) -> list[Run]:
    return list(client.search_runs([experiment_id], f"tags.`{ID_TAG}` = '{folder_id}'"))


def deliver(client: MlflowClient, journal: Journal, entries: Sequence[Entry]) -> int:
    """Sends the first of `entries`, and those after it that fit into the same request.

    Returns: how many it sent.
    """
    run_id, (kind, value) = str(journal.facts.run_id), entries[0]
    if kind == "metrics":
        return _send_metrics(client, journal, run_id, entries)
    if kind == "params":
        params = [Param(key, text[:MAX_CHARACTERS]) for key, text in value.items()]
        for first in range(0, len(params), MAX_PARAMS):
            client.log_batch(run_id, params=params[first : first + MAX_PARAMS])
    elif kind == "tags":
        _send_tags(client, run_id, value)
    elif kind == "data":
        context = [InputTag("mlflow.data.context", "training")]
        client.log_inputs(run_id, [DatasetInput(Dataset(**value), context)])
    elif kind == "artifact":
        if journal.file(value).exists():  # else an earlier process sent it
            _upload(client, run_id, journal.file(value), value)
    elif kind == "checkpoint":
        if not any(other == "checkpoint" for other, _ in entries[1:]):
            _send_checkpoint(client, run_id, journal.folder / "checkpoints" / value)
    elif kind == "model":
        _send_model(client, journal, run_id, value)
    elif kind == "register":
        _send_version(client, run_id, *value)
    elif kind == "status":
        status, end_time = value
        if status == "RUNNING":
            client.update_run(run_id, status)
        else:
            client.set_terminated(run_id, status, end_time)
    return 1


def _send_metrics(
    client: MlflowClient, journal: Journal, run_id: str, entries: Sequence[Entry]
) -> int:
    points: list[Metric] = []
    count = 0
    for kind, value in entries:
        if kind != "metrics" or (points and len(points) + len(value) > MAX_METRICS):
            break
        points += [Metric(*point) for point in value if (point[0], point[3]) not in journal.stored]
        count += 1
    client.log_batch(run_id, metrics=points)
    return count


def stored_points(client: MlflowClient, run_id: str) -> set[tuple[str, int]]:
    """(metric, step) of all points of a run."""
    names = client.get_run(run_id).data.metrics
    return {
        (name, point.step) for name in names for point in client.get_metric_history(run_id, name)
    }


def _send_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str | None]) -> None:
    """None removes a tag."""
    given = [RunTag(key, text) for key, text in tags.items() if text is not None]
    client.log_batch(run_id, tags=given)
    gone = {key for key, text in tags.items() if text is None}
    for key in gone and gone & set(client.get_run(run_id).data.tags):
        client.delete_tag(run_id, key)


def _upload(client: MlflowClient, run_id: str, path: Path, artifact: str) -> None:
    folder = str(Path(artifact).parent) if "/" in artifact else None
    client.log_artifact(run_id, str(path), folder)


def _send_checkpoint(client: MlflowClient, run_id: str, path: Path) -> None:
    """First as the previous one, then as the last, so that one of them is always whole."""
    for name in ("checkpoint.previous.pt", "checkpoint.pt"):
        with tempfile.TemporaryDirectory() as folder:
            try:
                shutil.copyfile(path, Path(folder, name))
            except FileNotFoundError:  # the training has saved two newer ones by now
                return
            _upload(client, run_id, Path(folder, name), name)


def _send_model(client: MlflowClient, journal: Journal, run_id: str, step: int) -> None:
    """The folder `model/` becomes the run's logged model. A model that an earlier try left
    unfinished is deleted, and so is that of an earlier end of the run, unless it is registered.
    """
    run = client.get_run(run_id)
    steps = model_steps(client, run_id)
    experiment_id = run.info.experiment_id
    for old in client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"):
        if old.status == LoggedModelStatus.READY and steps.get(old.model_id) == step:
            return
        if registry.VERSIONS_TAG not in old.tags:
            client.delete_logged_model(old.model_id)
    folder = journal.folder / "model"
    if not (folder / "MLmodel").exists():  # an earlier process sent it
        return
    name = re.sub("[/:.%\"']", "_", run.info.run_name)  # characters that MLflow refuses
    model = client.create_logged_model(experiment_id, name, run_id, params=run.data.params)
    about = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
    about |= {"run_id": run_id, "artifact_path": model.artifact_location}
    about["utc_time_created"] = str(datetime.now(UTC).replace(tzinfo=None))
    about |= {"model_id": model.model_id, "model_uuid": model.model_id}
    text = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
    (folder / "MLmodel").write_text(text, encoding="utf-8")
    client.log_model_artifacts(model.model_id, str(folder))
    points = [
        Metric(key, number, time, at, model_id=model.model_id, run_id=run_id)
        for kind, value in journal.entries
        for key, number, time, at in (value if kind == "metrics" else ())
        if at == step and (key, at) not in journal.stored
    ]
    client.log_batch(run_id, metrics=points)  # MLflow shows them on the model's page
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])


def model_steps(client: MlflowClient, run_id: str) -> dict[str, int]:
    """The run's logged models, each with the step of its weights."""
    run = client.get_run(run_id)
    outputs = run.outputs.model_outputs if run.outputs else []
    return {output.model_id: output.step for output in outputs}


def _send_version(
    client: MlflowClient,
    run_id: str,
    name: str,
    step: int,
    facts: Mapping[str, str],
    description: str = "",
) -> None:
    """The run's model of that step becomes a version of the registered model `name`."""
    for model_id, at in model_steps(client, run_id).items():
        if at == step:
            print(registry.register(client, name, run_id, model_id, facts, description))


def mark_dead_runs(client: MlflowClient, but: str | None) -> list[str]:
    """Gives the runs whose process is gone the status KILLED. Returns: a line about each, but for
    the jobs of sweeps.
    """
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    running = client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=1000)
    lines = []
    for run in running:
        run_id, holder = run.info.run_id, last_turn(run.data.params)[1]
        if run_id == but or is_worked_on("RUNNING", run.data.tags, holder) is not False:
            continue
        # It may have ended just before its process did.
        if client.get_run(run_id).info.status == "RUNNING":
            client.set_tag(run_id, ERROR_TAG, LOST)
            client.set_terminated(run_id, "KILLED")
            if SWEEP_KIND_TAG in run.data.tags:
                lines.append(f"The process of sweep {run_id} has died; its command continues it")
            elif PARENT_TAG not in run.data.tags:
                lines.append(f"The process of run {run_id} has died; resume={run_id} continues it")
    return lines
