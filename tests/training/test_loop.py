"""The loop against one written out by hand, and the sums that well-known loops get wrong."""

import io
import math
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from lenet.data.sets import Batches, load
from lenet.model.lenet5 import LeNet5
from lenet.optim.schedule import cosine, one_cycle
from lenet.training.evaluate import evaluate
from lenet.training.loop import epoch_line, fit
from lenet.training.progress import Diverged, Epoch
from lenet.tutorial import train_model

MEAN = F.cross_entropy


def examples(count=22, seed=0):
    random = torch.Generator().manual_seed(seed)
    return (
        torch.randn(count, 6, generator=random),
        torch.randint(3, (count,), generator=random),
    )


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


def fitted(model=None, batches=None, epochs=2, criterion=MEAN, **options):
    model = model or small()
    batches = batches_of() if batches is None else batches
    optimizer = options.pop("optimizer", None) or sgd(model)
    return list(fit(model, batches, criterion, optimizer, epochs=epochs, **options))


def by_hand(model, batches, epochs):
    """The plain loop of every tutorial. Returns (loss, batch size) of each step, by epoch."""
    optimizer = sgd(model)
    history = []
    for epoch in range(1, epochs + 1):
        batches.set_epoch(epoch)
        model.train()
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


# ---- What a record says ----------------------------------------------------------------------


@pytest.mark.parametrize("log_interval", [1, 3, 100])
def test_weights_are_the_plain_loops_bit_for_bit(log_interval):
    ours, theirs = small(), small()
    records = fitted(ours, epochs=3, log_interval=log_interval)
    history = by_hand(theirs, batches_of(), 3)
    assert same(weights(ours), weights(theirs))
    for record, steps in zip(records, history, strict=True):
        total = sum(loss * count for loss, count in steps)
        assert record.loss_sum == pytest.approx(total, rel=1e-12)
        assert record.loss == pytest.approx(total / 22, rel=1e-12)


def test_lenet5_on_digits_trains_as_the_plain_loop_does():
    data = load("digits", root="unused", train_size=150, batch_size=64)
    torch.manual_seed(0)
    ours = LeNet5()
    theirs = LeNet5()
    theirs.load_state_dict(ours.state_dict())
    fitted(ours, data.train, epochs=2)
    by_hand(theirs, data.train, 2)
    assert same(weights(ours), weights(theirs))


def test_the_loss_is_the_mean_over_all_examples():
    """The tutorial's holds what came after the last log interval, divided by all batches."""
    losses = [8.0, 6.0, 4.0, 2.0, 1.0, 3.0]  # the last batch has 2 examples, the others 4
    (record,) = fitted(epochs=1, criterion=Scripted(*losses), log_interval=2)
    assert record.loss == pytest.approx((4 * (8 + 6 + 4 + 2 + 1) + 2 * 3) / 22)
    assert record.count == 22


def test_last_short_batch_weighs_by_its_size():
    (record,) = fitted(batches=batches_of(5, 4), epochs=1, criterion=Scripted(0.0, 10.0))
    assert record.loss_sum == 10.0
    assert record.loss == 2.0


def test_steps_hold_the_mean_since_the_last_one():
    losses = [float(2**i) for i in range(12)]
    first, second = fitted(criterion=Scripted(*losses), log_interval=4)
    assert [number for number, _ in first.steps] == [4, 6]
    assert [number for number, _ in second.steps] == [8, 12]
    assert [mean for _, mean in first.steps] == pytest.approx(
        [(1 + 2 + 4 + 8) / 4, (4 * 16 + 2 * 32) / 6]
    )
    assert [mean for _, mean in second.steps] == pytest.approx(
        [(64 + 128) / 2, (4 * (256 + 512 + 1024) + 2 * 2048) / 14]
    )


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(1, 30),
    size=st.integers(1, 12),
    epochs=st.integers(1, 3),
    log_interval=st.integers(1, 20),
)
def test_every_example_is_in_exactly_one_point(count, size, epochs, log_interval):
    batches = batches_of(count, size)
    records = fitted(batches=batches, epochs=epochs, log_interval=log_interval)
    ends = [0]
    for record in records:
        assert record.count == count
        assert 0 <= record.correct <= count
        total = 0.0
        for number, mean in record.steps:
            steps = range(ends[-1] + 1, number + 1)
            places = [(step - 1) % len(batches) for step in steps]
            total += mean * sum(min(size, count - place * size) for place in places)
            ends.append(number)
        assert total == pytest.approx(record.loss_sum, rel=1e-9, abs=1e-9)
        assert ends[-1] == record.epoch * len(batches)
    logged = {step for step in range(1, ends[-1] + 1) if step % log_interval == 0}
    epoch_ends = {epoch * len(batches) for epoch in range(1, epochs + 1)}
    assert ends[1:] == sorted(logged | epoch_ends)


