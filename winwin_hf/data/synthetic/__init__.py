"""Endless scenes and rooms with exact flow or depth, rendered only inside the windows."""
