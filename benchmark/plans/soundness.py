"""A teacher whose weights are damaged is planned to be trained again."""

from kdbench.benchmark.plans.plan import Plan, State, to_be_run
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.records.weights import trained
from kdbench.refusal import Refusal


def with_sound_teachers(made: Plan, store: Store, retry: str | None = None) -> Plan:
    """The plan, made anew if weights that missing students need do not match their teacher's record. These are set
    aside first, so that the teacher is missing too."""
    taught = {entry.cell.teacher.id for entry in made.those(State.MISSING) if entry.cell.teacher}
    sound = True
    for teacher in (entry.cell for entry in made.teachers if entry.state is State.FINISHED and entry.cell.id in taught):
        try:
            trained(teacher, store)
        except Refusal as refusal:
            store.distrust(teacher, str(refusal).partition(": ")[0])
            sound = False
    return made if sound else to_be_run(made.grid, store, retry)
