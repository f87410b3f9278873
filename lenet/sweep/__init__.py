"""Sweeps: jobs, grid and search, and the launchers that run them."""

PLUGINS = "hydra_plugins.lenet"  # the module that Hydra finds our sweepers and launchers in
