"""`fit` trains as a plain loop does, and its sums are right where well-known loops are wrong."""

import itertools
import math
import time

import pytest
import torch
import torch.nn.functional as F
from IPython.display import HTML, DisplayHandle
from torch import nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from lenet.data.batches import Batches
from lenet.optim.schedule import cosine
from lenet.training.evaluate import evaluate
from lenet.training.loop import epoch_line, fit
from lenet.training.progress import Diverged, Epoch
from tests.conftest import LIMIT
from tests.support.terminal import make_terminal

MEAN = F.cross_entropy


def examples(count=22):
    random = torch.Generator().manual_seed(0)
    return torch.randn(count, 6, generator=random), torch.randint(3, (count,), generator=random)


def batches_of(count=22, size=4, seed=7):
    return Batches(*examples(count), size, seed)


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def sgd(model, lr=0.1, momentum=0.9):
    return SGD(model.parameters(), lr=lr, momentum=momentum)


def weights(model):
    return [p.detach().clone() for p in model.state_dict().values()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def fitted(model=None, batches=None, epochs=2, criterion=MEAN, optimizer=None, **options):
    model = model or small()
    batches = batches_of() if batches is None else batches
    return list(fit(model, batches, criterion, optimizer or sgd(model), epochs=epochs, **options))


def by_hand(model, batches, epochs):
    """The plain loop of every tutorial. Returns (loss, batch size) of each step, by epoch."""
    optimizer = sgd(model)
    history = []
    for epoch in range(1, epochs + 1):
        if hasattr(batches, "set_epoch"):
            batches.set_epoch(epoch)
        steps = []
        for inputs, labels in batches:
            optimizer.zero_grad()
            loss = MEAN(model(inputs), labels)
            loss.backward()
            optimizer.step()
            steps.append((loss.item(), len(labels)))
        history.append(steps)
    return history


class Scripted:
    """A criterion whose values are given, whatever the model says."""

    def __init__(self, *losses):
        self.losses = iter(losses)

    def __call__(self, logits, labels):
        return 0 * logits.sum() + next(self.losses)


class Stop:
    """True from the `after`-th optimizer step on."""

    def __init__(self, optimizer, after):
        self.steps, self.after = 0, after
        optimizer.register_step_post_hook(self.count)

    def count(self, *_):
        self.steps += 1

    def __call__(self):
        return self.steps >= self.after


@pytest.mark.parametrize("log_interval", [1, 3, 100])
def test_weights_and_sums_are_the_plain_loops(log_interval):
    ours, theirs = small(), small()
    records = fitted(ours, epochs=3, log_interval=log_interval)
    history = by_hand(theirs, batches_of(), 3)
    assert same(weights(ours), weights(theirs))
    assert [record.epoch for record in records] == [1, 2, 3]
    for record, steps in zip(records, history, strict=True):
        assert record.complete
        assert record.images_per_second == record.count / record.seconds
        total = sum(loss * count for loss, count in steps)
        assert record.loss_sum == pytest.approx(total, rel=1e-12)
        assert record.loss == pytest.approx(total / 22, rel=1e-12)


def test_each_logged_loss_is_the_mean_since_the_one_before():
    losses = [float(2**i) for i in range(12)]
    first, second = fitted(criterion=Scripted(*losses), log_interval=4)
    assert [number for number, _ in first.steps + second.steps] == [4, 6, 8, 12]
    means = [(1 + 2 + 4 + 8) / 4, (4 * 16 + 2 * 32) / 6]
    means += [(64 + 128) / 2, (4 * (256 + 512 + 1024) + 2 * 2048) / 14]
    assert [mean for _, mean in first.steps + second.steps] == pytest.approx(means)


def test_validation_is_scored_after_each_epoch():
    model, val = small(), batches_of(10, 4, None)
    for record in fit(model, batches_of(), MEAN, sgd(model), epochs=2, val=val):
        score = evaluate(model, val, MEAN)
        assert record.val.loss == score.loss
        assert torch.equal(record.val.confusion, score.confusion)
    assert fitted(epochs=1)[0].val is None


@pytest.mark.parametrize(
    "batches",
    [DataLoader(TensorDataset(*examples()), batch_size=4), list(Batches(*examples(), 4))],
    ids=["DataLoader", "list"],
)
def test_any_iterable_of_batches_can_be_trained_on(batches):
    """Neither has set_epoch."""
    ours, theirs = small(), small()
    records = fitted(ours, batches)
    by_hand(theirs, batches, 2)
    assert same(weights(ours), weights(theirs))
    assert [record.count for record in records] == [22, 22]


def test_no_batch_is_an_error_before_the_first_epoch():
    with pytest.raises(ValueError, match="batches: expected at least one, got none"):
        fitted(batches=[])


class Watched(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.modes = small(), []

    def forward(self, x):
        self.modes.append(self.training)
        return self.inner(x)


def test_each_epoch_trains_in_train_mode_whatever_came_between():
    model = Watched().eval()
    seen = []
    for _ in fit(model, batches_of(), MEAN, sgd(model), epochs=3, val=batches_of(4, 4, None)):
        seen.append(model.modes)
        model.modes = []
        model.eval()  # as one who looks at predictions between epochs would
    assert seen == [[True] * 6 + [False]] * 3


def test_the_schedule_is_stepped_once_after_each_optimizer_step():
    model = small()
    optimizer = sgd(model, lr=0.3)
    schedule = cosine(optimizer, epochs=2, steps_per_epoch=6, warmup_epochs=0.5)
    plain = sgd(small(), lr=0.3)
    expected, used = [], []
    alone = cosine(plain, epochs=2, steps_per_epoch=6, warmup_epochs=0.5)
    for _ in range(12):
        expected.append(plain.param_groups[0]["lr"])
        plain.step()
        alone.step()
    optimizer.register_step_pre_hook(lambda o, *_: used.append(o.param_groups[0]["lr"]))
    records = fitted(model, optimizer=optimizer, schedule=schedule)
    assert used == expected
    assert [record.learning_rate for record in records] == [used[5], used[11]]


def test_clip_norm_bounds_the_update_over_all_parameters():
    """SGD at lr 1 without momentum moves by exactly the gradient."""

    def moved(clip_norm):
        model = small()
        before = weights(model)
        batches = [(1000 * inputs, labels) for inputs, labels in batches_of(4, 4)]
        optimizer = sgd(model, lr=1.0, momentum=0.0)
        fitted(model, batches, 1, optimizer=optimizer, clip_norm=clip_norm)
        steps = [after - b for after, b in zip(weights(model), before, strict=True)]
        return math.sqrt(sum(float(step.double().square().sum()) for step in steps))

    free = moved(None)
    assert free > 0.5
    assert moved(0.25) == pytest.approx(0.25, rel=1e-4)
    assert moved(10 * free) == pytest.approx(free, rel=1e-6)


@pytest.mark.parametrize(
    ("bad", "place", "log_interval"),
    [(math.nan, 1, 100), (math.inf, 3, 4), (-math.inf, 8, 4)],
)
def test_divergence_names_the_first_step_that_was_not_finite(bad, place, log_interval):
    losses = [1.0] * (place - 1) + [bad] + [1.0, math.nan, math.inf, 1.0] * 5
    with pytest.raises(Diverged) as caught:
        fitted(criterion=Scripted(*losses), log_interval=log_interval)
    assert str(caught.value) == f"the training loss is {bad} at optimizer step {place}"


def val_losses(*losses):
    """A criterion for training and validation both: in evaluation, the given values in turn."""
    given = iter(losses)

    def criterion(logits, labels):
        return MEAN(logits, labels) if torch.is_grad_enabled() else torch.tensor(next(given))

    return criterion


def patient(losses, epochs=9, **options):
    """Trains on scripted validation losses; gives the weights after each epoch and at the end."""
    model, val = small(), batches_of(4, 4, None)
    args = model, batches_of(), val_losses(*losses), sgd(model)
    after = [weights(model) for _ in fit(*args, epochs=epochs, val=val, **options)]
    return after, weights(model)


@pytest.mark.parametrize(
    ("losses", "patience", "epochs", "best"),
    [
        ([3.0, 2.0, 2.5, 2.4, 9.0], 2, 4, 2),
        ([1.0, 1.0], 1, 2, 1),  # the same is no improvement
        ([3.0, math.nan, math.nan], 2, 3, 1),
        ([3.0, 1.0, 2.0], 5, 3, 2),  # it never runs out
    ],
)
def test_patience_ends_the_training_with_the_weights_of_the_best_epoch(
    losses, patience, epochs, best
):
    after, final = patient([*losses, 7.0, 7.0], min(9, epochs), patience=patience)
    assert len(after) == epochs
    assert same(final, after[best - 1])
    assert not any(same(final, other) for i, other in enumerate(after) if i != best - 1)


def test_patience_without_a_validation_set_is_an_error():
    with pytest.raises(ValueError, match=r"patience.*data\.val_size"):
        fitted(patience=2)


@pytest.mark.parametrize(
    ("after", "counts", "complete"),
    [(11, [22, 20], [True, False]), (6, [22], [True]), (12, [22, 22], [True, True])],
)
def test_a_stop_ends_the_training_at_that_step(after, counts, complete):
    model = small()
    optimizer = sgd(model)
    stop = Stop(optimizer, after)
    records = fitted(model, epochs=3, optimizer=optimizer, stop=stop)
    assert stop.steps == after
    assert [record.count for record in records] == counts
    assert [record.complete for record in records] == complete
    assert records[-1].steps[-1][0] == after


def test_a_stop_between_epochs_is_the_end():
    asked, records = [], []
    model = small()
    for record in fit(model, batches_of(), MEAN, sgd(model), epochs=5, stop=lambda: bool(asked)):
        records.append(record)
        if record.epoch == 2:
            asked.append(True)
    assert [record.complete for record in records] == [True, True]


def test_a_stop_keeps_the_last_weights_for_a_resume():
    """Patience puts back the best at the end of a training; a stopped one has not ended."""
    asked = iter([False] * 14 + [True] * 9)
    after, final = patient([1.0, 2.0, 3.0], patience=5, stop=lambda: next(asked))
    assert same(final, after[-1])
    assert not same(after[0], after[-1])


@pytest.mark.parametrize("columns", ["30", "80"])
def test_a_progress_bar_takes_one_line_of_any_terminal_and_is_gone_at_the_end(
    columns, capsys, monkeypatch
):
    make_terminal(monkeypatch, columns)
    fitted(progress=True, log_interval=2)
    out, err = capsys.readouterr()
    assert out == ""
    assert all(part in err for part in ("Epoch 1/2", "Epoch 2/2", "/6"))
    up_and_erase = "\r\x1b[1A\x1b[2K"  # a line that is left goes at the end
    assert err.count("\n") == err.count(up_and_erase) == 2
    monkeypatch.undo()
    fitted(progress=True)  # in a pipe
    fitted()
    assert capsys.readouterr() == ("", "")


def test_a_progress_bar_in_a_notebook_fills_and_is_gone_at_the_end(capsys, monkeypatch):
    shell = type("ZMQInteractiveShell", (), {"execution_count": 1})()
    shown = []
    monkeypatch.setattr("builtins.get_ipython", lambda: shell, raising=False)
    monkeypatch.setattr("lenet.cli.cell.get_ipython", lambda: shell)
    monkeypatch.setattr(DisplayHandle, "display", lambda self, it: shown.append("new place"))
    monkeypatch.setattr(DisplayHandle, "update", lambda self, it: shown.append(as_text(it)))
    monkeypatch.setattr("lenet.cli.cell.PAUSE", 0.001)

    calls = itertools.count(1)

    def is_stopped():  # called after each of six steps, and after the epoch, when the bar is gone
        count, end = len(shown), time.monotonic() + (LIMIT if next(calls) % 7 else 0)
        while len(shown) < count + 2 and time.monotonic() < end:
            time.sleep(0.001)
        return False

    fitted(progress=True, stop=is_stopped)
    assert shown.count("new place") == 1
    for epoch in (1, 2):
        for step in range(1, 6):
            assert any(f"Epoch {epoch}/2" in text and f"{step}/6" in text for text in shown)
    assert shown[-1] == ""
    assert capsys.readouterr() == ("", "")


def as_text(shown):
    return shown.data if isinstance(shown, HTML) else shown._repr_mimebundle_([], [])["text/plain"]


def test_an_epochs_line_is_in_percent_and_says_when_it_was_stopped():
    def record(**changes):
        values = {"epoch": 3, "loss_sum": 10.0, "correct": 30, "count": 40, "steps": []}
        values |= {"learning_rate": 0.1, "seconds": 2.0, "val": None, "complete": True}
        return Epoch(**values | changes)

    line = "Epoch  3/10  loss 0.2500  accuracy  75.00%  2.0 s, 20 images/s"
    assert epoch_line(record(), 10) == line
    assert epoch_line(record(complete=False), 10) == line + "  (stopped before its end)"
    val = evaluate(small(), batches_of(10, 4, None), MEAN)
    with_val = f"val loss {val.loss:.4f}  val accuracy {val.accuracy:7.2%}"
    assert with_val in epoch_line(record(val=val), 10)
