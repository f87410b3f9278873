"""Whose turn it is to write a run, and whether its process is alive.

A run has one writer at a time. Its first writer is whoever created it. Each process that resumes
the run takes the next turn, just before its first record is sent: the parameter `lenet.turn.2`,
`lenet.turn.3` and so on, with the process as its value. MLflow's parameters are written once, so
of several processes only one gets a turn. A journal knows the processes that have written it. It
may be sent as long as the run's last turn belongs to one of them.

A process that uses a run which somebody else created, and one that runs a sweep, takes a turn too.
"""

import re
import time
from collections.abc import Collection, Mapping

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from lenet.config.record import masked
from lenet.tracking.client import is_passing
from lenet.tracking.journal import Facts
from lenet.tracking.names import HEARTBEAT_TAG, PROCESS_TAG, Outdated, TrackingError
from lenet.tracking.provenance import is_alive

TURN = re.compile(r"lenet\.turn\.(\d{1,9})")
BEAT_SECONDS = 60.0  # between two signs of life of a process at work
SILENCE_SECONDS = 900.0  # without one, a process that can't be seen from here counts as dead


def last_turn(params: Mapping[str, str]) -> tuple[int, str]:
    """The run's last turn and the process that took it; (1, '') if nobody has resumed the run."""
    found = [(TURN.fullmatch(key), process) for key, process in params.items()]
    return max([(int(match[1]), process) for match, process in found if match], default=(1, ""))


def check_turn(run_id: str, holder: str, own: Collection[str]) -> None:
    """`own` are the processes of a journal. Raises: Outdated where the turn is none of theirs."""
    if holder and holder not in own:
        host, number = (*holder.split(), "?", "?")[:2]
        raise Outdated(
            f"run {run_id} was resumed elsewhere since, by process {number} on {host}, so the "
            "records here are outdated"
        )


def check_run(client: MlflowClient, facts: Facts) -> Run:
    """The run of a journal. Raises: TrackingError where the store does not have it, or somebody
    has deleted it; Outdated where it is another's turn.
    """
    run_id = str(facts.run_id)
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST" or is_passing(error, client.tracking_uri):
            raise
        raise TrackingError(f"{masked(client.tracking_uri)}: has no run {run_id}") from None
    check_not_deleted(run_id, run.info.lifecycle_stage)
    check_turn(run_id, last_turn(run.data.params)[1], facts.writers)
    return run


def check_not_deleted(run_id: str, stage: str) -> None:
    """Raises: TrackingError where somebody has deleted the run, by its lifecycle stage."""
    if stage != "active":
        restore = f"mlflow runs restore --run-id {run_id}"
        raise TrackingError(f"run {run_id} is deleted there; {restore} brings it back")


def take_turn(client: MlflowClient, run: Run, process: str) -> None:
    """Gives the process the next turn after those that `run` shows, unless it has the last one.

    Raises: Outdated where another process was faster.
    """
    turn, holder = last_turn(run.data.params)
    if holder == process:
        return
    run_id = run.info.run_id
    try:
        client.log_param(run_id, f"lenet.turn.{turn + 1}", process)
    except MlflowException as error:
        if not is_passing(error, client.tracking_uri):
            check_turn(run_id, last_turn(client.get_run(run_id).data.params)[1], [process])
        raise


def beat(client: MlflowClient, run: Run) -> None:
    """Gives a sign of life of a run. It also corrects the status of a run that another process took
    for dead.
    """
    client.set_tag(run.info.run_id, HEARTBEAT_TAG, str(int(time.time())))
    if run.info.status != "RUNNING":
        client.update_run(run.info.run_id, "RUNNING")


def is_worked_on(status: str, tags: Mapping[str, str], holder: str) -> bool | None:
    """Whether a living process writes the run; None if nobody can tell.

    A process of this machine is looked for. Any other one is alive as long as it gives signs.
    """
    process = tags.get(PROCESS_TAG, "")
    if status != "RUNNING" and holder in ("", process):  # else it has just taken its turn
        return False
    found = is_alive(holder or process)
    if found is None and (silence := silence_of(tags)) is not None:
        return silence < SILENCE_SECONDS
    return found


def silence_of(tags: Mapping[str, str]) -> float | None:
    """Seconds since the run's last sign of life; None if it never gave one."""
    last = tags.get(HEARTBEAT_TAG, "")
    return time.time() - int(last) if last.isdecimal() else None
