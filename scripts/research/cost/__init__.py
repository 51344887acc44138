"""What Win-Win costs: time, memory and FLOPs (`python scripts/benchmark.py cost`).

| | |
|---|---|
| `command.py` | the command line; runs measurements in turns |
| `cases.py` | names, sizes and turns of all measurements |
| `probes.py` | the measurements: each a function that runs in its own process |
| `training.py` | the measurement of a training step |
| `meter.py` | seconds, CPU seconds and memory of a process |
| `frames.py` | frames in the layouts of BDD100K and Spring |
| `profiling.py` | where a pass spends its time |
| `record.py` | cost.json |
| `figures.py` | from measurements to figures |
| `pages.py`, `pictures.py` | cost.md and its pictures |
"""