def test_correct_counts_what_was_predicted_before_each_step():
    model, expected = small(), 0
    batches = batches_of()
    optimizer = sgd(model)
    batches.set_epoch(1)
    for inputs, labels in batches:
        expected += sum(
            int(row.argmax()) == int(label)
            for row, label in zip(model(inputs), labels, strict=True)
        )
        optimizer.zero_grad()
        MEAN(model(inputs), labels).backward()
        optimizer.step()
    (record,) = fitted(epochs=1)
    assert record.correct == expected
    assert record.accuracy == expected / 22
    assert 0 < expected < 22


def test_epochs_are_numbered_from_one_and_timed():
    records = fitted(epochs=3)
    assert [record.epoch for record in records] == [1, 2, 3]
    assert all(record.seconds > 0 and record.complete for record in records)
    assert records[0].images_per_second == records[0].count / records[0].seconds


def test_validation_is_scored_after_each_epoch_and_is_not_timed():
    model, val = small(), batches_of(10, 4, None)
    for record in fit(model, batches_of(), MEAN, sgd(model), epochs=2, val=val):
        score = evaluate(model, val, MEAN)
        assert record.val.loss == score.loss
        assert torch.equal(record.val.confusion, score.confusion)


def test_without_a_validation_set_there_is_no_score():
    assert fitted(epochs=1)[0].val is None


def test_a_dataloader_will_do():
    """It has no set_epoch, no count; its order is its own."""
    loader = DataLoader(TensorDataset(*examples()), batch_size=4)
    ours, theirs = small(), small()
    records = fitted(ours, loader, progress=True)
    by_hand(theirs, Batches(*examples(), 4), 2)
    assert same(weights(ours), weights(theirs))
    assert [record.count for record in records] == [22, 22]


def test_a_list_of_batches_will_do(capsys):
    """A list has an attribute `count` too, and it is no number."""
    parts = list(Batches(*examples(), 4))
    ours, theirs = small(), small()
    fitted(ours, parts, progress=True)
    by_hand(theirs, Batches(*examples(), 4), 2)
    assert same(weights(ours), weights(theirs))
    assert " images" in capsys.readouterr().err


def test_no_batch_is_an_error_before_the_first_epoch():
    for batches in ([], DataLoader(TensorDataset(*examples(3)), batch_size=4, drop_last=True)):
        with pytest.raises(ValueError, match="batches: expected at least one, got none"):
            fitted(batches=batches)


def test_no_epochs_leave_the_model():
    model = small()
    before = weights(model)
    assert fitted(model, epochs=0) == []
    assert same(weights(model), before)


# ---- Modes, seeds, order ---------------------------------------------------------------------


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
    val = batches_of(4, 4, None)
    for _ in fit(model, batches_of(), MEAN, sgd(model), epochs=3, val=val):
        seen.append(model.modes)
        model.modes = []
        model.eval()  # as one who looks at predictions between epochs would
    assert seen == [[True] * 6 + [False]] * 3


def test_gradients_do_not_add_up_over_steps():
    model = small()
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e6)
    other = small()
    fitted(model, epochs=1)
    fitted(other, epochs=1)
    assert same(weights(model), weights(other))


def test_a_seed_gives_the_same_bits_and_another_seed_others():
    def run(seed, order):
        model = small(seed)
        records = fitted(model, batches_of(seed=order))
        return weights(model), [record.loss_sum for record in records]

    first, again = run(1, 1), run(1, 1)
    assert same(first[0], again[0])
    assert first[1] == again[1]
    for other in (run(2, 1), run(1, 2)):
        assert not same(first[0], other[0])
        assert first[1] != other[1]


class Later:
    """Batches of a training that has `done` epochs behind it."""

    def __init__(self, batches, done):
        self.batches, self.done = batches, done

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)

    def set_epoch(self, epoch):
        self.batches.set_epoch(self.done + epoch)


