"""What is logged of a run: its configuration, tags, metrics, and the network as an MLflow model."""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from lenet.config.record import changes_nothing, result_settings
from lenet.data.sets import Data
from lenet.model import Chosen
from lenet.model.lenet5 import count_parameters
from lenet.tracking.job import DIFFERS_TAG, JOB_TAG, job_sha256
from lenet.tracking.journal import Journal
from lenet.tracking.names import (
    ERROR_TAG,
    NOTE_TAG,
    PARENT_TAG,
    PROCESS_TAG,
    PRUNED_TAG,
    WEIGHTS_TAG,
)
from lenet.tracking.provenance import code_state, command, environment, git, process_identity
from lenet.tracking.settings import Past, Settings, data_tags
from lenet.training.evaluate import Score
from lenet.training.progress import Epoch


def start_tags(
    settings: Settings, users: Mapping[str, Any], note: str | None, mlflows: Mapping[str, str]
) -> dict[str, str]:
    """The tags that a new run begins with: MLflow's own, the user's, and where the run belongs."""
    tags = {**mlflows} | code_state() | {key: str(value) for key, value in users.items()}
    if text := note or made_by(settings):
        tags.setdefault(NOTE_TAG, text)
    if settings.past:
        tags["lenet.rerun.of"] = settings.past.run_id
    return tags | {"lenet.host": platform.node()} | sweep_tags(settings)


def log_start(journal: Journal, settings: Settings) -> None:
    """The first entries of a new run."""
    journal.append("params", params(settings))
    journal.log_text(environment(), "environment.txt")
    if patch := git("diff", "HEAD"):
        journal.log_text(patch, "uncommitted.patch")
    _log_config(journal, settings)  # last: a run with a config.yaml can be resumed


def params(settings: Settings) -> dict[str, str]:
    """What the result can depend on, flat: the option of each config group, such as `optimizer=sgd`
    and `model/activation=tanh`, and the values that are set. config.yaml has everything.
    """
    options = {
        group: option
        for group, option in settings.options.items()
        if option and not group.startswith("hydra/") and not changes_nothing(group)
    }
    return options | result_settings(settings.config)


def log_resume(journal: Journal, settings: Settings, past: Past) -> None:
    """The first entries of a resumed run."""
    count = int(past.tags.get("lenet.resumed", "0")) + 1
    tags = {PROCESS_TAG: process_identity(), "lenet.resumed": str(count)}
    if trial := sweep_tags(settings).get("lenet.trial"):  # a new one if it is repeated
        tags["lenet.trial"] = trial
    # Those of an earlier end do not hold any more.
    journal.log_status("RUNNING")  # first: with this process's name the status is its own
    journal.log_tags(dict.fromkeys((ERROR_TAG, PRUNED_TAG, WEIGHTS_TAG)) | tags)
    if settings.config["epochs"] != past.epochs:
        _log_config(journal, settings)  # MLflow's parameters can't change


def _log_config(journal: Journal, settings: Settings) -> None:
    journal.log_tags({"lenet.config.sha256": settings.sha256})
    if settings.job is None:  # a sweep with the same job can reuse the run
        journal.log_tags({JOB_TAG: job_sha256(settings.sha256)})
    journal.log_text(_yaml(settings.public_overrides), "overrides.yaml")
    journal.log_text(_yaml(settings.public_config), "config.yaml")


def _yaml(value: Any) -> str:
    return str(yaml.dump(value, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True))


def sweep_tags(settings: Settings) -> dict[str, str]:
    """The tags by which a sweep finds its job; none for other runs."""
    job = settings.job
    if job is None:
        return {}
    tags = {
        PARENT_TAG: job.parent,
        DIFFERS_TAG: json.dumps(settings.differs),
        JOB_TAG: job.sha256,
    }
    return tags if job.trial is None else tags | {"lenet.trial": str(job.trial)}


def setup_tags(
    data: Data, model: nn.Module, device: torch.device, kernels: Chosen
) -> dict[str, str]:
    """Data, network and machine: what the run is made of beyond its configuration. The number of
    threads is in `environment`.
    """
    device_name = f"{device.type}, {torch.backends.cpu.get_cpu_capability()}"
    if device.type == "cuda":
        device_name = torch.cuda.get_device_name(device)
    return {
        **data_tags(data),
        "lenet.dataset.train": str(data.train.count),
        "lenet.model": type(model).__name__,
        "lenet.model.parameters": str(count_parameters(model)),
        "lenet.device": device_name,
        "lenet.kernels": kernels.name,
        "lenet.kernels.why": kernels.why,
    }


