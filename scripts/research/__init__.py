"""Experiments, cost measurements and plans; README.md says what each command does."""
