"""Predictions for more images than anybody waits for: from folders, videos and shards, on disk or behind a URL, in many processes.

    plan.py      INPUT -> units of work, each of some images that are read from one place
    reading.py   a unit -> its images
    outputs.py   where results go, and in which format
    manifest.py  what was done: the records of a run, by which it goes on and is checked
    work.py      one worker: a network that runs units
    engines.py   workers on this machine, or on a Ray cluster
    run.py       all of it

Notable:
- A result is written under a temporary name and renamed, and a unit's records are written after its results. So a run that is killed
  goes on with the same call, and at most the unit that was being done is done again, into the same names.
- Nothing here schedules: processes are concurrent.futures', nodes are Ray's.
"""
