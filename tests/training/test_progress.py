"""A training that goes on from any of its states ends with the bits it would have had anyway."""

import copy
import io
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lenet.data.sets import Batches
from lenet.data.tensor_files import load, save
from lenet.model.lenet5 import LeNet5
from lenet.native import equip
from lenet.optim.schedule import constant, cosine, one_cycle, step
from lenet.training.loop import fit
from lenet.training.progress import StateError, restore
from tests.conftest import CONF

OPTIMIZERS = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))
SCHEDULES = sorted(path.stem for path in (CONF / "schedule").glob("*.yaml"))
COUNT, SIZE, STEPS = 22, 4, 6  # examples, batch, batches an epoch: the last has two examples


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads that wait for each other take longer than all the arithmetic here."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Everywhere:
    """A saver to which a state is due after each step."""

    def __init__(self, due=lambda epoch: True):
        self.states, self.due_at = {}, due

    def due(self, epoch=None):
        return self.due_at(epoch)

    def save(self, state):
        at = state["progress"]
        buffer = io.BytesIO()
        torch.save(state, buffer)  # as a file holds it: a copy, and plain
        self.states[at["epochs"] * STEPS + at["batches"]] = buffer.getvalue()


def read(content):
    return torch.load(io.BytesIO(content), weights_only=True)


def examples(count=COUNT):
    drawn = torch.Generator().manual_seed(0)
    return torch.randn(count, 6, generator=drawn), torch.randint(3, (count,), generator=drawn)


def batches_of(count=COUNT):
    return Batches(*examples(count), SIZE, 7)


class Distorted:
    """Batches to which a transform adds what it draws, from each generator there is."""

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


def drawn_loss(logits, labels):
    """A loss that draws too."""
    return F.cross_entropy(logits, labels) * (1 + 0.1 * random.random() * np.random.random())


def network():
    return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 3))


class Training:
    """One training made anew: the same each time, whatever was drawn before."""

    def __init__(
        self,
        composed=None,
        optimizer="sgd",
        schedule="constant",
        epochs=3,
        batches=None,
        model=network,
        criterion=F.cross_entropy,
        **options,
    ):
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(3)
        self.model = model()
        if composed:
            cfg = composed(f"optimizer={optimizer}", f"schedule={schedule}")
            self.optimizer = instantiate(cfg.optimizer)(self.model.parameters(), lr=0.02)
            made = instantiate(cfg.schedule)
            if (optimizer, schedule) == ("sdlm", "one_cycle"):
                made = lambda *a: one_cycle(*a, cycle_momentum=False)  # noqa: E731  it has none
            if schedule == "step":
                made = lambda *a: step(*a, step_size=1, gamma=0.5)  # noqa: E731
        else:
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
            made = {"constant": constant, "cosine": cosine, "one_cycle": one_cycle, "step": step}
            made = made[schedule]
        self.schedule = made(self.optimizer, epochs, STEPS)
        self.batches = batches_of() if batches is None else batches
        self.criterion, self.epochs, self.options = criterion, epochs, options

    def run(self, saver=None, state=None):
        if state is not None:  # another process drew other things
            torch.rand(9), np.random.random(5), random.random()
        return list(
            fit(
                self.model,
                self.batches,
                self.criterion,
                self.optimizer,
                epochs=self.epochs,
                schedule=self.schedule,
                saver=saver,
                state=state,
                **self.options,
            )
        )

    def end(self):
        """All that a training leaves, as bits."""
        moments = self.optimizer.state_dict()["state"]
        return [
            *(t.clone() for t in self.model.state_dict().values()),
            *(t.clone() for m in moments.values() for t in m.values() if t is not None),
            torch.get_rng_state(),
            torch.tensor([random.random(), np.random.random()], dtype=torch.float64),
        ], [group["lr"] for group in self.optimizer.param_groups]


def numbers(record):
    val = record.val and (record.val.loss_sum, record.val.correct, record.val.count)
    sums = (record.epoch, record.loss_sum, record.correct, record.count, record.learning_rate)
    return *sums, [tuple(point) for point in record.steps], val, record.complete


