"""One process of a training, without the training: reads its examples with two loader processes, and notes each name as it comes.

python -m support.reading_node '{"path": ..., "options": {...}, "rank": 0, "world": 2, "start": 0, "count": 10, "output": ...}'
"""

from __future__ import annotations

import json
import sys
from typing import Any

from torch.utils.data import DataLoader

from winwin_hf.data.shards import caching, open_shards
from winwin_hf.data.sources import Source
from winwin_hf.data.streams import Part, ordered

BATCH = 3


def same(examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: example[name] for name in ("index", "name")} for example in examples]


def start_worker(_: int) -> None:
    caching.TIMEOUT = 2.0


def read(given: dict[str, Any]) -> None:
    start_worker(0)
    part = Part(Source("s", "depth-estimation", open_shards(given["path"], **given["options"]), None))  # type: ignore[arg-type]
    dataset, sampler = ordered([part], 5, given["rank"], given["world"], 2, given["start"])
    loader = DataLoader(
        dataset, BATCH, sampler=sampler, collate_fn=same, num_workers=2, worker_init_fn=start_worker, prefetch_factor=2
    )
    with open(given["output"], "a", buffering=1) as file:  # noqa: PTH123
        for _, batch in zip(range(given["count"]), loader, strict=False):
            for example in batch:
                file.write(json.dumps(example) + "\n")


if __name__ == "__main__":
    read(json.loads(sys.argv[1]))
