"""What the tests of plans share."""

from kdbench.benchmark.plans.plan import Plan
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.record import Failure, Record
from kdbench.benchmark.records.store import Store


def finish(store: Store, record: Record) -> None:
    """A record, and the weights that whoever was trained with labels leaves too."""
    store.finish(record)
    if record.cell.method == "ce":
        store.weights(record.cell).parent.mkdir(parents=True, exist_ok=True)
        store.weights(record.cell).touch()


def failed(cell: Cell) -> Failure:
    return Failure(id=cell.id, cell=cell, error="Diverged: the loss is no longer a number", traceback="", failed="")


def states(made: Plan) -> dict[str, str]:
    return {f"{entry.cell.student} {entry.cell.method}": entry.state.value for entry in made.entries}
