"""Sweeps that are written into a store without a training."""

import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from mlflow.entities import Metric, Param, RunTag

from lenet.tracking import client as store

EPOCHS = 5
Job = Mapping[str, Any]


def grid(**axes: Sequence[Any]) -> list[dict[str, Any]]:
    """`grid(optimizer__lr=[0.1, 0.2], seed=[0, 1])`: the last axis varies fastest."""
    jobs: list[dict[str, Any]] = [{}]
    for name, values in axes.items():
        jobs = [{**job, name.replace("__", "."): value} for job in jobs for value in values]
    return jobs


def accuracy_of(job: Job) -> float:
    """A seed is good or bad for all settings, as in training; the rest is a setting's own."""
    noise = np.random.default_rng(zlib.crc32(json.dumps(job, sort_keys=True).encode()))
    common = np.random.default_rng(job.get("seed", 0)).normal(0, 0.0008)
    momentum, lr = job.get("optimizer.momentum", 0.9), job.get("optimizer.lr", 0.01)
    worse = 0.012 * (1 - momentum) + 0.004 * abs(np.log10(lr / 0.02))
    worse += {"tanh": 0.002, "sigmoid": 0.02}.get(job.get("model/activation", "relu"), 0.0)
    return float(np.clip(0.989 - worse + common + noise.normal(0, 0.0004), 0.0, 1.0))


def points_of(job: Job, validation: bool = True, epochs: int = EPOCHS) -> list[Metric]:
    last, now = accuracy_of(job), int(time.time() * 1000)
    random = np.random.default_rng(1)
    values: list[tuple[str, float, int]] = []
    for epoch in range(1, epochs + 1):
        accuracy = last - 0.1 * (np.exp(-epoch) - np.exp(-epochs))
        values += [("train/loss", 3 * (1 - accuracy), epoch), ("train/accuracy", accuracy, epoch)]
        if validation:
            values += [("val/loss", 3.3 * (1 - accuracy), epoch), ("val/accuracy", accuracy, epoch)]
    tested = last - 0.001 + random.normal(0, 0.0003)
    values += [("test/loss", 3.2 * (1 - tested), epochs), ("test/accuracy", tested, epochs)]
    values += [(f"test/class_accuracy/{k}", tested - 0.001 * (k - 5), epochs) for k in range(10)]
    values += [("seconds/total", 12 + random.random(), epochs), ("seconds/training", 10.0, epochs)]
    return [Metric(name, float(value), now, step) for name, value, step in values]


def runs_of(
    values: Mapping[Any, Sequence[float]],
    seeds: Mapping[Any, Sequence[int]] | None = None,
    axis: str = "optimizer.lr",
    metric: str = "val/accuracy",
) -> pd.DataFrame:
    """Finished runs as `load_sweep` gives them. `values` maps each setting to its measures."""
    rows = []
    for setting, measures in values.items():
        own = range(len(measures)) if seeds is None else seeds[setting]
        for seed, measure in zip(own, measures, strict=True):
            rows.append({axis: setting, "seed": seed, metric: measure})
    frame = pd.DataFrame(rows)
    frame["run_id"] = [f"{i:032x}" for i in range(len(frame))]
    frame["start"] = pd.to_datetime(range(len(frame)), unit="s", utc=True)
    return frame.assign(status="FINISHED", seconds=10.0, name="run", error="", pruned=False)


def make_sweep(
    uri: str,
    jobs: Sequence[Job],
    status: Callable[[Job], str] = lambda job: "FINISHED",
    points: Callable[[Job], list[Metric]] = points_of,
    objective: str = "val/accuracy",
    name: str = "momentum",
    error: str = "FloatingPointError: loss is nan in epoch 2",
    artifacts: str | None = None,
) -> str:
    """Writes a sweep's runs into the store. Returns: the id of the parent run."""
    client = store.connect(uri)
    found = client.get_experiment_by_name("sweeps")
    experiment = found.experiment_id if found else client.create_experiment("sweeps", artifacts)
    axes = list(dict.fromkeys(axis for job in jobs for axis in job))
    tags = {
        "lenet.sweep": "grid",
        "lenet.sweep.axes": json.dumps(axes),
        "lenet.sweep.objective": objective,
    }
    parent = client.create_run(experiment, tags=tags, run_name=name)
    parent_id = str(parent.info.run_id)
    for number, job in enumerate(jobs):
        own = {"mlflow.parentRunId": parent_id, "lenet.sweep.job": json.dumps(job)}
        own["lenet.dataset.train"] = "1437"
        run = client.create_run(experiment, tags=own, run_name=" ".join(map(str, job.values())))
        ended = status(job)
        params = {"epochs": EPOCHS, "tracking.run_name": number, "device.threads": 2} | dict(job)
        if "seed" not in job:
            params["seed"] = 0
        client.log_batch(
            run.info.run_id,
            metrics=points(job) if ended == "FINISHED" else points(job)[:4],
            params=[Param(key, str(value)) for key, value in params.items()],
            tags=[RunTag("lenet.error", error)] if ended == "FAILED" else [],
        )
        if ended != "RUNNING":
            client.set_terminated(run.info.run_id, ended)
    return parent_id
