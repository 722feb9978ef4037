"""Where and how the arithmetic is done: the precision, what is compiled, and that no step waits for the device."""

import os
import platform
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from kdbench import methods
from kdbench.benchmark.data import Dataset
from kdbench.benchmark.runs.crew import describe
from kdbench.benchmark.training.engine import LONG, Compile, Engine
from kdbench.benchmark.training.loop import training
from kdbench.benchmark.training.recipe import Recipe
from kdbench.methods import precision
from kdbench.methods.chain import Chain
from kdbench.methods.method import Method, Needs
from tests.conftest import train

Make = Callable[..., Chain]
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def kd(student: Chain, teacher: Chain, dataset: Dataset, recipe: Recipe) -> Method:
    return methods.create("kd", student, teacher, recipe.facts(4, dataset.train.labels))


# -- memory -----------------------------------------------------------------------------------------------------------

FAULTS = """
import resource, sys, torch
from kdbench.benchmark.training.engine import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    del [torch.ones(2**21) for _ in range(8)][:]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another system's library gives memory back otherwise")
def test_an_error_that_is_looked_at_is_not_kept_with_all_that_was_trained() -> None:
    class Trained: ...

    def fails() -> weakref.ref[Trained]:
        trained = Trained()
        try:
            raise ValueError(trained)
        except ValueError as error:
            assert describe(error).startswith("ValueError")
        return weakref.ref(trained)

    assert fails()() is None


def test_a_step_s_memory_is_kept_for_the_next_one() -> None:
    """64 MiB are taken and left four times: the last time no page of them is new to the process. How much glibc learns
    to keep by itself is a matter of luck: its threshold is held."""
    fixed = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**17)}
    usual, kept = (
        int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True, env=fixed).stdout)
        for how in ("usual", "kept")
    )
    assert kept < 100 < usual


# -- what is compiled -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "asked", "steps", "settled"),
    [
        (GPU, "auto", LONG, "on"),
        (GPU, "auto", LONG - 1, "off"),
        (CPU, "auto", 100 * LONG, "off"),
        (CPU, "on", 1, "on"),
        (GPU, "off", 100 * LONG, "off"),
    ],
)
def test_auto_compiles_long_runs_on_a_gpu(device: torch.device, asked: Compile, steps: int, settled: str) -> None:
    assert Engine(device, compile=asked).settled(steps, Needs()).compile == settled


def test_what_differentiates_by_the_images_is_never_compiled() -> None:
    assert Engine(CPU, compile="on").settled(LONG, Needs(input_grad=True)).compile == "off"


def test_what_waits_for_the_device_is_never_compiled() -> None:
    assert Engine(CPU, compile="on").settled(LONG, Needs(compilable=False)).compile == "off"


def test_a_run_that_is_compiled_is_in_another_environment_and_one_that_is_not_stays_in_its_own() -> None:
    on, auto, off = (Engine(CPU, compile=asked).arithmetic("fp32") for asked in ("on", "auto", "off"))
    assert on == off | {"compile": "default"}
    assert auto == off


@pytest.mark.parametrize(
    ("multiplies", "amx", "way"),
    [(False, False, "in fp32"), (True, False, None), (True, True, "AMX")],
)
def test_a_run_in_bf16_is_in_another_environment_where_bf16_is_multiplied_in_another_way(
    multiplies: bool, amx: bool, way: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "CPU_MULTIPLIES", multiplies)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    exact = Engine(CPU).arithmetic("fp32")
    assert "bf16" not in exact
    assert Engine(CPU).arithmetic("bf16") == exact | ({"bf16": way} if way else {})


def test_a_run_is_in_another_environment_where_libraries_were_told_to_compute_in_another_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A processor with AMX that is told to leave it multiplies as one without: other bits, by the same name."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "")
    untold = Engine(CPU).arithmetic("bf16")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    assert Engine(CPU).arithmetic("bf16") == untold | {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "")
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX2")
    assert Engine(CPU).arithmetic("bf16") == untold | {"DNNL_MAX_CPU_ISA": "AVX2"}


# -- the same bits ----------------------------------------------------------------------------------------------------


def test_on_a_gpu_sums_are_added_in_a_fixed_order_and_where_torch_cannot_it_warns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What torch is told; no GPU is needed for that, and none is asked whether it obeys."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        Engine(CPU).prepare()
        assert not torch.are_deterministic_algorithms_enabled()
        Engine(GPU).prepare()
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        fused = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()
        assert fused == (False, False) and torch.backends.cuda.math_sdp_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        for enable in ("enable_flash_sdp", "enable_mem_efficient_sdp", "enable_cudnn_sdp"):
            getattr(torch.backends.cuda, enable)(True)
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


# -- precision --------------------------------------------------------------------------------------------------------


def test_in_bf16_networks_compute_in_bf16_and_everything_else_stays_in_fp32(
    make_student: Make, dataset: Dataset, recipe: Recipe
) -> None:
    student, teacher = make_student(0), make_student(1)
    convolved: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    for network in (student, teacher):
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda m, _, out: convolved[m.training].add(out.dtype))
    recipe = msgspec.structs.replace(recipe, precision="bf16")
    method = kd(student, teacher, dataset, recipe)
    train(student, teacher, method, dataset, recipe, 0, engine=Engine(CPU))
    assert convolved == {True: {torch.bfloat16}, False: {torch.bfloat16}}  # the test set and the teacher too
    kept = [value for value in student.state_dict().values() if value.is_floating_point()]
    assert {value.dtype for value in (*kept, *(p.grad for p in student.parameters()))} == {torch.float32}


# -- no step waits for the device -------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_no_step_within_an_epoch_waits_for_the_device(
    optimizer: Any, make_student: Make, dataset: Dataset, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waits(self: Tensor, *_: object, **__: object) -> None:
        raise AssertionError("a step asks for a number, and must wait until the device has it")

    recipe = msgspec.structs.replace(recipe, optimizer=optimizer)
    student, teacher = make_student(0), make_student(1)
    steps = training(student, teacher, kd(student, teacher, dataset, recipe), dataset, recipe, 0, engine=Engine(CPU))
    next(steps)
    with monkeypatch.context() as within:
        for name in ("item", "tolist", "__float__", "__int__", "__index__", "__bool__", "cpu", "numpy", "nonzero"):
            within.setattr(Tensor, name, waits)
        assert [next(steps).step for _ in range(3)] == [2, 3, 4]
    assert next(steps).epoch == 2
