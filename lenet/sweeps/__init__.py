"""Sweeps: jobs, grid and search, and the launchers that run them."""
