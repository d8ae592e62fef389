"""What servers say of how many requests they take at once."""

from __future__ import annotations

import pytest

from vivace.generate.capacity_probe import capacity_of


@pytest.mark.parametrize(
    ("body", "slots"),
    [
        (b'{"total_slots": 4, "model_path": "m"}', 4),
        (b'[{"id": 0}, {"id": 1}]', 2),
        (b'{"vllm_config": {"scheduler_config": {"max_num_seqs": 256}}}', 256),
        (b'{"vllm_config": "SchedulerConfig(max_num_seqs=128, x=1)"}', 128),
        (b"[]", None),
        (b"[1, 2]", None),
        (b"{}", None),
        (b'{"total_slots": 0}', None),
        (b'{"total_slots": true}', None),
        (b'{"total_slots": "4"}', None),
        (b'{"total_slots": 1000000}', None),
        (b"<html>", None),
        (b'"4"', None),
        (b"\xff", None),
    ],
)
def test_what_a_body_tells(body: bytes, slots: int | None) -> None:
    assert capacity_of(body) == slots
