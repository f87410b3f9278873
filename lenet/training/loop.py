"""The training loop: `fit` is a generator of one record an epoch. The caller says what to do
with each record.
"""

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor, nn
from torch.optim import Optimizer

from lenet.training.checkpoints import Checkpoints
from lenet.training.epoch import Loader, Schedule, Step, progress_bar, take_steps
from lenet.training.evaluate import Criterion, evaluate
from lenet.training.progress import Epoch, Progress
from lenet.training.state import restore, state_of


def fit(
    model: nn.Module,
    batches: Loader,
    criterion: Criterion,
    optimizer: Optimizer,
    *,
    epochs: int,
    schedule: Schedule | None = None,
    clip_norm: float | None = None,
    val: Iterable[tuple[Tensor, Tensor]] | None = None,
    patience: int | None = None,
    log_interval: int = 100,
    progress: bool = False,
    stop: Callable[[], bool] = lambda: False,
    checkpoints: Checkpoints | None = None,
) -> Iterator[Epoch]:
    """Trains the model on its own device, and yields a record after each epoch.

    `criterion` returns a batch's mean. Where `batches` has `set_epoch`, it gets the epoch's number,
    from 1. `patience` ends the training after that many epochs without a lower validation loss
    and puts the best weights back. Once `stop()` is true, the training ends at that step and the
    last record says so. With a state in `checkpoints`, and the other arguments made anew, the
    training goes on as if it had never been interrupted: `batches` must give the same again.

    Raises: Diverged at the log interval after a loss that is not finite; ValueError for patience
    without `val`, or no batch at all; StateError for a state of another training.
    """
    if patience is not None and val is None:
        raise ValueError("patience: early stopping needs a validation set (data.val_size)")
    if len(batches) == 0:
        raise ValueError("batches: expected at least one, got none")
    step, at = Step(model, criterion, optimizer, schedule, clip_norm), Progress(len(batches))
    if checkpoints and checkpoints.state:
        at = restore(checkpoints.state, step, epochs, len(batches))
        checkpoints.save(state_of(at, step, epochs))  # it may have come from another machine
    while at.epochs < epochs and not at.is_exhausted(patience):
        stopped = False
        with progress_bar(at, epochs, is_shown=progress) as update:
            for _ in take_steps(step, batches, at, log_interval):
                update()
                stopped, has_ended = stop(), at.batches == len(batches)
                if checkpoints and not has_ended and (stopped or checkpoints.is_due()):
                    checkpoints.save(state_of(at, step, epochs))
                if stopped:
                    break
            at.tally.add_point(at.step)
        complete = not stopped or at.batches == len(batches)
        score = evaluate(model, val, criterion) if val is not None and complete else None
        record = at.record(score, complete)
        yield record
        if not complete:
            return
        at.end_epoch(record, model, patience)
        stopped = stop()
        is_last = stopped or at.epochs == epochs or at.is_exhausted(patience)
        if checkpoints and (is_last or checkpoints.is_due(at.epochs)):
            checkpoints.save(state_of(at, step, epochs))
        if stopped:
            return
    if at.best_model is not None:
        model.load_state_dict(at.best_model)


def epoch_line(record: Epoch, epochs: int) -> str:
    """An epoch in one line, percent for people."""
    width = len(str(epochs))
    line = (
        f"Epoch {record.epoch:>{width}}/{epochs}  loss {record.loss:.4f}"
        f"  accuracy {record.accuracy:7.2%}"
    )
    if record.val is not None:
        line += f"  val loss {record.val.loss:.4f}  val accuracy {record.val.accuracy:7.2%}"
    line += f"  {record.seconds:.1f} s, {record.images_per_second:,.0f} images/s"
    return line if record.complete else line + "  (stopped before its end)"
