"""Ways to train LeNet-5 on a CPU, each cut into stretches that can be timed beside each other."""

import copy
import io
import itertools
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from lenet import native
from lenet.commands.benchmark.report import EPOCH, Cell
from lenet.data.sets import Batches, Data
from lenet.model.lenet5 import LeNet5
from lenet.native import KernelError
from lenet.training.loop import fit

SGD = Path(__file__).resolve().parents[3] / "conf" / "optimizer" / "sgd.yaml"
SGEMM_SIZE = 2048
WORKERS = 2  # the tutorial's
HEAD_START = 8  # batches: more than they can make ahead


class Unavailable(RuntimeError):
    """This machine can't train that way: one line that says why."""


class Trainer(Protocol):
    """Trains for about that many steps. Returns: images, seconds."""

    def train(self, steps: int) -> tuple[int, float]: ...


class Stretch:
    """The next `steps` batches of a feed without an end, as one epoch for `fit`."""

    def __init__(self, feed: Iterator[tuple[Tensor, Tensor]], steps: int) -> None:
        self.feed = feed
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return itertools.islice(self.feed, self.steps)


class Fitted:
    """The default run's recipe through `fit`; `prepare` changes how the network computes."""

    def __init__(self, batches: Batches, prepare: Callable[[LeNet5], Any] | None = None) -> None:
        torch.manual_seed(0)
        self.model = LeNet5()
        if prepare:
            prepare(self.model)
        self.criterion = nn.CrossEntropyLoss()
        arguments = yaml.safe_load(SGD.read_text())
        arguments = {key: arguments[key] for key in arguments if not key.startswith("_")}
        self.optimizer = torch.optim.SGD(self.model.parameters(), **arguments)
        self.feed = _endless(batches)

    def train(self, steps: int) -> tuple[int, float]:
        [record] = fit(
            self.model, Stretch(self.feed, steps), self.criterion, self.optimizer, epochs=1
        )
        return record.count, record.seconds


