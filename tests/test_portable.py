"""The same bits on every x86 processor with AVX2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdbench import portable
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.training.engine import Engine
from kdbench.refusal import Refusal

TINY = "students: resnet8x0.25\nmethods: [ce]\nseeds: 1\ndatasets: digits\nrecipe: {base: quick, epochs: 1}\n"
TEACHER = "students: resnet14x2\nmethods: [ce]\nseeds: 1\ndatasets: digits\nrecipe: quick\n"
# By an AMD EPYC with AVX2. An Intel Xeon with AVX-512 gave the same weights, dccd12b2…; each in its own way the two
# have fc20c6b5… and 555b5db9….
OURS = Store(Path(__file__).parents[1] / "results")

needs_avx2 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="a processor without AVX2"
)


def kdbench(folder: Path, *words: str) -> str:
    """As somebody runs it in whose shell nothing is told to libraries."""
    untold = {name: value for name, value in os.environ.items() if name not in portable.TOLD}
    code = "from kdbench.benchmark import cli; cli.main()"
    command = [sys.executable, "-c", code, *words]  # what starts again must find all of it
    done = subprocess.run(command, cwd=folder, env=untold, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ran(folder: Path, grid: str) -> Record:
    (folder / "grid.yaml").write_text(grid)
    kdbench(folder, "run", "grid.yaml", "--portable", "--workers", "2")
    store = Store(folder / "results")
    record = store.record(next(iter(store.outlines())))
    assert record is not None
    return record


@needs_avx2
def test_a_portable_run_says_so_and_a_rerun_is_one_unasked(tmp_path: Path) -> None:
    record = ran(tmp_path, TINY)
    facts = {"device": "AVX2", "threads": 1, "channels_last": True, "portable": True, "torch": str(torch.__version__)}
    assert record.environment.arithmetic == facts
    again = kdbench(tmp_path, "run", "--cell", record.id)
    assert again.startswith(f"{record.id} was run with --portable, and is run with it again\n")
    assert again.endswith("The same bits as the record.\n")


@pytest.mark.slow
@needs_avx2
@pytest.mark.skipif(not torch.__version__.startswith("2.14.1"), reason="another torch rounds in other ways")
def test_a_portable_run_has_the_bits_that_two_makers_processors_have_given_it(tmp_path: Path) -> None:
    record = ran(tmp_path, TEACHER)
    ours = OURS.record(record.id)
    assert ours and record.result == ours.result


def test_where_there_is_no_avx2_the_refusal_says_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in portable.TOLD:
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(portable, "_instructions", lambda: "DEFAULT")
    with pytest.raises(Refusal, match="--portable needs an x86 processor with AVX2, got one with DEFAULT"):
        portable.compute_portably()
    assert not portable.can_be_portable()


def test_what_libraries_were_told_besides_is_another_environment_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in portable.TOLD.items():
        monkeypatch.setenv(name, value)
    engine = Engine(torch.device("cpu"))
    assert "cpu" not in engine.arithmetic("fp32")
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
    told = engine.arithmetic("fp32")
    assert told["portable"] and told["ONEDNN_DEFAULT_FPMATH_MODE"] == "BF16"
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    assert "portable" not in engine.arithmetic("fp32")


def test_bf16_is_computed_in_fp32_wherever_a_run_is_portable() -> None:
    """Its instructions are not those of every processor."""
    look = "from kdbench.methods.precision import way_of_multiplying_bf16 as way; print(way())"
    told = os.environ | portable.TOLD
    assert subprocess.run([sys.executable, "-c", look], env=told, capture_output=True, text=True).stdout == "in fp32\n"
