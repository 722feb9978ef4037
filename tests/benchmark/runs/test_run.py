"""One cell, from what was asked for to a record."""

import statistics
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import kdbench
from kdbench.benchmark import networks
from kdbench.benchmark.data import load
from kdbench.benchmark.data.dataset import Dataset
from kdbench.benchmark.incremental.setting import Incremental
from kdbench.benchmark.records import environment as environment_module
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.record import Record, same_bits
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.records.weights import digest, parameters
from kdbench.benchmark.runs import run as run_module
from kdbench.benchmark.runs.run import run
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.loop import Live
from kdbench.benchmark.training.peak_memory import PeakMemory
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.method import METHODS, Batch, Facts, Method
from kdbench.refusal import Refusal

CPU = Engine(torch.device("cpu"))
Make = Callable[..., Any]


class Ships(Method):
    """Ships more than the student, as SimKD does."""

    source = "features"

    def __init__(self, student: Chain, teacher: Chain, facts: Facts) -> None:
        super().__init__(student, teacher, facts)
        self.extra = nn.Linear(10, 10, bias=False)
        self.noise = nn.Dropout(0.5)
        self.register_buffer("bank", torch.zeros(7))

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        return {"pull": 0.1 * (self.noise(self.extra(student.logits)) - teacher.logits).square().mean()}

    def deployed(self, student: Chain) -> nn.Module:
        return nn.Sequential(student, self.extra)


@pytest.fixture
def ships() -> None:
    METHODS.register("ships")(Ships)


def once(cell: Cell, store: Store, name: str = "", **how: Any) -> Record:
    """Run it, in a folder of its own unless one is named, and keep what came of it."""
    folder = store.folder / (name or f"scratch{len(list(store.folder.glob('scratch*')))}")
    folder.mkdir(parents=True, exist_ok=True)
    record, weights = run(cell, store, CPU, Path(), Checkpoints(folder, how.pop("every", 30)), **how)
    store.finish(record, weights)
    return record


def rebuilt(cell: Cell) -> Chain:
    return networks.build(cell.student, 10, (1, 8, 8))


# -- what a record says -----------------------------------------------------------------------------------------------


def test_a_teachers_weights_are_those_whose_digest_its_record_names(make_cell: Make, store: Store) -> None:
    record = once(make_cell(), store)
    network = rebuilt(record.cell)
    assert digest(network) != record.result.weights
    network.load_state_dict(load_file(store.weights(record.cell)))
    assert digest(network) == record.result.weights
    assert record.result.teacher_weights is record.result.teacher_top1 is None


def test_a_students_record_names_its_teachers_weights_and_accuracy(make_cell: Make, store: Store) -> None:
    cell = make_cell("kd", teacher="resnet8")
    teacher = once(cell.teacher, store)
    record = once(cell, store)
    assert record.result.teacher_weights == teacher.result.weights
    assert record.result.teacher_top1 == teacher.result.top1
    assert not store.weights(cell).exists()  # it was not trained with labels alone


def test_the_fields_of_a_record_agree_with_one_another(make_cell: Make, store: Store) -> None:
    record = once(make_cell(), store)
    result, cost, epochs = record.result, record.cost, record.cell.recipe.epochs
    curves = result.curves
    assert record.id == record.cell.id
    assert [len(curve) for curve in (curves.lr, curves.top1, curves.test_loss, curves.terms["task"])] == [epochs] * 4
    assert len(cost.epoch_seconds) == epochs
    assert result.top1 == curves.top1[-1]
    assert result.test_loss == curves.test_loss[-1]
    assert result.best_top1 == max(curves.top1) == curves.top1[result.best_epoch - 1]
    assert 0 <= result.top1 <= result.top5 <= 100
    assert 0 < cost.seconds <= cost.wall_seconds
    assert cost.images_per_second == pytest.approx(statistics.median(300 / s for s in cost.epoch_seconds), rel=0.05)
    assert cost.peak_memory_mb > 50
    assert record.environment.arithmetic["threads"] == torch.get_num_threads()
    assert torch.__version__.startswith(record.environment.versions["torch"])
    assert record.environment.versions["kdbench"] == kdbench.__version__


def test_all_parameters_are_counted_where_they_are(make_cell: Make, store: Store, ships: None) -> None:
    cell = make_cell("ships", teacher="resnet8")
    plain, taught = once(cell.teacher, store).cost, once(cell, store).cost
    assert plain.student_parameters == plain.deployed_parameters == parameters(rebuilt(cell.teacher))
    assert plain.method_parameters == 0
    assert taught.student_parameters == parameters(rebuilt(cell))
    assert taught.deployed_parameters == taught.student_parameters + 100
    assert taught.method_parameters == 107


