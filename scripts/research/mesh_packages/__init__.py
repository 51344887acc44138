"""Readers of the models in Debian packages; `scripts/research/meshes.py` is the command."""
