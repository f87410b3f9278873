"""A training resumed from any of its states ends with the same bits as an uninterrupted one."""

import io
import pydoc
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lenet.data.batches import Batches
from lenet.model import equip
from lenet.model.lenet5 import LeNet5
from lenet.training.epoch import Step
from lenet.training.loop import fit
from lenet.training.state import StateError, progress_of, restore, sets_rates_of
from tests.conftest import CONF
from tests.support.lab import as_bits

OPTIMIZERS, SCHEDULES = (
    # The others are settings of these.
    sorted(path.stem for path in (CONF / group).glob("*.yaml") if "_target_" in path.read_text())
    for group in ("optimizer", "schedule")
)
COUNT, SIZE, STEPS = 22, 4, 6  # examples, batch, batches an epoch: the last has two examples


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads that wait for each other take longer than all the arithmetic here."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Kept:
    """Keeps the state after every step, as a file holds it: a copy, and plain."""

    def __init__(self, state=None, is_due=True):
        self.state, self.due, self.contents = state, is_due, {}

    def is_due(self, epoch=None):
        return self.due

    def save(self, state):
        at, buffer = state["progress"], io.BytesIO()
        torch.save(state, buffer)
        self.contents[at["epochs"] * STEPS + at["batches"]] = buffer.getvalue()

    def after(self, steps):
        return torch.load(io.BytesIO(self.contents[steps]), weights_only=True)


def examples(count=COUNT):
    drawn = torch.Generator().manual_seed(0)
    return torch.randn(count, 6, generator=drawn), torch.randint(3, (count,), generator=drawn)


def batches_of(count=COUNT):
    return Batches(*examples(count), SIZE, 7)


def network(hidden=8):
    return nn.Sequential(nn.Linear(6, hidden), nn.Dropout(0.2), nn.Tanh(), nn.Linear(hidden, 3))


def from_yaml(group, name, *args, **changes):
    """What a configuration file makes, as Hydra would."""
    node = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
    options = {key: value for key, value in node.items() if not key.startswith("_")}
    return pydoc.locate(node["_target_"])(*args, **{**options, **changes})


class Training:
    """One training made anew: the same each time, whatever was drawn before."""

    def __init__(
        self,
        optimizer="sgd",
        schedule="constant",
        epochs=3,
        batches=None,
        model=network,
        criterion=F.cross_entropy,
        lr=0.02,
        **options,
    ):
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(3)
        self.model, self.criterion, self.epochs, self.options = model(), criterion, epochs, options
        self.optimizer = from_yaml("optimizer", optimizer, self.model.parameters(), lr=lr)
        changes = {"step_size": 1, "gamma": 0.5} if schedule == "step" else {}
        self.schedule = from_yaml("schedule", schedule, self.optimizer, epochs, STEPS, **changes)
        self.batches = batches_of() if batches is None else batches

    def run(self, checkpoints=None):
        options = {"schedule": self.schedule, "checkpoints": checkpoints, **self.options}
        args = self.model, self.batches, self.criterion, self.optimizer
        return list(fit(*args, epochs=self.epochs, **options))

    def resume(self, state):
        torch.rand(9), np.random.random(5), random.random()  # another process drew other things
        kept = Kept(state)
        return self.run(kept), kept

    def restore(self, state, steps_per_epoch=STEPS):
        step = Step(self.model, self.criterion, self.optimizer, self.schedule)
        return restore(state, step, self.epochs, steps_per_epoch)

    def end(self):
        """All that a training leaves, as bits."""
        moments = self.optimizer.state_dict()["state"]
        return [
            *(t.clone() for t in self.model.state_dict().values()),
            *(t.clone() for m in moments.values() for t in m.values() if t is not None),
            torch.get_rng_state(),
            torch.tensor([random.random(), np.random.random()], dtype=torch.float64),
            torch.tensor([group["lr"] for group in self.optimizer.param_groups]),
        ]


