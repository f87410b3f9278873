"""Another set than the run's own, for its network to be tested on."""

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from lenet.config.build import build
from lenet.config.compose import composed
from lenet.data.errors import DataError
from lenet.data.images import normalised
from lenet.data.inputs import Inputs
from lenet.data.sets import Data
from lenet.sweeps.plugins import register


def load_other(overrides: Sequence[str], inputs: Inputs) -> Data:
    """The set that these overrides of run.py name, as the network reads images: with its mean,
    deviation, size and classes. Only the test images are used, so `data.test` is enough.

    Raises: ConfigError where an override does not fit, DataError where the set does not.
    """
    register()  # the options of other labs are searched too
    for override in overrides:
        if not re.match(r"data[.=]", override):
            raise DataError(f"{override}: expected data=NAME or data.KEY=VALUE, a set to test on")
    given = dict(override.split("=", 1) for override in overrides if "=" in override)
    if "data.test" in given:
        overrides = [*overrides, f"data.train={given['data.test']}"]
    config = composed(overrides)
    node = config["data"] | {"image_size": inputs.image_size}
    if "classes" in node:
        node["classes"] = node["classes"] or list(inputs.classes)
    data: Data = build({"data": node}, "data")
    found, expected = len(data.inputs.classes), len(inputs.classes)
    if found > expected:
        raise DataError(
            f"{data.name}: expected at most {expected} classes, as the run has, found {found}"
        )
    if data.inputs.in_channels != inputs.in_channels:
        raise DataError(
            f"{data.name}: expected images of {inputs.in_channels} channels, as the run has, found "
            f"{data.inputs.in_channels}"
        )
    if remark := data.inputs.form.unlike(inputs.form):
        print(f"Warning: {data.name}: {remark}", file=sys.stderr)
    # The measured mean is that of the other set.
    transform = partial(normalised, mean=inputs.mean, std=inputs.std)
    return replace(data, inputs=inputs, test=replace(data.test, transform=transform))
