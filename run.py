"""Compose a configuration, build its objects, train, evaluate, log. `python run.py --help`"""

import gc
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

STARTS = [time.time()]  # the first job's, imports included; a sweep's others start in main
gc.set_threshold(50_000, 20, 1000)  # Imports leave little to collect: looking took 1.5 s of 9.

import psutil
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lenet.config.build import build, try_out
from lenet.config.check import check
from lenet.config.hydra_errors import hydra_main
from lenet.config.overrides import config_folders, explicit_overrides
from lenet.config.record import config_hash, shown, tree_lines
from lenet.sweep.plugins import register

if TYPE_CHECKING:
    from lenet.tracking.resume import Past

psutil.cpu_percent()  # from here on, for `let_threads_wait`
CONF = Path(__file__).resolve().parent / "conf"
register()


@hydra_main(CONF)
def main(cfg: DictConfig) -> float | None:
    first = bool(STARTS)
    started = STARTS.pop() if first else time.time()
    config = check(cfg)
    overrides = list(HydraConfig.get().overrides.task)
    let_threads_wait()
    with ExitStack() as stack:
        past = None
        if config["resume"] or config["rerun"]:
            from lenet.tracking.resume import recall

            asked = explicit_overrides(config, overrides)
            past = stack.enter_context(recall(config, asked, config_folders()))
            config = past.config
        print("\n".join(["Configuration", *tree_lines(shown(config))]))
        return train(config, overrides, started, past, first)


def train(
    config: dict[str, Any], overrides: list[str], started: float, past: "Past | None", first: bool
) -> float | None:
    """One run. Returns: its objective."""
    # After the check, so that most mistakes are answered before torch and MLflow are read in.
    import torch

    from lenet.native import equip
    from lenet.training.evaluate import evaluate, score_lines
    from lenet.training.loop import epoch_line, fit
    from lenet.training.profiling import profiled, save_trace, table
    from lenet.training.rng import seed_all
    from lenet.training.signals import Interrupt

    device = build(config, "device")
    data = build(config, "data").to(device)
    if not (augment := build(config, "augment")).changes_nothing:
        data = data.distorted(augment)
    if past:
        past.check_here(data)
    seed_all(config["seed"])
    inputs = data.inputs
    model = build(config, "model", **inputs.model_arguments).to(device)
    side = inputs.image_size
    image = torch.zeros(1, inputs.in_channels, side, side, device=device)
    with torch.no_grad():
        try_out("model", model.eval(), image)
    kernels = equip(model, device, config["device"]["kernels"])
    criterion = build(config, "loss")
    optimizer = build(config, "optimizer", model.parameters())
    length = {"epochs": config["epochs"], "steps_per_epoch": len(data.train)}
    schedule = build(config, "schedule", optimizer, **length)
    print(f"{data.line()} on {device}, {kernels.name} kernels ({kernels.why})")

    with (
        Interrupt() as interrupt,
        build(config, "tracking", config, overrides, started, past) as run,
    ):
        run.log_setup(data, model, device, kernels)
        facts = {"config_sha256": config_hash(config), "inputs": inputs.to_values()}
        facts["data_sha256"] = data.sha256
        state = past.state if past else None
        folder = run.folder / "checkpoints"
        checkpoints = build(config, "checkpoint", folder, facts, run.log_checkpoint, state)
        history = list(past.history) if past else []
        if first:
            gc.freeze()  # what was imported stays, and is not looked through again
        with profiled(config["profile"]) as recording, interrupt.deferred():
            for record in fit(
                model,
                data.train,
                criterion,
                optimizer,
                epochs=config["epochs"],
                schedule=schedule,
                clip_norm=config["clip_norm"],
                val=data.val,
                patience=config["patience"],
                log_interval=config["log_interval"],
                progress=sys.stderr.isatty(),
                stop=lambda: interrupt() or run.pruned,
                checkpoints=checkpoints,
            ):
                history.append(record)
                run.log_epoch(record)
                print(epoch_line(record, config["epochs"]))
        if interrupt():
            run.end(history, model, checkpoints, killed=True)
            sys.exit(interrupt.exit_status)
        if run.pruned:
            run.end(history, model, checkpoints)
            return run.result

        score = evaluate(model, data.test, criterion)
        print("\n".join(score_lines(score, inputs.classes)))
        run.log_test(score, len(history))
        if recording:
            run.log_text(table(recording), "profile/table.txt")
            run.log_file(lambda path: save_trace(recording, path), "profile/trace.json")
        if run.pictures:
            from lenet.training.plots import gallery

            run.log_figures(gallery(model, data, history, score))
        if run.model:
            run.log_model(model, data, len(history))
        if run.register_as:
            run.register(data, history)
        run.end(history, model, checkpoints)
    if config["rerun"]:
        from lenet.tracking.compare import verdict

        print(verdict(config["rerun"], run))
    return run.result


def let_threads_wait() -> None:
    """Torch's threads wait for each other in a loop, which beside another busy process takes away
    the time it waits for. 20,000 turns reach from one parallel part of a step to the next; 1000
    are libgomp's own choice for crowded machines: a fifth slower alone, four times faster there.
    """
    others = psutil.cpu_percent() / 100 * (os.cpu_count() or 1) - 1  # cores that are not ours
    os.environ.setdefault("GOMP_SPINCOUNT", "1000" if others > 0.5 else "20000")


if __name__ == "__main__":
    try:
        main()
    finally:
        gc.freeze()  # Else the interpreter spends 2 s to free, object by object, what ends anyway.
