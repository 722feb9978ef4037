"""What the tests of single records and of packs share."""

from pathlib import Path

from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Store


def single(store: Store, record: Record) -> Path:
    return store.records_folder / f"{record.id}.json"


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def by_id(records: list[Record]) -> dict[str, Record]:
    return {record.id: record for record in records}
