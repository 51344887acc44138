"""Run a network by its name on images, pairs and videos, from PyTorch's weights or an exported file."""
