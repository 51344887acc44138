"""Weights from elsewhere to our format, and ours to other runtimes."""
