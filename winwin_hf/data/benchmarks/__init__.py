"""The data sets by name: where each benchmark keeps its files, and whether a folder has them."""
