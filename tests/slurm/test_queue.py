"""What is read from the scheduler's answers."""

import pytest

from kdbench.slurm import queue


@pytest.mark.parametrize(
    ("resources", "types"),
    [
        ("gpu:v100:2\ngpu:3090:4(S:0-1)\ngpu:2080ti:8,nvme:100\n", {"v100", "3090", "2080ti"}),
        ("gpu:a100_1g.5gb:7(S:0),gpu:nvidia_a100-sxm4:1", {"a100_1g.5gb", "nvidia_a100-sxm4"}),
        ("gpu:4(S:0-1)\ngpu:4,gpu:2\n(null)\n", set()),
    ],
)
def test_types_of_gpu_are_told_from_numbers(monkeypatch: pytest.MonkeyPatch, resources: str, types: set[str]) -> None:
    monkeypatch.setattr(queue, "ask", lambda *_: resources)
    assert queue.gpu_types("gpu") == types
