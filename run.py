"""Compose a configuration, build its objects, train, evaluate, log. `python run.py --help`"""

from lenet.cli.screen import Ready, getting_ready
from lenet.training import startup

startup.start_process(__name__)

from omegaconf import DictConfig

from lenet.config.build import build, try_out
from lenet.config.hydra_errors import hydra_main
from lenet.sweeps.plugins import register
from lenet.tracking.recall import settings_of
from lenet.tracking.settings import Settings

register()


@hydra_main(__file__)
def main(cfg: DictConfig) -> float | None:
    started = startup.run_start()
    with getting_ready() as ready, settings_of(cfg, started) as settings:
        return train(settings, ready)


def train(settings: Settings, ready: Ready) -> float | None:
    """One run: its objective. It loads torch, after the check of the configuration."""
    from lenet.model import equip
    from lenet.tracking.records import setup_tags
    from lenet.training.evaluate import evaluate, score_lines
    from lenet.training.loop import epoch_line, fit
    from lenet.training.profiling import profiled
    from lenet.training.rng import seed_all
    from lenet.training.signals import Interrupt

    config, epochs = settings.config, settings.config["epochs"]
    device = build(config, "device")
    data = build(config, "data").to(device).distorted(build(config, "augment"))
    seed_all(config["seed"])
    model = build(config, "model", **data.inputs.model_arguments).to(device)
    try_out("model", model.eval(), next(iter(data.test))[0][:1])
    criterion = build(config, "loss", class_counts=data.class_counts)
    optimizer = build(config, "optimizer", model.parameters())
    schedule = build(config, "schedule", optimizer, epochs=epochs, steps_per_epoch=len(data.train))
    kernels = equip(model, device, config["device"]["kernels"])
    settings.check(setup := setup_tags(data, model, device, kernels))
    with Interrupt() as interrupt, build(config, "tracking", settings) as run:
        ready()
        print("\n".join(settings.opening(data, model, f"{device}, {kernels}")))
        run.log_setup(setup, data)
        checkpoints = build(config, "checkpoint", *run.checkpoint_arguments(data))
        with profiled(config["profile"]) as recording, interrupt.deferred():
            for record in fit(
                *(model, data.train, criterion, optimizer),
                epochs=epochs,
                schedule=schedule,
                clip_norm=config["clip_norm"],
                patience=config["patience"],
                log_interval=config["log_interval"],
                val=data.val,
                progress=True,
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
