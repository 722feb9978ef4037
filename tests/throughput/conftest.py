"""Throughput records that were never measured; cells and commands are fixtures of the benchmark's tests."""

from collections.abc import Callable
from typing import Any

import pytest

from kdbench.benchmark.records.record import Environment
from kdbench.benchmark.throughput.record import Pace, Throughput
from tests.benchmark.conftest import kdbench, make_cell  # noqa: F401
from tests.benchmark.runs.conftest import command  # noqa: F401

MakeThroughput = Callable[..., Throughput]


def pace(speed: float) -> Pace:
    """A pace, where training on labels only has 1,000 images a second."""
    return Pace(cost=1000 / speed, images_per_second=speed, step_ms=64e3 / speed, peak_memory_mb=900.0, tflops=0.05)


@pytest.fixture
def make() -> MakeThroughput:
    """``make("kd", live=pace(500.0), environment="elsewhere")``."""

    def make(method: str = "kd", environment: str = "here", **changes: Any) -> Throughput:
        where = Environment(key=environment, arithmetic={}, machine={}, versions={}, git="", finished="2026-01-01")
        basis = {
            "id": f"cifar100-{method}", "dataset": "cifar100", "teacher": "big" if method != "ce" else "",
            "student": "small", "params": {}, "recipe": "cifar-240", "epochs": 240, "batch": 64, "precision": "fp32",
            "live": pace(1000.0), "peak_tflops": 0.2, "method_parameters": 0, "student_parameters": 10,
            "deployed_parameters": 10, "teacher_macs": 5, "student_macs": 2,
        }  # fmt: skip
        return Throughput(method=method, environment=where, **(basis | changes))

    return make
