"""Endless scenes and rooms with exact flow or depth, rendered only where the windows look."""
