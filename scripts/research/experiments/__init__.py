"""The paper's claims, measured: one function an experiment, started by `python scripts/reproduce.py NAME`."""
