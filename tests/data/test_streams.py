"""The order of training data: exact repetition of weights, exact resumption, nothing twice or lost over processes and workers."""

from __future__ import annotations

from collections import Counter as Tally
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pytest
from torch.utils.data import DataLoader

from winwin_hf.data.sources import Source
from winwin_hf.data.streams import Mixture, Part, PartReader, Streams, ordered


def source(name: str, rows: int, shards: int | None = None) -> Source:
    table = datasets.Dataset.from_dict({"name": [f"{name}{i}" for i in range(rows)]})
    dataset = table if shards is None else table.to_iterable_dataset(num_shards=shards)
    return Source(name, "optical-flow", dataset, lambda example, rng: example["name"])  # type: ignore[arg-type, return-value]


def scenes(name: str) -> Source:
    return Source(name, "optical-flow", datasets.Dataset.from_dict({}), None, at=lambda n: {"name": f"{name}{n}"})  # type: ignore[arg-type]


def same(examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return examples


def names(dataset: Any, numbers: range) -> list[str]:
    return [dataset[n]["name"] for n in numbers]


def test_an_epoch_of_one_set_is_a_permutation_and_the_next_another() -> None:
    mixture = Mixture([Part(source("a", 7))], seed=3)
    first, second = names(mixture, range(7)), names(mixture, range(7, 14))
    assert sorted(first) == sorted(second) == [f"a{i}" for i in range(7)]
    assert first != second
    assert names(Mixture([Part(source("a", 7))], seed=3), range(14)) == first + second
    assert names(Mixture([Part(source("a", 7))], seed=4), range(7)) != first


def test_wrong_numbers_are_named() -> None:
    for wrong in ({"weight": 0}, {"weight": -1}, {"weight": float("nan")}, {"length": 0}, {"length": -1}):
        with pytest.raises(ValueError, match=f"Part: {next(iter(wrong))}"):
            Part(source("a", 7), **wrong)
    for wrong in ({"world": -1}, {"workers": -1}, {"parts": []}):
        with pytest.raises(ValueError, match=f"Mixture: {next(iter(wrong))}: expected at least"):
            Mixture(**{"parts": [Part(source("a", 7))], "seed": 0, **wrong})
    with pytest.raises(IndexError, match="example -1; expected 0 or more"):
        Mixture([Part(source("a", 7))], seed=0)[-1]
    with pytest.raises(ValueError, match="an epoch of 7,000,000,000 examples"):
        Mixture([Part(source("a", 7000), weight=1e6)], seed=0)


def test_order_of_one_set_is_pinned() -> None:
    """A resumed training continues in the same order on any version: epoch e is `default_rng([seed, e]).permutation`."""
    mixture = Mixture([Part(source("a", 10))], seed=0)
    expected = [f"a{i}" for e in (0, 1) for i in np.random.default_rng([0, e]).permutation(10)]
    assert names(mixture, range(20)) == expected


def test_weights_repeat_each_set_exactly() -> None:
    parts = [Part(source("a", 3), weight=4), Part(source("b", 10)), Part(source("c", 8), weight=0.5)]
    mixture = Mixture(parts, seed=0)
    epoch = 12 + 10 + 4
    tally = Tally(names(mixture, range(epoch)))
    assert all(tally[f"a{i}"] == 4 for i in range(3))
    assert all(tally[f"b{i}"] == 1 for i in range(10))
    halves = [{n for n in names(mixture, range(e * epoch, (e + 1) * epoch)) if n[0] == "c"} for e in (0, 1)]
    assert len(halves[0]) == 4
    assert halves[0] | halves[1] == {f"c{i}" for i in range(8)}  # taking turns


def test_endless_set_in_a_mixture_goes_on_where_the_last_epoch_ended() -> None:
    mixture = Mixture([Part(source("a", 2)), Part(scenes("s"), length=3)], seed=0)
    seen = [n for n in names(mixture, range(15)) if n[0] == "s"]
    assert sorted(seen) == sorted(f"s{i}" for i in range(9))
    with pytest.raises(ValueError, match=r"data\.sets\.\d\.length: s is read as a stream, or has no end"):
        Mixture([Part(source("a", 2)), Part(scenes("s"))], seed=0)


def test_length_takes_the_first_examples_only() -> None:
    mixture = Mixture([Part(source("a", 9), length=4)], seed=0)
    assert set(names(mixture, range(8))) == {"a0", "a1", "a2", "a3"}


def test_reader_of_a_mixture_is_that_of_the_examples_set() -> None:
    reader = PartReader(
        [lambda example, rng: ("first", example["name"]), lambda example, rng: ("second", example["name"])]
    )
    mixture = Mixture([Part(source("a", 3)), Part(source("b", 3))], seed=0)
    rng = np.random.default_rng(0)
    for n in range(6):
        example = mixture[n]
        assert reader(example, rng) == ({"a": "first", "b": "second"}[example["name"][0]], example["name"])
        assert example["index"] == n


@dataclass
class Run:
    """What `steps` batches of each of `world` processes read, from batch `start` on."""

    parts: list[Part]
    world: int = 2
    workers: int = 2
    batch: int = 2

    def __call__(self, start: int, steps: int) -> list[list[tuple[int, str]]]:
        read = []
        for rank in range(self.world):
            dataset, sampler = ordered(self.parts, 5, rank, self.world, self.workers, start * self.batch * self.world)
            loader = DataLoader(dataset, self.batch, sampler=sampler, collate_fn=same, num_workers=self.workers)
            batches = iter(loader)
            read.append([(e["index"], e["name"]) for _ in range(steps) for e in next(batches)])
        return read


MIXES = {
    "rows": lambda: [Part(source("a", 16))],
    "mixture": lambda: [Part(source("a", 3), weight=2), Part(source("b", 10))],
    "stream": lambda: [Part(source("a", 16, shards=4))],
    "stream, shards not divided by processes": lambda: [Part(source("a", 15, shards=3))],
    "streamed mixture": lambda: [Part(source("a", 8, shards=4), length=8), Part(source("b", 6), weight=2)],
}


@pytest.mark.parametrize("mix", MIXES)
def test_two_processes_with_two_workers_resume_exactly(mix: str) -> None:
    run = Run(MIXES[mix]())
    whole = run(0, 8)
    half = 4 * run.batch
    assert run(4, 4) == [rank[half:] for rank in whole]
    indices = [index for rank in whole for index, _ in rank]
    assert len(set(indices)) == len(indices)  # no two draw the same randomness


@pytest.mark.parametrize("mix", ["rows", "stream"])
def test_two_processes_with_two_workers_read_each_example_once_a_pass(mix: str) -> None:
    whole = Run(MIXES[mix](), batch=2)(0, 4)  # 2 processes x 4 batches x 2 examples = one pass over 16
    assert Tally(name for rank in whole for _, name in rank) == Tally(f"a{i}" for i in range(16))


def test_streams_too_few_shards_is_an_error_that_says_what_to_do() -> None:
    stream = Streams([Part(source("a", 8, shards=1))], 0, 0, 1)
    loader = DataLoader(stream, 2, collate_fn=same, num_workers=2)
    with pytest.raises(ValueError, match=r"a: 1 shards for the 2 loader processes.*Make more shards"):
        next(iter(loader))


def test_streamed_mixture_keeps_the_shares() -> None:
    parts = [
        Part(source("a", 300, shards=2), length=300, weight=3),
        Part(source("b", 100)),
    ]  # long: to begin a pass takes time
    stream = iter(Streams(parts, 0, 0, 1))
    tally = Tally(next(stream)["name"][0] for _ in range(600))
    assert 0.86 < tally["a"] / 600 < 0.94


def test_stream_is_shuffled_anew_each_pass() -> None:
    stream = iter(Streams([Part(source("a", 12, shards=2))], 0, 0, 1))
    passes = [[next(stream)["name"] for _ in range(12)] for _ in range(2)]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(f"a{i}" for i in range(12))
    assert passes[0] != passes[1]
