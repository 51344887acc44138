"""The benchmarks' data sets by name: where each keeps its files, and whether a folder is complete."""
