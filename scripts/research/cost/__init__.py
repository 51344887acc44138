"""What Win-Win costs: time, memory and arithmetic, each measured in a process of its own (`python scripts/benchmark.py cost`).

| | |
|---|---|
| `command.py` | the command line; runs what isn't measured yet, in turns, and writes cost.json after each |
| `cases.py` | what is measured: names, sizes, turns |
| `probes.py` | the measurements, each a function that runs in its own process |
| `training.py` | the probe of a training step, with its loader |
| `meter.py` | seconds, CPU seconds and memory of a process |
| `frames.py` | frames in the layout of BDD100K and Spring to load from |
| `profiling.py` | where a pass spends its time |
| `figures.py` | from measurements to the figures of cost.json |
| `pages.py`, `pictures.py` | cost.md and its pictures |
"""
