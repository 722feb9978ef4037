"""A teacher whose weights are damaged is planned to be trained again."""

from kdbench.benchmark.plans.grid import Grid
from kdbench.benchmark.plans.plan import Plan, State, to_be_run
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.records.weights import trained
from kdbench.refusal import Refusal


def with_sound_teachers(grid: Grid, store: Store, retry: str | None) -> Plan:
    """The plan to be run. Weights that missing students need but that do not match their teacher's record are set
    aside, and the plan is made anew: the teacher is missing too."""
    made = to_be_run(grid, store, retry)
    taught = {entry.cell.teacher.id for entry in made.those(State.MISSING) if entry.cell.teacher}
    sound = True
    for teacher in (entry.cell for entry in made.teachers if entry.state is State.FINISHED and entry.cell.id in taught):
        try:
            trained(teacher, store)
        except Refusal as refusal:
            store.distrust(teacher, str(refusal).partition(": ")[0])
            sound = False
    return made if sound else to_be_run(grid, store, retry)
