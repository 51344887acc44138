"""What a GPU can do (`scripts/gpu_check.sh OUT`): `parts.py` has the parts, each a process; `throughput.py` measures trainings."""