def test_what_is_deployed_is_what_is_tested_and_digested(make_cell: Make, store: Store, ships: None) -> None:
    cell = make_cell("ships", teacher="resnet8")
    once(cell.teacher, store)
    checkpoints = Checkpoints(store.folder / "kept", every=0)
    record, weights = run(cell, store, CPU, Path(), checkpoints)
    assert weights is None  # it may not teach
    saved = checkpoints.load()
    assert saved
    student, extra = rebuilt(cell), nn.Linear(10, 10, bias=False)
    student.load_state_dict(saved["student"])
    extra.load_state_dict({"weight": saved["method"]["extra.weight"]})
    whole = nn.Sequential(student, extra).eval()
    assert digest(whole) == record.result.weights
    data = load("digits", Path())
    images = (data.test.images / 255 - data.mean[0]) / data.std[0]
    right = (whole(images).argmax(1) == data.test.labels).double().mean()
    assert record.result.top1 == pytest.approx(100 * right.item(), abs=0.2)


def test_the_peak_of_memory_is_seen_even_in_a_block_that_is_over_at_once() -> None:
    with PeakMemory(CPU) as memory:
        pass
    assert memory.peak > 2**20


def test_the_peak_of_memory_is_that_of_the_engines_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    used = {torch.device("cuda", 1): 7}
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", used.__getitem__)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", used.__getitem__)
    with PeakMemory(Engine(torch.device("cuda", 1))) as memory:
        pass
    assert memory.peak == 7


