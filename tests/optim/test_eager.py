"""PyTorch's optimizers train without its compiler."""

import subprocess
import sys

from tests.conftest import ROOT

CODE = """
import sys, torch
from lenet.training.loop import fit
for name in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam"):
    torch.manual_seed(0)
    model, batch = torch.nn.Linear(4, 3), (torch.randn(9, 4), torch.arange(9) % 3)
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.05)
    losses = [e.loss for e in fit(model, [batch], torch.nn.CrossEntropyLoss(), optimizer, epochs=9)]
    assert losses[-1] < losses[0], (name, losses)
    optimizer.load_state_dict(optimizer.state_dict())
assert "torch._dynamo" not in sys.modules
"""


def test_no_optimizer_imports_the_compiler():
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
