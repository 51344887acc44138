"""Memory that is too small: what fits is found by trying, with all memory given back before."""

from __future__ import annotations

import weakref

import pytest
import torch

from winwin_hf.model.memory_winwin import (
    explained,
    first_that_fits,
    is_out_of_memory,
    memory_of,
    smaller_counts,
    smaller_sizes,
)


class Tensors:
    """Something large, held by a local variable."""


def test_what_the_failed_pass_held_is_free_before_anything_is_tried():
    held = []

    def run() -> None:
        tensors = Tensors()
        held.append(weakref.ref(tensors))
        raise torch.OutOfMemoryError("CUDA out of memory")

    def explain(may_try: bool) -> str:
        assert may_try and held[0]() is None
        return "1088 x 1920 pixels take more"

    with pytest.raises(torch.OutOfMemoryError, match=r"^1088 x 1920 pixels take more$"):
        explained(run, explain)
    assert explained(lambda: 3, explain) == 3


def test_other_errors_pass():
    def fail() -> None:
        raise RuntimeError("sizes differ")

    with pytest.raises(RuntimeError, match="sizes differ"):
        explained(fail, str)
    with pytest.raises(RuntimeError, match="sizes differ"):
        first_that_fits(lambda _: fail(), [1])


def test_nothing_is_tried_where_the_cpus_memory_is_short():
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(found.value)

    def run() -> None:
        torch.empty(2**60, dtype=torch.uint8)

    with pytest.raises(torch.OutOfMemoryError, match=r"^False$"):
        explained(run, str)


def test_the_first_that_fits():
    tried = []

    def trial(size: int) -> None:
        tried.append(size)
        if size > 2:
            raise RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)")

    assert first_that_fits(trial, [8, 4, 2, 1]) == 2 and tried == [8, 4, 2]
    assert first_that_fits(trial, [8, 4]) is None


def test_smaller_sizes_are_whole_patches_of_the_same_shape():
    sizes = smaller_sizes(1088, 1920, 16)
    assert sizes[0] == (768, 1344) and sizes[1] == (544, 960) and len(sizes) == 5
    assert all(0.9 < height * width * 2**k / (1088 * 1920) <= 1 for k, (height, width) in enumerate(sizes, start=1))
    assert all(height % 16 == width % 16 == 0 for height, width in sizes)
    assert smaller_sizes(16, 16, 16) == []


@pytest.mark.parametrize(("count", "fewer"), [(96, [48, 24, 12, 6, 3]), (6, [3, 1]), (7, [1]), (1, [])])
def test_fewer_examples_divide_the_batch(count, fewer):
    """So that with more accumulation a step has the same examples."""
    assert smaller_counts(count) == fewer


def test_a_device_that_does_not_tell_its_memory():
    assert memory_of("cpu") == memory_of(torch.device("cpu")) == "cpu"
