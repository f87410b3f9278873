"""An ONNX file gives the network's scores for any batch; a failure leaves no new file."""

import json
import re
import sys

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from lenet.__main__ import main
from lenet.commands.export import check_onnx, to_onnx
from lenet.data.inputs import Inputs
from lenet.model.lenet5 import ACTIVATIONS, POOLINGS, LeNet5
from tests.conftest import lenet5_1998

NETWORKS = {
    "lenet5": LeNet5,
    "lenet5_1998": lenet5_1998,
    "colour": lambda: LeNet5(
        num_classes=4, in_channels=3, activation=ACTIVATIONS["gelu"], pooling=POOLINGS["max"]
    ),
}


def inputs_of(channels=1, classes=10):
    names = tuple(f"class {k}" for k in range(classes))
    return Inputs(classes=names, mean=0.25, std=0.5, image_size=32, in_channels=channels)


def batches(channels=1):
    torch.manual_seed(1)
    return [(torch.randn(n, channels, 32, 32), torch.zeros(n).long()) for n in (1, 7)]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_gives_torchs_scores_for_batches_of_any_length(name, tmp_path):
    torch.manual_seed(0)
    model, path = NETWORKS[name](), tmp_path / "net.onnx"
    channels, classes = (3, 4) if name == "colour" else (1, 10)
    to_onnx(model, inputs_of(channels, classes), path)
    found = check_onnx(path, model, batches(channels))
    assert re.fullmatch(
        r"onnxruntime on 8 test images: scores within \d\.\de-0[4-9] of torch's, 0 classes differ",
        found,
    )


def test_the_file_names_its_input_its_output_and_the_normalisation(tmp_path):
    path = tmp_path / "net.onnx"
    to_onnx(LeNet5(num_classes=3), inputs_of(classes=3), path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (images,), (scores,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(float)", ["N", 1, 32, 32])
    assert (scores.name, scores.shape) == ("scores", ["N", 3])
    about = {p.key: json.loads(p.value) for p in onnx.load(str(path)).metadata_props}
    assert about == inputs_of(classes=3).to_values()


def test_the_check_fails_for_another_network(tmp_path):
    path = tmp_path / "net.onnx"
    to_onnx(LeNet5(), inputs_of(), path)
    torch.manual_seed(2)
    with pytest.raises(ValueError, match=r"net\.onnx: .* differ; expected within 0\.001 of"):
        check_onnx(path, LeNet5(), batches())


class Grows(nn.Module):
    """A loop whose length depends on the numbers; no graph can hold it."""

    def forward(self, x):
        while x.sum() > 0:
            x = x - 1
        return x.flatten(1)


def test_a_network_that_torch_cannot_write_is_one_line_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_text("mine")
    with pytest.raises(ValueError, match=r"^onnx: torch can't write this network") as caught:
        to_onnx(Grows(), inputs_of(), path)
    assert "\n" not in str(caught.value)
    assert path.read_text() == "mine"


def test_missing_packages_are_one_line_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # Python's own sign for "cannot be found"
    with pytest.raises(ValueError, match=r"onnx: needs onnxscript: pip install"):
        to_onnx(LeNet5(), inputs_of(), tmp_path / "net.onnx")


@pytest.mark.slow
def test_the_command_writes_a_file_and_checks_it_on_the_runs_test_set(latest, tmp_path, capsys):
    path = tmp_path / "net.onnx"
    assert main(["export", "latest", "--onnx", str(path)]) == 0
    out = capsys.readouterr().out
    assert "images float32 (N, 1, 32, 32) -> scores float32 (N, 10)" in out
    assert "onnxruntime on 360 test images: scores within" in out
    assert "0 classes differ" in out