def dataset_of(data: Data) -> dict[str, str]:
    """The arguments of MLflow's Dataset."""
    return {
        "name": data.name,
        "digest": data.sha256[:8],  # as long as MLflow's own
        "source_type": "local",
        "source": str(data.where),
        "profile": json.dumps({"train": data.train.count, "test": data.test.count}),
    }


def epoch_metrics(record: Epoch) -> dict[str, float]:
    values = {
        "train/loss": record.loss,
        "train/accuracy": record.accuracy,
        "learning_rate": record.learning_rate,
        "seconds/epoch": record.seconds,
        "images_per_second": record.images_per_second,
    }
    if record.val is not None:
        values |= {"val/loss": record.val.loss, "val/accuracy": record.val.accuracy}
    return values


def best_metrics(history: Sequence[Epoch]) -> dict[str, float]:
    """The best validation so far; empty without a validation."""
    scores = [record.val for record in history if record.val]
    if not scores:
        return {}
    return {
        "best/val/loss": min(score.loss for score in scores),
        "best/val/accuracy": max(score.accuracy for score in scores),
    }


def test_metrics(score: Score) -> dict[str, float]:
    values = {
        "test/loss": score.loss,
        "test/accuracy": score.accuracy,
        "test/calibration_error": score.calibration_error,
    }
    for k, accuracy in enumerate(score.class_accuracy):
        if accuracy is not None:  # None: the test set has no image of this class
            values[f"test/class_accuracy/{k}"] = accuracy
    return values


def score_for_registry(history: Sequence[Epoch], patience: int | None) -> dict[str, str]:
    """The validation score of the final weights: with `patience` those of the best epoch, else
    those of the last one.
    """
    scores = [record.val for record in history if record.val]
    score = scores[-1] if patience is None else min(scores, key=lambda each: each.loss)
    return {"val/accuracy": str(score.accuracy), "val/loss": str(score.loss)}


def version_description(
    settings: Settings, data: Data, score: Score, facts: Mapping[str, str]
) -> str:
    """What a registered version is, in Markdown."""
    size, val_accuracy = data.val.count if data.val else 0, float(facts["val/accuracy"])
    return (
        f"Right on {val_accuracy:.2%} of {size:,} validation images and {score.accuracy:.2%} of "
        f"{data.test.count:,} test images of {data.name}. {made_by(settings)}"
    )


def made_by(settings: Settings) -> str:
    """The command, in Markdown; empty for a job, whose process has that of the sweep, or none."""
    return "" if settings.job else f"Made by `{command()}`."


def weights_sha256(model: nn.Module) -> str:
    """The hash of a model's state_dict: names, types, shapes and bits."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_mlflow_model(model: nn.Module, data: Data, folder: Path) -> None:
    """Saves the network as an MLflow model: a `pt2` program for a batch of any size, which loads
    without a pickle. Its metadata are the network's `Inputs`.
    """
    import mlflow.pytorch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def tensor(*shape: int) -> Schema:
        return Schema([TensorSpec(np.dtype("float32"), (-1, *shape))])

    release = torch.__version__.partition("+")[0]  # 2.14.1, not 2.14.1+cpu
    example = next(iter(data.test))[0][:2].cpu()
    was_training, device = model.training, data.test.labels.device
    model.cpu().eval()
    try:
        mlflow.pytorch.save_model(
            model,
            str(folder),
            signature=ModelSignature(tensor(*example.shape[1:]), tensor(len(data.inputs.classes))),
            # Two rows: an example of one row would fix the batch size at 1.
            input_example=example.expand(2, -1, -1, -1).numpy(),
            # Given, because MLflow takes nine seconds and a subprocess to find them out.
            pip_requirements=[f"torch=={release}", f"numpy=={np.__version__}"],
            serialization_format="pt2",
            metadata=data.inputs.to_values(),
        )
    finally:
        model.to(device).train(was_training)
