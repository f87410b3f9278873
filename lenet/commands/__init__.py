"""The commands of `python -m lenet`, a file or folder each."""
