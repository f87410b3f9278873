"""Compose a configuration, build its objects, train, evaluate, log. `python run.py --help`"""

import sys
from pathlib import Path

from lenet.training import startup

startup.start_process()

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lenet.config.build import build, try_out
from lenet.config.check import check
from lenet.config.hydra_errors import hydra_main
from lenet.sweep.plugins import register
from lenet.tracking.recall import recall
from lenet.tracking.settings import Settings

register()


@hydra_main(Path(__file__).resolve().parent / "conf")
def main(cfg: DictConfig) -> float | None:
    overrides = list(HydraConfig.get().overrides.task)
    with recall(Settings(check(cfg), overrides, startup.start_run())) as settings:
        return train(settings)


def train(settings: Settings) -> float | None:
    """One run: its objective. It loads torch and MLflow, after the check of the configuration."""
    from lenet.native import equip
    from lenet.tracking.records import setup_tags
    from lenet.training.evaluate import evaluate, score_lines
    from lenet.training.loop import epoch_line, fit
    from lenet.training.profiling import profiled
    from lenet.training.rng import seed_all
    from lenet.training.signals import Interrupt

    config, epochs = settings.config, settings.epochs
    device = build(config, "device")
    data = build(config, "data").to(device).distorted(build(config, "augment"))
    seed_all(config["seed"])
    model = build(config, "model", **data.inputs.model_arguments).to(device)
    try_out("model", model.eval(), next(iter(data.test))[0][:1])
    criterion = build(config, "loss")
    optimizer = build(config, "optimizer", model.parameters())
    schedule = build(config, "schedule", optimizer, epochs=epochs, steps_per_epoch=len(data.train))
    kernels = equip(model, device, config["device"]["kernels"])
    settings.check(setup := setup_tags(data, model, device, kernels))
    with Interrupt() as interrupt, build(config, "tracking", settings) as run:
        print(*settings.opening, f"{data.line()} on {device}, {kernels}", sep="\n")
        run.log_setup(setup, data)
        checkpoints = build(config, "checkpoint", *run.checkpoint_arguments(data))
        with profiled(config["profile"]) as recording, interrupt.deferred():
            for record in fit(
                *(model, data.train, criterion, optimizer),
                epochs=epochs,
                schedule=schedule,
                clip_norm=config["clip_norm"],
                patience=settings.patience,
                log_interval=settings.log_interval,
                val=data.val,
                progress=sys.stderr.isatty(),
                stop=lambda: interrupt() or run.pruned,
                checkpoints=checkpoints,
            ):
                run.log_epoch(record)
                print(epoch_line(record, epochs))
        run.log_training(checkpoints.cost, recording)
        interrupt.exit_if_stopped()
        if not run.pruned:
            score = evaluate(model, data.test, criterion)
            print("\n".join(score_lines(score, data.inputs.classes)))
            run.log_test(model, data, score)
    return run.result


if __name__ == "__main__":
    main()
