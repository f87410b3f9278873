"""How fast LeNet-5 trains on this CPU: `python -m lenet benchmark`."""