def numbers(record):
    val = record.val and (record.val.loss_sum, record.val.correct, record.val.count)
    sums = (record.epoch, record.loss_sum, record.correct, record.count, record.learning_rate)
    return *sums, record.steps, val, record.complete


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def assert_resumes(make, after=(4, 6, 17)):
    """From each of these states of a whole training, the rest is that of the whole one."""
    whole, kept = make(), Kept()
    records = whole.run(kept)
    end = whole.end()
    assert sorted(kept.contents) == list(range(1, len(records) * STEPS + 1))
    for steps in after:
        resumed = make()
        rest, _ = resumed.resume(kept.after(steps))
        assert_same(resumed.end(), end)
        assert [numbers(r) for r in rest] == [numbers(r) for r in records[steps // STEPS :]], steps


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_continues_bit_for_bit(optimizer):
    assert_resumes(lambda: Training(optimizer, "cosine"))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_continues_bit_for_bit(schedule):
    assert_resumes(lambda: Training("sgd", schedule))


@pytest.mark.parametrize(
    "options",
    [
        {"log_interval": 1, "clip_norm": 0.1},
        {"log_interval": 4},
        {"val": Batches(*examples(9), 4), "patience": 9},
    ],
    ids=["clipping", "within a log interval", "validation"],
)
def test_clipping_sums_and_validation_continue_bit_for_bit(options):
    assert_resumes(lambda: Training(**options))


def test_a_training_that_ran_out_of_patience_stays_at_its_best_weights():
    val_losses = iter([1.0, 2.0])

    def criterion(logits, labels):
        if torch.is_grad_enabled():
            return F.cross_entropy(logits, labels)
        return torch.tensor(next(val_losses))

    def make():
        return Training(val=Batches(*examples(4), 4), patience=1, criterion=criterion)

    whole, kept = make(), Kept()
    assert len(whole.run(kept)) == 2
    end, resumed = whole.end(), make()
    assert resumed.resume(kept.after(12))[0] == []
    assert_same(resumed.end(), end)


class Noisy:
    """Batches with noise from each random generator there is, as a transform may add it."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for inputs, labels in self.batches:
            noise = random.gauss(0, 1) + float(np.random.normal()) + float(torch.randn(()))
            yield inputs + 0.01 * noise, labels

    def set_epoch(self, epoch):
        self.batches.set_epoch(epoch)


def test_random_numbers_of_a_loss_or_a_transform_are_drawn_again():
    def criterion(logits, labels):
        return F.cross_entropy(logits, labels) * (1 + 0.1 * random.random() * np.random.random())

    assert_resumes(lambda: Training(batches=Noisy(batches_of()), criterion=criterion))


def test_a_shuffled_dataloader_gives_the_same_order_again():
    def make():
        return Training(batches=DataLoader(TensorDataset(*examples()), batch_size=4, shuffle=True))

    assert_resumes(make)


def images(kernels):
    drawn = torch.Generator().manual_seed(1)
    inputs = torch.randn(COUNT, 1, 32, 32, generator=drawn)
    labels = torch.randint(10, (COUNT,), generator=drawn)
    training = Training(model=LeNet5, batches=Batches(inputs, labels, SIZE, 7))
    equip(training.model, "cpu", kernels)
    return training


@pytest.mark.parametrize("kernels", ["eager", "native"])
def test_lenet5_continues_bit_for_bit_with_either_kernels(kernels):
    if kernels == "native" and equip(LeNet5()).name != "native":
        pytest.skip("needs the native kernels")
    assert_resumes(lambda: images(kernels), after=(1, 8))


def test_several_interruptions_change_no_bit():
    whole, kept = Training(schedule="one_cycle"), Kept()
    whole.run(kept)
    end = whole.end()
    for steps in (4, 9, 17):
        resumed = Training(schedule="one_cycle")
        _, kept = resumed.resume(kept.after(steps))
        assert_same(resumed.end(), end)


@pytest.mark.parametrize(("optimizer", "steps"), [("sgd", 4), ("adam", 8), ("sdlm", 12)])
def test_an_extended_training_is_the_longer_one_bit_for_bit(optimizer, steps):
    longer = Training(optimizer, "step", epochs=4)
    records, end = longer.run(), longer.end()
    kept = Kept()
    Training(optimizer, "step", epochs=2).run(kept)
    extended = Training(optimizer, "step", epochs=4)
    rest, _ = extended.resume(kept.after(steps))
    assert_same(extended.end(), end)
    assert [numbers(r) for r in rest] == [numbers(r) for r in records[steps // STEPS :]]


@pytest.mark.parametrize("steps", [3, STEPS, STEPS + 3, 2 * STEPS])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_that_depends_on_the_epochs_has_other_rates_with_more_of_them(schedule, steps):
    kept = Kept()
    Training(schedule=schedule, epochs=2).run(kept)
    at = progress_of(kept.after(steps))

    def fits(epochs):
        new = Training(schedule=schedule, epochs=epochs)
        return sets_rates_of(at, new.schedule, new.optimizer)

    assert fits(2)
    warms_up = schedule == "cosine" and steps <= STEPS  # which does not depend on the end
    assert fits(4) == (schedule not in ("cosine", "one_cycle") or warms_up)


@pytest.fixture(scope="module")
def kept():
    kept = Kept()
    Training("adam", "cosine").run(kept)
    return kept


@pytest.mark.parametrize("steps", [5, 2 * STEPS, 3 * STEPS])  # the last: nothing is left to train
def test_the_state_to_go_on_from_is_kept_again(kept, steps):
    _, kept_again = Training("adam", "cosine").resume(kept.after(steps))
    before, after = kept.after(steps), kept_again.after(steps)
    assert as_bits(after) == as_bits(before)


@pytest.mark.parametrize(
    ("training", "line"),
    [
        ({"model": lambda: network(9)}, r"one of this training \(.*size mismatch for 0\.weight"),
        ({"epochs": 1}, r"1 epochs at most, found 8 steps$"),
        ({"batches": batches_of(18)}, r"5 steps an epoch, found 6$"),
    ],
    ids=["network", "epochs", "batches"],
)
def test_the_state_of_another_training_is_refused_with_the_difference(kept, training, line):
    training = Training(**{"optimizer": "adam", "schedule": "cosine", **training})
    with pytest.raises(StateError, match=rf"^state: expected {line}") as caught:
        training.resume(kept.after(8))
    assert "\n" not in str(caught.value)


def test_a_moment_of_another_shape_is_refused(kept):
    """The kernels would read and write behind it."""
    state = kept.after(8)
    state["optimizer"]["state"][0]["exp_avg"] = torch.ones(1)
    with pytest.raises(StateError, match=r"the optimizer's exp_avg \[8, 6\], found \[1\]$"):
        Training("adam", "cosine").restore(state)


@pytest.mark.parametrize("state", [{"x": 1}, {"progress": {}}, {"progress": 3}])
def test_another_file_is_refused_in_one_line(state):
    with pytest.raises(StateError, match=r"^state: expected the progress of a training \("):
        Training().restore(state)
