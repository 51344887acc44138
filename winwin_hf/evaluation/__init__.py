"""Scores whole frames: metrics, methods by name, tables, benchmark submissions, modules of Hugging Face's evaluate."""