def test_a_record_names_the_code_that_was_there_when_its_run_began(
    make_cell: Make, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = SimpleNamespace(stdout="before")
    monkeypatch.setattr(environment_module.subprocess, "run", lambda *_, **__: git)
    environment_module.commit.cache_clear()
    record = once(make_cell(), store, watch=lambda _: vars(git).update(stdout="after"))
    environment_module.commit.cache_clear()
    assert record.environment.git.startswith("before")


def test_a_run_that_went_on_in_another_environment_has_the_name_of_neither(
    make_cell: Make, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(live: Live) -> None:
        if live.epoch == 2:
            raise Stopped

    class Stopped(Exception): ...

    whole = once(make_cell(), store)
    for _ in range(2):  # where it began, a kill changes nothing
        with pytest.raises(Stopped):
            once(make_cell(), store, "stopped", every=0, watch=stop)
    assert once(make_cell(), store, "stopped").environment.key == whole.environment.key
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    moved = once(make_cell(), store, "stopped").environment
    began = f"{whole.environment.key} by {whole.environment.git}"
    assert moved.arithmetic == whole.environment.arithmetic | {"threads": 7, "elsewhere": began}
    assert moved.key not in (whole.environment.key, once(make_cell(), store).environment.key)


def test_a_run_that_went_on_by_other_code_is_that_of_neither(
    make_cell: Make, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Exception): ...

    def stop(live: Live) -> None:
        raise Stopped

    whole = once(make_cell(), store)
    with pytest.raises(Stopped):
        once(make_cell(), store, "stopped", every=0, watch=stop)
    monkeypatch.setattr(environment_module, "commit", lambda: "later")
    moved = once(make_cell(), store, "stopped").environment
    assert moved.git == "later" and moved.key != whole.environment.key
    assert moved.arithmetic["elsewhere"] == f"{whole.environment.key} by {whole.environment.git}"


# -- the same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ce", "kd", "ships"])
def test_the_same_cell_gives_the_same_bits_whatever_was_drawn_before(
    make_cell: Make, store: Store, ships: None, method: str
) -> None:
    cell = make_cell(method, teacher=None if method == "ce" else "resnet8")
    if cell.teacher:
        once(cell.teacher, store)
    one = once(cell, store)
    torch.manual_seed(4711)
    other = once(cell, store)
    assert same_bits(one.result, other.result)


def test_seeds_differ_and_methods_share_a_seeds_first_weights(make_cell: Make, store: Store) -> None:
    zero, one = once(make_cell(seed=0), store), once(make_cell(seed=1), store)
    assert not same_bits(zero.result, one.result)
    # kd without its own term, and with all of cross-entropy, is ce
    cell = make_cell("kd", teacher="resnet8", params={"weight": 0.0, "ce_weight": 1.0})
    once(cell.teacher, store)
    assert once(cell, store).result.weights == zero.result.weights


@pytest.mark.parametrize("step", [1, 7, 19, 20, 23])
def test_a_run_that_was_interrupted_ends_with_the_same_bits(
    make_cell: Make, store: Store, ships: None, step: int
) -> None:
    class Stopped(Exception):
        pass

    steps = 0

    def stop(live: Live) -> None:
        nonlocal steps
        steps += 1
        if steps == step:
            raise Stopped

    cell = make_cell("ships", teacher="resnet8")
    once(cell.teacher, store)
    undisturbed = once(cell, store)
    with pytest.raises(Stopped):
        once(cell, store, "resumed", every=0, watch=stop)
    seen: list[Live] = []
    resumed = once(cell, store, "resumed", watch=seen.append)
    assert same_bits(undisturbed.result, resumed.result)
    assert len(seen) == 2 * seen[0].steps - step  # nothing that was saved is done again


# -- a teacher or data that are not the ones --------------------------------------------------------------------------


class Stopped(Exception): ...


def in_the_second_epoch(live: Live) -> None:
    if live.epoch == 2:
        raise Stopped


def test_a_student_whose_teacher_was_trained_anew_begins_anew(
    make_cell: Make, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not half of it by the one and half of it by the other."""
    cell = make_cell("kd", teacher="resnet8")
    once(cell.teacher, store)
    with pytest.raises(Stopped):
        once(cell, store, "stopped", every=0, watch=in_the_second_epoch)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(run_module, "stream", lambda *_: 4711)
        once(cell.teacher, store)
    with pytest.warns(UserWarning, match="is from a run with another teacher: training restarts"):
        resumed = once(cell, store, "stopped")
    assert same_bits(resumed.result, once(cell, store).result)


@pytest.mark.parametrize("asked", [{}, {"setting": "incremental", "incremental": Incremental(count=5)}])
def test_a_run_whose_data_changed_while_it_was_stopped_begins_anew(
    make_cell: Make, store: Store, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]
) -> None:
    cell = make_cell(**asked)
    with monkeypatch.context() as before, pytest.raises(Stopped):
        before.setattr(Dataset, "digest", lambda _: "earlier images")
        once(cell, store, "stopped", every=0, watch=in_the_second_epoch)
    with pytest.warns(UserWarning, match="is from a run with other data: training restarts"):
        resumed = once(cell, store, "stopped")
    assert same_bits(resumed.result, once(cell, store, "anew").result)


def test_a_file_that_changed_since_the_cell_was_declared_is_not_run(make_cell: Make, store: Store) -> None:
    """Its teacher's files count too: who starts later, as another worker does, would load what they are by then."""
    for cell in (make_cell(code={"mine.py": "0" * 12}), make_cell("kd", teacher=make_cell(code={"mine.py": "0" * 12}))):
        assert refusal(cell, store) == "mine.py must be loaded for this cell: pass it with --with"


def refusal(cell: Cell, store: Store) -> str:
    with pytest.raises(Refusal) as refused:
        once(cell, store)
    sentence = str(refused.value)
    assert "\n" not in sentence
    return sentence


def test_a_student_is_refused_without_its_teachers_record_or_weights(make_cell: Make, store: Store) -> None:
    cell = make_cell("kd", teacher="resnet8")
    assert refusal(cell, store) == f"the teacher {cell.teacher.id} must be trained first"
    once(cell.teacher, store)
    store.weights(cell.teacher).unlink()
    assert refusal(cell, store) == f"the teacher {cell.teacher.id} must be trained first"


def test_other_weights_in_the_teachers_file_are_refused(make_cell: Make, store: Store) -> None:
    cell = make_cell("kd", teacher="resnet8")
    once(cell.teacher, store)
    file = store.weights(cell.teacher)
    weights = load_file(file)
    last = next(reversed(weights))
    weights[last].view(-1)[0] = torch.nextafter(weights[last].view(-1)[0], torch.tensor(1e9))
    save_file(weights, file)
    assert "must hold the weights that the teacher's record names, got others" in refusal(cell, store)


@pytest.mark.parametrize("damage", ["cut", "empty", "another network"])
def test_damaged_weights_are_refused_in_a_sentence(make_cell: Make, store: Store, damage: str) -> None:
    cell = make_cell("kd", teacher="resnet8")
    once(cell.teacher, store)
    file = store.weights(cell.teacher)
    if damage == "another network":
        save_file({"weight": torch.zeros(3)}, file)
    else:
        file.write_bytes(file.read_bytes()[:1000] if damage == "cut" else b"")
    sentence = refusal(cell, store)
    assert str(file) in sentence
    assert "damaged" in sentence
