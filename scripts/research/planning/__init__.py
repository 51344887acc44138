"""What a training costs before it is run.

`count` counts a step of the real model, `model` turns it into hours and memory, `page` into tables; `measure` checks both.
"""
