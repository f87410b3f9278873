"""Checks a configuration, builds from it, records it, and explains mistakes in it."""
