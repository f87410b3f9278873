"""The training loop and what it needs: epochs, checkpoints, devices, evaluation."""
