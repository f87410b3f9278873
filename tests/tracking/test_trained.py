"""What a run trained, as the commands load it."""

import time

import pytest
import torch
from torch.nn.functional import cross_entropy

from lenet.config.check import check
from lenet.data.sets import load
from lenet.model.lenet5 import LeNet5
from lenet.tracking import Run
from lenet.tracking.names import TrackingError
from lenet.tracking.settings import Settings
from lenet.tracking.trained import load_trained
from lenet.training.checkpoints import Checkpoints
from lenet.training.epoch import Step
from lenet.training.evaluate import evaluate
from lenet.training.progress import Progress
from lenet.training.state import state_of
from tests.conftest import copy_store
from tests.support.lab import PLAIN


@pytest.fixture
def stored(tmp_path, composed, empty_store):
    """A function that stores a run with these weights in its last checkpoint and at its end."""

    def stored(saved, ended):
        settings = Settings(check(composed("data=digits", *PLAIN)), [], time.time())
        uri = copy_store(empty_store, tmp_path)
        data = load("digits", "")
        optimizer = torch.optim.SGD(saved.parameters(), 0.1)
        with Run(settings, uri=uri, folder=str(tmp_path / "waiting")) as run:
            checkpoints = Checkpoints(*run.checkpoint_arguments(data))
            checkpoints.save(state_of(Progress(1), Step(saved, cross_entropy, optimizer), 10))
            run.log_test(ended, data, evaluate(ended, data.test, cross_entropy))
        return run.id, uri

    return stored


def test_the_network_has_the_weights_that_the_training_ended_with(stored):
    model = LeNet5()
    loaded, inputs = load_trained(*stored(model, model))
    assert inputs.classes == tuple("0123456789")
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_an_older_checkpoint_is_not_taken_for_the_end_of_the_training(stored):
    run_id, uri = stored(LeNet5(), LeNet5())
    refused = rf"^{run_id}: its last checkpoint could not be written, .*; rerun={run_id} trains it"
    with pytest.raises(TrackingError, match=refused):
        load_trained(run_id, uri)
