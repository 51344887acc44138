"""scripts/research/fingerprint.py: the same numbers give the same print, and a difference is named."""

from __future__ import annotations

import torch
from research.fingerprint import differences, digest


def test_a_digest_sees_a_value_a_shape_and_a_kind():
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    assert digest(tensor) == digest(tensor.clone()) == digest(tensor.T.contiguous().T)  # not how it lies in memory
    changed = tensor.clone()
    changed[1, 2] = torch.nextafter(changed[1, 2], torch.tensor(0.0))
    assert len({digest(each) for each in (tensor, changed, tensor.reshape(3, 2), tensor.bfloat16())}) == 4


def test_differences_are_named():
    before = {"flow": {"losses": [1.0, 2.0], "weights": {"a": "0"}}, "threads": 2}
    assert list(differences(before, before)) == []
    after = {"flow": {"losses": [1.0, 2.5], "weights": {"b": "0"}}, "threads": 2}
    assert list(differences(before, after)) == [
        "/flow/losses: [1.0, 2.0] before, [1.0, 2.5] after",
        "/flow/weights/a: only before",
        "/flow/weights/b: only after",
    ]
    assert list(differences(before, {"threads": 2})) == ["/flow: only before"]