def test_a_resumed_epoch_is_the_uninterrupted_one_bit_for_bit():
    """The order of epoch 3 follows from (seed, 3) alone, not from what was drawn before."""
    whole = small()
    third = fitted(whole, epochs=3)[2]

    model = small()
    optimizer = sgd(model)
    fitted(model, epochs=2, optimizer=optimizer)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}

    torch.manual_seed(999)
    resumed = small(5)
    resumed.load_state_dict(state["model"])
    optimizer = sgd(resumed)
    optimizer.load_state_dict(state["optimizer"])
    torch.rand(100)
    (record,) = fitted(resumed, Later(batches_of(), 2), epochs=1, optimizer=optimizer)
    assert same(weights(resumed), weights(whole))
    assert record.loss_sum == third.loss_sum
    again = small()
    fitted(again, epochs=2)
    assert not same(weights(again), weights(whole))


def test_epochs_differ_in_order_and_every_example_comes_once():
    batches = Batches(torch.arange(20.0)[:, None], torch.arange(20), 6, seed=3)
    orders = []
    for epoch in (1, 2, 1):
        batches.set_epoch(epoch)
        orders.append([int(label) for _, labels in batches for label in labels])
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(20))


# ---- Schedules, clipping ---------------------------------------------------------------------


class CountingSchedule:
    def __init__(self):
        self.steps = 0

    def step(self):
        self.steps += 1


def test_the_schedule_is_stepped_once_after_each_optimizer_step():
    model = small()
    optimizer, schedule, lags = sgd(model), CountingSchedule(), []
    optimizer.register_step_pre_hook(lambda *_: lags.append(schedule.steps))
    fitted(model, optimizer=optimizer, schedule=schedule)
    assert lags == list(range(12))
    assert schedule.steps == 12


def test_the_recorded_rate_is_the_one_the_last_step_used():
    model = small()
    optimizer = sgd(model, lr=0.3)
    used = []
    optimizer.register_step_pre_hook(lambda o, *_: used.append(o.param_groups[0]["lr"]))
    schedule = cosine(optimizer, epochs=2, steps_per_epoch=6, warmup_epochs=0.5)
    records = fitted(model, optimizer=optimizer, schedule=schedule)
    assert [record.learning_rate for record in records] == [used[5], used[11]]
    assert used[11] == pytest.approx(0, abs=1e-9)


def test_one_cycle_is_as_long_as_the_training():
    model = small()
    optimizer = sgd(model)
    schedule = one_cycle(optimizer, epochs=3, steps_per_epoch=6)
    records = fitted(model, epochs=3, optimizer=optimizer, schedule=schedule)
    assert records[-1].learning_rate == pytest.approx(0.1 / 25 / 1e4)
    with pytest.raises(ValueError, match="Tried to step 19 times"):
        schedule.step()


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


# ---- Divergence ------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("place", "log_interval"),
    [(1, 100), (1, 1), (3, 4), (4, 4), (5, 4), (6, 4), (6, 100), (8, 4), (11, 4), (12, 12)],
)
def test_divergence_names_the_first_step_that_was_not_finite(bad, place, log_interval):
    losses = [1.0] * (place - 1) + [bad] + [1.0, math.nan, math.inf, 1.0] * 5
    with pytest.raises(Diverged) as caught:
        fitted(criterion=Scripted(*losses), log_interval=log_interval)
    assert str(caught.value) == f"the training loss is {bad} at optimizer step {place}"


def test_divergence_is_noticed_at_the_next_log_interval():
    model = small()
    optimizer = sgd(model)
    stop = Stop(optimizer, 10**9)
    with pytest.raises(Diverged):
        fitted(
            model,
            epochs=1,
            criterion=Scripted(1, math.nan, 1, 1),
            log_interval=2,
            optimizer=optimizer,
        )
    assert stop.steps == 2


def test_epochs_before_a_divergence_have_been_given():
    model = small()
    records = fit(
        model, batches_of(), Scripted(*[1.0] * 6, math.nan, *[1.0] * 5), sgd(model), epochs=2
    )
    assert next(records).loss == 1.0
    with pytest.raises(Diverged, match=r"nan at optimizer step 7$"):
        next(records)


def test_a_real_divergence_is_found():
    model = small()
    with pytest.raises(Diverged, match=r"at optimizer step \d+$"):
        fitted(model, epochs=9, optimizer=sgd(model, lr=1e38))


def test_the_bar_is_gone_before_a_divergence_is_reported(capsys):
    with pytest.raises(Diverged):
        fitted(criterion=Scripted(1, 1, math.nan, 1, 1, 1), progress=True)
    assert capsys.readouterr().err.endswith("\r")


# ---- Patience --------------------------------------------------------------------------------


def val_losses(*losses):
    """A criterion for training and validation both: in evaluation, the given values in turn."""
    given = iter(losses)

    def criterion(logits, labels):
        return MEAN(logits, labels) if torch.is_grad_enabled() else torch.tensor(next(given))

    return criterion


