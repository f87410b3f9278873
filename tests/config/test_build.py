"""A group that can't be built names itself before the run begins."""

import pytest
import torch

from lenet.config.build import build, try_out
from lenet.config.check import check
from lenet.config.errors import ConfigError


@pytest.mark.parametrize("override", ["kernel_size=30", "stride=0", "padding=5", "stride=1"])
def test_layers_that_do_not_fit_are_named_before_the_run(composed, override):
    config = check(composed(f"model.pooling.{override}"))
    model = build(config, "model", num_classes=10, in_channels=1, image_size=32)
    with pytest.raises(ConfigError, match=r"^model: "):
        try_out("model", model, torch.zeros(1, 1, 32, 32))


def test_what_the_data_decide_can_not_be_configured(composed):
    config = check(composed("+model.num_classes=7"))
    with pytest.raises(ConfigError, match=r"^model.num_classes=7: follows from the data"):
        build(config, "model", num_classes=10, in_channels=1, image_size=32)