def assert_same_end(one, other):
    assert one[1] == other[1]
    assert len(one[0]) == len(other[0])
    for a, b in zip(one[0], other[0], strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def assert_resumes(make, every=1):
    """From each state of a whole training, the rest is that of the whole one."""
    whole, saver = make(), Everywhere()
    records = whole.run(saver)
    end = whole.end()
    assert sorted(saver.states) == list(range(1, max(saver.states) + 1))
    for steps, content in sorted(saver.states.items())[::every]:
        resumed = make()
        rest = resumed.run(state=read(content))
        assert_same_end(resumed.end(), end)
        assert [numbers(r) for r in rest] == [numbers(r) for r in records[steps // STEPS :]], steps
    return records, saver.states


# ---- The same bits ---------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_and_schedule_goes_on_from_every_step(composed, optimizer, schedule):
    assert_resumes(lambda: Training(composed, optimizer, schedule))


@pytest.mark.parametrize("log_interval", [1, 4, 100])
@pytest.mark.parametrize("clip_norm", [None, 0.1])
@pytest.mark.parametrize("patience", [None, 1, 9])
def test_patience_clipping_and_the_log_interval_are_gone_on_with(patience, clip_norm, log_interval):
    options = {"patience": patience, "clip_norm": clip_norm, "log_interval": log_interval}
    val = Batches(*examples(9), 4)
    assert_resumes(lambda: Training(schedule="cosine", val=val, **options))


def test_patience_that_ran_out_stays_so_and_gives_the_best_weights():
    given = {1: 1.0, 2: 2.0, 3: 3.0}

    def make():
        seen = []

        def criterion(logits, labels):
            if torch.is_grad_enabled():
                return F.cross_entropy(logits, labels)
            seen.append(1)
            return torch.tensor(given[make.done + len(seen)])

        return Training(val=Batches(*examples(4), 4), patience=1, criterion=criterion)

    make.done = 0
    whole, saver = make(), Everywhere()
    assert len(whole.run(saver)) == 2
    end = whole.end()
    for steps, content in saver.states.items():
        make.done = steps // STEPS
        resumed = make()
        resumed.run(state=read(content))
        assert_same_end(resumed.end(), end)


def test_what_a_loss_and_a_transform_draw_is_gone_on_with():
    make = lambda: Training(batches=Distorted(batches_of()), criterion=drawn_loss)  # noqa: E731
    assert_resumes(make)


def test_a_shuffled_dataloader_is_gone_through_again_in_the_same_order():
    def make():
        return Training(batches=DataLoader(TensorDataset(*examples()), batch_size=4, shuffle=True))

    assert_resumes(make)


class Images(Training):
    def __init__(self, kernels, optimizer=None, smoothing=0.0):
        drawn = torch.Generator().manual_seed(1)
        images = torch.randn(COUNT, 1, 32, 32, generator=drawn)
        labels = torch.randint(10, (COUNT,), generator=drawn)
        super().__init__(
            model=LeNet5,
            batches=Batches(images, labels, SIZE, 7),
            criterion=nn.CrossEntropyLoss(label_smoothing=smoothing),
        )
        equip(self.model, "cpu", kernels)


@pytest.mark.parametrize("kernels", ["eager", "native"])
def test_the_whole_native_step_and_the_eager_one_go_on(kernels):
    if kernels == "native" and equip(LeNet5()).name != "native":
        pytest.skip("needs the native kernels")
    assert_resumes(lambda: Images(kernels), every=5)


def walked(value, path=()):
    """(path, leaf) of everything in a state."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in inner:
        if isinstance(one, dict | list | tuple):
            yield from walked(one, (*path, key))
        else:
            yield (*path, key), one


def test_a_state_is_the_same_after_a_resume_as_without_one():
    """So that any chain of interruptions is as good as one."""
    whole, saver = Training(schedule="one_cycle"), Everywhere()
    whole.run(saver)
    again = Everywhere()
    Training(schedule="one_cycle").run(again, read(saver.states[4]))
    for steps in range(5, 3 * STEPS + 1):
        one, other = read(saver.states[steps]), read(again.states[steps])
        for state in (one, other):
            state["progress"]["tally"]["seconds"] = 0
            state["progress"]["history"]["numbers"][:, 5] = 0
        leaves = dict(walked(other))
        for path, value in walked(one):
            found = leaves.pop(path)
            if isinstance(value, torch.Tensor):
                value, found = value.nan_to_num().tolist(), found.nan_to_num().tolist()
            assert repr(value) == repr(found), path
        assert not leaves


def test_a_state_is_no_larger_than_its_tensors_and_some(tmp_path):
    training, saver = Images("eager"), Everywhere(lambda epoch: epoch is not None)
    training.run(saver)
    path = tmp_path / "state.pt"
    save(read(saver.states[6]), path)
    assert path.stat().st_size < 2 * 4 * 61_706 + 30_000
    assert load(path)["length"] == [3, STEPS]


# ---- Longer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", ["constant", "step"])
@pytest.mark.parametrize("steps", [4, 6, 8, 12])
def test_more_epochs_are_the_longer_training(composed, optimizer, schedule, steps):
    longer = Training(composed, optimizer, schedule, epochs=4)
    records, end = longer.run(), longer.end()
    shorter, saver = Training(composed, optimizer, schedule, epochs=2), Everywhere()
    shorter.run(saver)
    extended = Training(composed, optimizer, schedule, epochs=4)
    rest = extended.run(state=read(saver.states[steps]))
    assert_same_end(extended.end(), end)
    assert [numbers(r) for r in rest] == [numbers(r) for r in records[steps // STEPS :]]


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_more_epochs_go_on_at_the_longer_schedules_rate(schedule):
    rates = []
    longer = Training(schedule=schedule, epochs=4)
    longer.optimizer.register_step_pre_hook(
        lambda o, *_: rates.append((o.param_groups[0]["lr"], o.param_groups[0]["momentum"]))
    )
    longer.run()
    shorter, saver = Training(schedule=schedule, epochs=2), Everywhere()
    shorter.run(saver)
    found = []
    extended = Training(schedule=schedule, epochs=4)
    extended.optimizer.register_step_pre_hook(
        lambda o, *_: found.append((o.param_groups[0]["lr"], o.param_groups[0]["momentum"]))
    )
    extended.run(state=read(saver.states[8]))
    assert found == rates[8:]


# ---- What is no state of this training --------------------------------------------------------


@pytest.fixture(scope="module")
def content():
    training, saver = Training(schedule="cosine", val=batches_of(), patience=5), Everywhere()
    training.run(saver)
    return saver.states[8]


def refused(state, training=None, **length):
    training = training or Training(schedule="cosine")
    length = {"epochs": 3, "steps_per_epoch": STEPS} | length
    with pytest.raises(StateError) as caught:
        restore(state, training.model, training.optimizer, training.schedule, **length)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("state: expected ")
    return line


def test_the_state_itself_is_taken(content):
    training = Training(schedule="cosine")
    at = restore(read(content), training.model, training.optimizer, training.schedule, 3, STEPS)
    assert (at.epochs, at.batches, len(at.history)) == (1, 2, 1)


def test_another_network_is_named(content):
    other = lambda: nn.Sequential(nn.Linear(6, 9), nn.Dropout(), nn.Tanh(), nn.Linear(9, 3))  # noqa: E731
    line = refused(read(content), Training(schedule="cosine", model=other))
    assert line == (
        "state: expected the best model's 0.weight [9, 6] float32, found [8, 6] float32"
    )


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop"])
def test_another_optimizer_is_named(composed, content, optimizer):
    assert "the optimizer's" in refused(read(content), Training(composed, optimizer, "cosine"))


def test_adams_state_is_none_of_adamw(composed):
    training, saver = Training(composed, "adam"), Everywhere()
    training.run(saver)
    assert "the optimizer's" in refused(read(saver.states[8]), Training(composed, "adamw"))


@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
def test_another_schedule_is_named_by_what_it_would_change(content, schedule):
    line = refused(read(content), Training(schedule=schedule))
    assert line.startswith("state: expected the optimizer's ")


def test_another_rate_is_named(content):
    state = read(content)
    state["optimizer"]["param_groups"][0]["lr"] = 0.5
    assert refused(state).endswith("found 0.5")


def test_other_lengths_are_named(content):
    line = refused(read(content), steps_per_epoch=7)
    assert line == "state: expected 7 steps an epoch, found 6"
    assert refused(read(content), epochs=1) == "state: expected 1 epochs, found 8 steps"


def moment(state):
    return state["optimizer"]["state"][0]


HOSTILE = {
    "momentum of one element": lambda s: moment(s).update(momentum_buffer=torch.ones(1)),
    "momentum of another type": lambda s: moment(s).update(
        momentum_buffer=torch.ones(8, 6, dtype=torch.float64)
    ),
    "momentum that is a number": lambda s: moment(s).update(momentum_buffer=3.0),
    "a parameter too many": lambda s: s["optimizer"]["state"].update({99: moment(s)}),
    "a parameter by name": lambda s: s["optimizer"]["state"].update({"0": moment(s)}),
    "a moment too many": lambda s: moment(s).update(step=torch.ones(())),
    "a moment too few": lambda s: moment(s).clear(),
    "weights of another type": lambda s: s["model"].update(
        {"0.weight": torch.zeros(8, 6, dtype=torch.complex64)}
    ),
    "numpy reads behind its memory": lambda s: s["random"].update(
        numpy=(*s["random"]["numpy"][:2], 10**9, 0, 0.0)
    ),
    "numpy reads before its memory": lambda s: s["random"].update(
        numpy=(*s["random"]["numpy"][:2], -(10**9), 0, 0.0)
    ),
    "python keeps a text for a number": lambda s: s["random"].update(
        python=(*s["random"]["python"][:2], "x")
    ),
    "python's words are too large": lambda s: s["random"].update(
        python=(3, torch.full((625,), -1), None)
    ),
    "torch's state is of zeros": lambda s: s["random"].update(torch=torch.zeros(9).byte()),
    "as many epochs as there is time": lambda s: s["progress"].update(epochs=2**60),
    "fewer batches than there are": lambda s: s["progress"].update(batches=-1),
    "more batches than there are": lambda s: s["progress"].update(batches=6),
    "no batches, but sums of some": lambda s: s["progress"].update(batches=0),
    "an epoch of no examples": lambda s: s["progress"]["history"]["numbers"].__setitem__((0, 3), 0),
    "an epoch in no time": lambda s: s["progress"]["history"]["numbers"].__setitem__((0, 5), 0),
    "points of no epoch": lambda s: s["progress"]["history"]["points"].__setitem__(0, -1),
    "validation of no examples": lambda s: s["progress"]["history"]["val"].__setitem__((0, 2), 0),
    "a loss that is none": lambda s: s["progress"]["tally"]["losses"].fill_(math.nan),
    "a loss without its count": lambda s: s["progress"]["tally"].update(
        counts=torch.ones(9, dtype=torch.int64)
    ),
    "no generators": lambda s: s["progress"].update(began=None),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_would_harm_is_refused(content, what):
    state = read(content)
    HOSTILE[what](state)
    refused(state)


def test_a_step_count_that_divides_by_zero_is_refused(composed):
    training, saver = Training(composed, "adam"), Everywhere()
    training.run(saver)
    for bad in (-1.0, 0.0, math.nan, 1e30):
        state = read(saver.states[8])
        moment(state)["step"].fill_(bad)
        refused(state, Training(composed, "adam"))


def test_tensors_are_laid_out_anew(content):
    """A kernel that counts elements from the first would read behind an overlapping view."""
    state = read(content)
    end = torch.ones(48)
    moment(state)["momentum_buffer"] = end[47:].as_strided((8, 6), (0, 0))
    state["model"]["0.weight"] = end[47:].as_strided((8, 6), (0, 0))
    state["progress"]["best_model"]["0.weight"] = end[47:].as_strided((8, 6), (0, 0))
    training = Training(schedule="cosine")
    at = restore(state, training.model, training.optimizer, training.schedule, 3, STEPS)
    own = training.model[0].weight
    for tensor in (
        own,
        training.optimizer.state[own]["momentum_buffer"],
        at.best_model["0.weight"],
    ):
        assert tensor.is_contiguous()
        assert tensor.untyped_storage().nbytes() == 4 * 48
        assert torch.equal(tensor, torch.ones(8, 6))


def test_metadata_of_a_state_dict_assigns_nothing(content):
    state = read(content)
    weights = state["model"]
    weights._metadata = {"": {"assign_to_params_buffers": True}, "0": {"version": "x"}}
    training = Training(schedule="cosine")
    before = training.model[0].weight
    restore(state, training.model, training.optimizer, training.schedule, 3, STEPS)
    assert training.model[0].weight is before


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(
        [
            torch.ones(()),
            torch.ones(3),
            torch.zeros(2, 0),
            torch.full((1, 6), math.nan, dtype=torch.float64),
            torch.ones(8, 6, dtype=torch.complex64),
            torch.arange(624),
            torch.float32,
            torch.device("cpu"),
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value, path=()):
    """The path of everything in a state."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list | tuple) and len(value) < 10:
        for number, inner in enumerate(value):
            yield from places(inner, (*path, number))


def replaced(value, path, by):
    if not path:
        return by
    first, *rest = path
    if isinstance(value, dict):
        return {**value, first: replaced(value[first], rest, by)}
    parts = list(value)
    parts[first] = replaced(parts[first], rest, by)
    return type(value)(parts)


def test_a_tensor_in_a_numbers_place_is_refused_in_one_line(content):
    state = read(content)
    place = next(path for path in places(state) if path[-1:] == ("lr",))
    state = replaced(state, place, torch.ones(8, 6))
    with pytest.raises(StateError, match="expected the optimizer's lr") as refusal:
        Training(schedule="cosine", val=batches_of(), patience=5).run(state=state)
    assert "\n" not in str(refusal.value)


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(number=st.integers(0, 10**6), nonsense=PLAIN)
def test_nonsense_at_any_place_is_refused_in_one_line_or_trains(content, number, nonsense):
    """Where a state is taken after all, it is one that can be gone on with."""
    state = read(content)
    all_places = list(places(state))
    state = replaced(state, all_places[number % len(all_places)], nonsense)
    training = Training(schedule="cosine", val=batches_of(), patience=5)
    try:
        training.run(state=copy.deepcopy(state))
    except StateError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 400


@settings(deadline=None, max_examples=50)
@given(state=PLAIN)
def test_nonsense_instead_of_a_state_is_refused(state):
    refused(state)