def _endless(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    # One order an epoch, however many stretches it is cut into, as in a run.
    for epoch in itertools.count(1):
        batches.set_epoch(epoch)
        yield from batches


class Pictures(Dataset[tuple[Any, Tensor]]):
    """The tutorial's: a tensor becomes a PIL image, a wider one, a tensor, a normalised one."""

    def __init__(self, images: Tensor, labels: Tensor, mean: float, std: float) -> None:
        from torchvision import transforms

        self.images = images
        self.labels = labels
        self.to_picture = transforms.ToPILImage
        self.to_input = transforms.Compose(
            [transforms.Pad(2), transforms.ToTensor(), transforms.Normalize((mean,), (std,))]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        picture = self.to_picture()(self.images[index])
        return self.to_input(picture), self.labels[index]


class Tutorial:
    """The tutorial's loader and loop, with all the work they do: bar, running loss, workers."""

    def __init__(self, batches: Batches, mean: float, std: float) -> None:
        torch.manual_seed(0)
        images = batches.images[:, 0, 2:30, 2:30].contiguous()  # as in the file, without a border
        self.loader = DataLoader(
            Pictures(images, batches.labels, mean, std),
            batches.batch_size,
            shuffle=True,
            num_workers=WORKERS,
            pin_memory=True,
        )
        self.model = LeNet5()
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.running_loss = 0.0

    def train(self, steps: int) -> tuple[int, float]:
        # Workers finish together, so only whole rounds of them tell their pace; and while the loop
        # was slow to begin they made batches ahead, so the clock starts when it waits for them.
        steps = min(max(2, -(-steps // WORKERS)) * WORKERS, len(self.loader) - HEAD_START)
        self.model.train()
        first, images, start, waited, trained = 0, 0, 0.0, 0.0, 0.0
        left = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pin_memory is of no use without a GPU, and says so
            bar = tqdm(enumerate(self.loader, 1), total=len(self.loader), file=io.StringIO())
            for step, (inputs, labels) in bar:
                arrived = time.perf_counter()
                waited += arrived - left
                self._step(inputs.to("cpu"), labels.to("cpu"))
                if step % 100 == 0:
                    bar.set_postfix(loss=self.running_loss / 100)
                    self.running_loss = 0.0
                left = time.perf_counter()
                trained += left - arrived
                images += len(labels)
                if first and step == first + steps:
                    break
                if not first and step % WORKERS == 0:
                    if step > WORKERS and (waited > trained / 4 or step >= HEAD_START):
                        first, images, start = step, 0, left
                    waited = trained = 0.0
        bar.close()
        return images, left - start

    def _step(self, inputs: Tensor, labels: Tensor) -> None:
        self.optimizer.zero_grad()
        loss = self.criterion(self.model(inputs), labels)
        loss.backward()
        self.optimizer.step()
        self.running_loss += loss.item()


def _equipped(kernels: str) -> Callable[[LeNet5], None]:
    def prepare(model: LeNet5) -> None:
        try:
            native.equip(model, torch.device("cpu"), kernels)
        except KernelError as error:
            raise Unavailable(str(error)) from None

    return prepare


def _check_native(trainer: Trainer) -> None:
    # The kernels leave to eager PyTorch, batch by batch, what they can't do: that is no result.
    with native.stopwatch() as inside:
        trainer.train(1)
    if not inside["convolutions"]:
        raise Unavailable("the kernels were there and not used")


def whole_batches(train: Batches, size: int) -> Batches:
    """As many of 60,000 images as fill batches; a smaller set is repeated to be as many."""
    index = torch.arange(EPOCH - EPOCH % size) % train.count
    images, labels = train.images[index], train.labels[index]
    return Batches(images, labels, size, seed=0, transform=train.transform)


def _in_channels_last(images: Tensor, transform: Callable[[Tensor], Tensor] | None) -> Tensor:
    inputs = transform(images) if transform else images
    return inputs.to(memory_format=torch.channels_last)


def build(variant: str, batches: Batches, data: Data) -> Trainer:
    """A way to train, by name. Raises: Unavailable where this machine lacks it."""
    if variant == "tutorial":
        return Tutorial(batches, data.inputs.mean, data.inputs.std)
    if variant == "channels_last":
        last = copy.copy(batches)
        last.transform = partial(_in_channels_last, transform=batches.transform)
        return Fitted(last, lambda model: model.to(memory_format=torch.channels_last))
    return Fitted(batches, None if variant == "eager" else _equipped(variant))


def warm_up(trainer: Trainer, seconds: float) -> int:
    """Lets a trainer compile, allocate and train for a stretch. Returns: steps in `seconds`."""
    trainer.train(1)
    steps = 4
    for _ in range(2):
        _, spent = trainer.train(steps)
        steps = max(1, round(steps * seconds / spent))
        if spent >= seconds:
            break
    return steps


def sgemm(seconds: float) -> float:
    """The rate of matrix products on the present threads, in GFLOP/s."""
    left, right = torch.rand(2, SGEMM_SIZE, SGEMM_SIZE)
    product = torch.mm(left, right)
    start, spent, count = time.perf_counter(), 0.0, 0
    while count == 0 or spent < seconds:
        torch.mm(left, right, out=product)
        spent, count = time.perf_counter() - start, count + 1
    return 2 * SGEMM_SIZE**3 * count / spent / 1e9


def ready(
    variants: Sequence[str], data: Data, batch: int, seconds: float, missing: dict[str, str]
) -> dict[str, tuple[Trainer, int]]:
    """Trainers, warm, with the steps of a stretch. What can't be had goes to `missing` with why."""
    batches = whole_batches(data.train, batch)
    trainers = {}
    for variant in variants:
        try:
            if variant == "compile":
                # Else the eighth network it meets is left eager: torch counts them by their code.
                torch._dynamo.reset()
            trainer = build(variant, batches, data)
            if variant == "native":
                _check_native(trainer)
            trainers[variant] = trainer, warm_up(trainer, seconds)
        except Exception as error:
            # A compiler that is not there has no one error: each part of torch wraps it anew.
            if variant not in ("compile", "native"):
                raise
            missing[variant] = (str(error).strip() or type(error).__name__).split("\n")[0]
    return trainers


def turns(names: Sequence[str], rounds: int) -> Iterator[str]:
    """Every name once a round; whoever was first is last in the next."""
    order = deque(names)
    for _ in range(rounds):
        yield from order
        order.rotate(-1)


def measure(
    data: Data,
    batch: int,
    variants: Sequence[str],
    rounds: int,
    seconds: float,
    missing: dict[str, str],
) -> Cell:
    """All variants at one batch size, and the SGEMM, in turns, on the present threads."""
    trainers = ready(variants, data, batch, seconds, missing)
    rates: list[float] = []
    speeds: dict[str, list[float]] = {variant: [] for variant in trainers}
    images: dict[str, int] = {}
    for name in turns([*trainers, "SGEMM"], rounds):
        if name == "SGEMM":
            rates.append(sgemm(seconds))
        else:
            trainer, steps = trainers[name]
            images[name], spent = trainer.train(steps)
            speeds[name].append(images[name] / spent)
    return Cell(torch.get_num_threads(), batch, rates, speeds, images)
