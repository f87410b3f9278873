"""What a network reads and what its outputs mean. Kept with its weights, for others to use."""

from dataclasses import asdict
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from lenet.data.errors import DataError
from lenet.data.form import MNIST, Form

MAX_CLASSES = 1000

Mean = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Inputs:
    """An image as the network reads it, and the names of its classes in the order of its outputs.

    A pixel is a number from 0 to 1, less `mean`, divided by `std`; of images in colour each channel
    has its own. Other pictures are brought to `form`, which those of the set have.

    Raises: ValueError where a value is out of its bounds.
    """

    classes: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_CLASSES)]
    mean: Mean | tuple[Mean, ...]
    std: Deviation | tuple[Deviation, ...]
    image_size: Annotated[int, Field(ge=16, le=256)] = 32
    in_channels: Annotated[int, Field(ge=1, le=64)] = 1
    form: Form = MNIST

    def __post_init__(self) -> None:
        for name, level in (("mean", self.mean), ("std", self.std)):
            if isinstance(level, tuple) and len(level) != self.in_channels:
                raise ValueError(
                    f"{name}: expected one number, or {self.in_channels}, one a channel, found "
                    f"{len(level)}"
                )

    @property
    def model_arguments(self) -> dict[str, int]:
        """The arguments of a network's class that follow from the data."""
        return {
            "num_classes": len(self.classes),
            "in_channels": self.in_channels,
            "image_size": self.image_size,
        }

    def to_values(self) -> dict[str, Any]:
        """Lists, numbers and text alone, for JSON and for checkpoints."""
        values = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @staticmethod
    def from_values(values: Any) -> "Inputs":
        """The inverse of `to_values`, for values that anybody may have written.

        Raises: DataError where a value is missing or out of its bounds.
        """
        try:
            return TypeAdapter(Inputs).validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, ("inputs", *first["loc"])))
            raise DataError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