def patient(losses, patience, epochs=9):
    """Trains on scripted validation losses; gives the records and the weights after each."""
    model, after = small(), []
    val = batches_of(4, 4, None)
    records = fit(
        model,
        batches_of(),
        val_losses(*losses),
        sgd(model),
        epochs=epochs,
        val=val,
        patience=patience,
    )
    seen = [(record, after.append(weights(model)))[0] for record in records]
    return seen, after, weights(model)


@pytest.mark.parametrize(
    ("losses", "patience", "epochs", "best"),
    [
        ([3.0, 2.0, 2.5, 2.4, 9.0], 2, 4, 2),
        ([3.0, 2.0, 2.5, 1.0, 1.5, 1.5, 1.5], 3, 7, 4),
        ([1.0, 1.0], 1, 2, 1),  # the same is no improvement
        ([3.0, math.nan, math.nan], 2, 3, 1),
    ],
)
def test_patience_ends_the_training_with_the_weights_of_the_best_epoch(
    losses, patience, epochs, best
):
    records, after, final = patient([*losses, 7.0, 7.0], patience)
    assert len(records) == epochs
    assert same(final, after[best - 1])
    assert not same(final, after[-1])


def test_patience_that_never_runs_out_restores_the_best_too():
    records, after, final = patient([3.0, 1.0, 2.0], patience=5, epochs=3)
    assert len(records) == 3
    assert same(final, after[1])


def test_a_training_that_improves_to_the_end_keeps_its_last_weights():
    records, after, final = patient([3.0, 2.0, 1.0], patience=1, epochs=3)
    assert len(records) == 3
    assert same(final, after[2])


def test_without_patience_the_last_weights_stay():
    _, after, final = patient([1.0, 2.0, 3.0], patience=None, epochs=3)
    assert same(final, after[2])


def test_patience_without_a_validation_set_is_an_error():
    model = small()
    before = weights(model)
    with pytest.raises(ValueError, match=r"patience.*data\.val_size"):
        fitted(model, patience=2)
    assert same(weights(model), before)


# ---- Stopping --------------------------------------------------------------------------------


def stopped(after, epochs=3, **options):
    model = small()
    optimizer = sgd(model)
    stop = Stop(optimizer, after)
    records = fitted(model, epochs=epochs, optimizer=optimizer, stop=stop, **options)
    return records, stop, model


@pytest.mark.parametrize(
    ("after", "counts", "ends"),
    [
        (1, [4], [1]),
        (4, [16], [4]),
        (7, [22, 4], [6, 7]),
        (11, [22, 20], [6, 11]),
    ],
)
def test_a_stop_ends_the_epoch_at_that_step_and_is_the_last(after, counts, ends):
    records, stop, _ = stopped(after)
    assert stop.steps == after
    assert [record.count for record in records] == counts
    assert [record.steps[-1][0] for record in records] == ends
    assert [record.complete for record in records] == [True] * (len(counts) - 1) + [False]
    assert records[-1].steps[-1][1] > 0


@pytest.mark.parametrize("after", [6, 12])
def test_a_stop_at_an_epochs_last_step_leaves_it_complete(after):
    records, stop, _ = stopped(after)
    assert stop.steps == after
    assert len(records) == after // 6
    assert all(record.complete and record.count == 22 for record in records)


def test_a_stopped_epochs_means_are_over_what_it_saw():
    model = small()
    optimizer = sgd(model)
    stop = Stop(optimizer, 3)
    criterion = Scripted(1.0, 2.0, 6.0)
    (record,) = fitted(model, optimizer=optimizer, stop=stop, criterion=criterion)
    assert record.loss == 3.0
    assert record.steps == [(3, 3.0)]


def test_a_stop_between_epochs_is_the_end():
    asked = []
    model = small()
    records = []
    for record in fit(model, batches_of(), MEAN, sgd(model), epochs=5, stop=lambda: bool(asked)):
        records.append(record)
        if record.epoch == 2:
            asked.append(True)
    assert [record.complete for record in records] == [True, True]


def test_a_stop_keeps_the_last_weights_for_a_resume():
    """Patience puts back the best at the end of a training; a stopped one has not ended."""
    model = small()
    optimizer = sgd(model)
    stop = Stop(optimizer, 15)
    val = batches_of(4, 4, None)
    criterion = val_losses(1.0, 2.0, 3.0)
    options = {"val": val, "patience": 5, "stop": stop}
    records = fit(model, batches_of(), criterion, optimizer, epochs=9, **options)
    after = [weights(model) for _ in records]
    assert len(after) == 3
    assert same(weights(model), after[-1])
    assert not same(after[0], after[-1])


