"""MLflow's model registry: each registered run is a version, and the best one is the champion."""

import json
import re
from collections.abc import Mapping

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from lenet.cli import one_line
from lenet.tracking.names import TrackingError
from lenet.tracking.settings import DATA_TAGS

CHAMPION = "champion"
VERSIONS_TAG = "mlflow.modelVersions"  # of a logged model; MLflow links its page to versions by it
MODEL_TAG = "lenet.model_id"  # of a version; MLflow does not always return the model's id
REGISTERED = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))")


def register(
    client: MlflowClient,
    name: str,
    run_id: str,
    model_id: str,
    facts: Mapping[str, str],
    description: str = "",
) -> str:
    """Registers the run's logged model as a version of `name`. It becomes the champion if it is the
    first one, or has a higher `val/accuracy` on the same images (if equal: a lower `val/loss`).
    `facts` holds these scores and the DATA_TAGS and becomes the version's tags. To call it twice
    has the same effect as once.

    Returns: a line that says what happened.
    """
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    own = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    versions = [str(each.version) for each in own if each.tags.get(MODEL_TAG) == model_id]
    if not versions:
        tags = {MODEL_TAG: model_id, **facts}
        source = f"models:/{model_id}"
        text = f"{description.rstrip()} `python run.py rerun={run_id}` makes it again.".strip()
        made = client.create_model_version(
            name, source, run_id, tags, description=text, model_id=model_id
        )
        versions = [str(made.version)]
    version = versions[0]
    entry = json.dumps([{"name": name, "version": version}])
    client.set_logged_model_tags(model_id, {VERSIONS_TAG: entry})
    line = f"Registered as {name}, version {version}"
    champion = str(client.get_registered_model(name).aliases.get(CHAMPION, version))
    if champion != version:
        theirs = client.get_model_version(name, champion).tags
        if any(theirs.get(key) != facts[key] for key in DATA_TAGS):
            return f"{line}; the champion stays version {champion}, of other images"
        if _rank(facts) <= _rank(theirs):
            before, now = (float(each["val/accuracy"]) for each in (theirs, facts))
            return (
                f"{line}; the champion stays version {champion} "
                f"({before:.2%} of the validation images, here {now:.2%})"
            )
    client.set_registered_model_alias(name, CHAMPION, version)
    accuracy = float(facts["val/accuracy"])
    return f"{line}, now its champion ({accuracy:.2%} of the validation images)"


def _rank(facts: Mapping[str, str]) -> tuple[float, float]:
    """For comparison: higher is better."""
    return float(facts["val/accuracy"]), -float(facts["val/loss"])


def run_of(client: MlflowClient, text: str) -> str:
    """The id of the run that made `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises: TrackingError where there is no such version.
    """
    shown = one_line(text)[:80]
    match = REGISTERED.fullmatch(text)
    if not match:
        raise TrackingError(f"{shown}: expected models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, number = match.groups()
    try:
        if alias:
            version = client.get_model_version_by_alias(name, alias)
        else:
            version = client.get_model_version(name, number)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise TrackingError(f"{shown}: no such registered model") from None
    return str(version.run_id)
