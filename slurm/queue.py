"""Asks the scheduler which of our jobs wait or run. The outcome of a cell is in its record."""

import re
import subprocess
from dataclasses import dataclass

from kdbench.refusal import Refusal

USUAL_ARRAY = 1001  # jobs, unless a cluster says otherwise


@dataclass(frozen=True)
class Queued:
    job: str  # 123 or 123_4, as scancel takes it
    state: str  # PENDING, RUNNING, ...
    reason: str


def queued() -> dict[tuple[str, int], Queued]:
    """Our jobs by name and place in their array. This needs no accounting."""
    lines = ask("squeue", "--noheader", "--array", "--me", "--format=%j|%K|%i|%T|%r").splitlines()
    jobs = {}
    for line in lines:
        name, place, job, state, reason = line.rsplit("|", 4)
        jobs[name, int(place) if place.isdigit() else 0] = Queued(job, state, reason)
    return jobs


def cancel(jobs: list[str]) -> None:
    ask("scancel", *jobs)


def largest_array() -> int:
    """The number of jobs that an array may have; one if arrays are switched off."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"), re.MULTILINE)
    return max(1, int(match[1])) if match else USUAL_ARRAY


def gpu_types(partition: str | None) -> set[str]:
    """The named types of GPU on the nodes of a partition."""
    where = ["--partition", partition] if partition else []
    resources = ask("sinfo", "--noheader", "--format=%G", *where)
    return set(re.findall(r"gpu:([\w.-]+):\d", resources))  # a type may be 3090; without a type there is only a number


def ask(*command: str) -> str:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        raise Refusal(f"SLURM must be available on this machine, but there is no command '{command[0]}'") from None
    except subprocess.TimeoutExpired:
        raise Refusal(f"SLURM must answer within a minute, but '{command[0]}' did not") from None
    if answer.returncode:
        why = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        raise Refusal(f"SLURM refused '{command[0]}': {why[-1]}")
    return answer.stdout