def test_leaving_the_loop_early_leaves_a_usable_model():
    model = small()
    for record in fit(model, batches_of(), MEAN, sgd(model), epochs=9, progress=False):
        if record.epoch == 2:
            break
    other = small()
    fitted(other, epochs=2)
    assert same(weights(model), weights(other))


def test_leaving_the_loop_early_takes_patiences_weights_as_they_are():
    model = small()
    val = batches_of(4, 4, None)
    records = fit(
        model, batches_of(), val_losses(1.0, 2.0), sgd(model), epochs=9, val=val, patience=5
    )
    next(records)
    next(records)
    last = weights(model)
    records.close()
    assert same(weights(model), last)


# ---- What is printed -------------------------------------------------------------------------


def test_a_progress_bar_appears_where_asked_for_and_is_gone_at_the_end(capsys):
    fitted(progress=True, log_interval=2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Epoch 1/2" in err
    assert "Epoch 2/2" in err
    assert f"/{len(examples()[1])}.0 [" in err
    assert "images/s" in err
    assert "\n" not in err
    assert err.endswith("\r")


def test_no_progress_bar_appears_where_not(capsys):
    fitted()
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def trained(**options):
    model = small()
    return model, train_model(
        model, batches_of(), nn.CrossEntropyLoss(), sgd(model), "cpu", **options
    )


def test_train_model_prints_a_line_an_epoch_and_no_bar_where_there_is_no_terminal(capsys):
    trained(num_epochs=3)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "Epoch 1/3",
        "Epoch 2/3",
        "Epoch 3/3",
        "Finished Training",
    ]
    assert err == ""


def test_train_model_shows_a_bar_on_a_terminal(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    trained(num_epochs=1)
    assert "Epoch 1/1" in terminal.getvalue()
    assert capsys.readouterr().out.endswith("Finished Training\n")


def test_train_model_gives_the_model_and_a_loss_an_epoch():
    model, (returned, history) = trained(num_epochs=4, log_interval=2)
    assert returned is model
    theirs = small()
    steps = by_hand(theirs, batches_of(), 4)
    assert history == pytest.approx([sum(loss * n for loss, n in e) / 22 for e in steps])
    assert same(weights(model), weights(theirs))


def test_train_model_runs_the_tutorials_ten_epochs_unless_told(capsys):
    _, (_, history) = trained()
    assert len(history) == 10
    assert "Epoch  1/10" in capsys.readouterr().out


def test_train_model_takes_the_tutorials_positional_arguments():
    model = small()
    loader = DataLoader(TensorDataset(*examples()), batch_size=4, shuffle=True)
    criterion = nn.CrossEntropyLoss()
    _, history = train_model(model, loader, criterion, sgd(model), torch.device("cpu"), 2, 100)
    assert len(history) == 2


def test_an_epochs_line_is_in_percent_and_says_when_it_was_stopped():
    record = Epoch(10.0, 30, 40, 3, [(5, 0.25)], 0.1, 2.0, None, True)
    line = "Epoch  3/10  loss 0.2500  accuracy  75.00%  2.0 s, 20 images/s"
    assert epoch_line(record, 10) == line
    part = Epoch(10.0, 30, 40, 3, [(5, 0.25)], 0.1, 2.0, None, False)
    assert epoch_line(part, 10) == line + "  (stopped before its end)"


def test_an_epochs_line_has_the_validation_figures():
    val = evaluate(small(), batches_of(10, 4, None), MEAN)
    line = epoch_line(Epoch(1.0, 1, 2, 1, [], 0.1, 1.0, val, True), 1)
    assert f"val loss {val.loss:.4f}  val accuracy {val.accuracy:7.2%}" in line


# ---- Real data -------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_epoch_of_the_tutorials_recipe_learns_mnist(mnist_root):
    """One epoch reaches about 96.5 % (the seeds' spread is about 0.3)."""
    data = load("mnist", root=str(mnist_root), download=False)
    torch.manual_seed(0)
    model = LeNet5()
    (record,) = fitted(model, data.train, epochs=1, optimizer=sgd(model, lr=0.01))
    assert record.count == 60_000
    assert [number for number, _ in record.steps] == [*range(100, 901, 100), 938]
    assert record.loss < 0.6
    assert evaluate(model, data.test, MEAN).accuracy > 0.95
