"""Sites: one YAML file describes a cluster, and what kdbench asks it for."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kdbench.benchmark.conversion import shown
from kdbench.benchmark.document import find, read
from kdbench.benchmark.training.recipe import Count

SHIPPED = Path(__file__).parent / "sites"

# Options by which kdbench finds its jobs, and on which it relies when they wait, end and are requeued.
OURS = {
    *("job_name", "array", "dependency", "nodes", "ntasks", "ntasks_per_node", "signal", "output", "error"),
    *("open_mode", "array_parallelism", "signal_delay_s", "srun_args", "stderr_to_stdout"),  # submitit's names
}  # fmt: skip
SHORTEST = 5  # minutes: the scheduler warns of a job's end up to two and a half minutes before


class Site(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a job asks for. One job is one worker with its GPUs, and runs one cell after the other. A cell with world N
    gets a job with N such workers on one node."""

    about: str = ""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: Annotated[int, Meta(ge=0)] | str = 1  # per job; with a type if the cluster has several: "h200:1"
    cpus: Count = 8
    memory: str = "32G"
    minutes: Count | str = 240  # the longest that a job may ask for; longer cells resume in the next job
    at_once: Count = 16  # jobs
    worthwhile: Annotated[int, Meta(ge=0)] = 20  # minutes: shorter cells share a job until it is this long
    setup: tuple[str, ...] = ()  # shell commands before Python starts
    environment: dict[str, str] = {}
    python: str | None = None  # command that starts Python, for example in a container; default: this interpreter
    srun: tuple[str, ...] = ()  # further arguments of srun
    scratch: str | None = None  # a local disk of the node, such as $SLURM_TMPDIR: data are read from a copy there
    sbatch: dict[str, Any] = {}  # other options of sbatch; null removes an option

    def __post_init__(self) -> None:
        if self.longest < SHORTEST:
            raise ValueError(f"minutes must be at least {SHORTEST} for a job to do any work, got {self.minutes}")
        if isinstance(self.gpus, str) and not re.fullmatch(r"[\w.-]+:\d+", self.gpus):
            raise ValueError(f"gpus must be a number or TYPE:NUMBER, got '{self.gpus}'")
        for key, value in self.sbatch.items():
            if _option(key) in OURS:
                raise ValueError(f"sbatch must not set '{key}': it is set by kdbench and cannot be changed")
            if isinstance(value, list | dict) or value is False:
                raise ValueError(f"sbatch must have text, a number, true or null for '{key}', got {shown(value)}")

    @property
    def longest(self) -> int:
        """Minutes."""
        return self.minutes if isinstance(self.minutes, int) else minutes(self.minutes)

    def parameters(self, name: str, wanted: int, world: int = 1) -> dict[str, Any]:
        """The parameters of submitit for jobs of this many minutes. A site gives what one task needs; a job with
        several tasks has them on one node."""
        asked: dict[str, Any] = {
            "job_name": name,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "ntasks_per_node": world,
            "gpus_per_node": self.gpus or None,
            "cpus_per_task": self.cpus,
            "mem": self.memory,
            "time": wanted,
            "wckey": None,  # submitit would set one, which many clusters refuse
            "array_parallelism": self.at_once,
            "stderr_to_stdout": True,  # one log a job
            "signal_delay_s": 90,
        }
        # Some clusters requeue an interrupted job only if the job asks for it.
        more: dict[str, Any] = {"requeue": True}
        more |= {_option(key): value for key, value in self.sbatch.items()}
        asked |= {key: more.pop(key) for key in list(more) if key in asked}
        extra = {key: value for key, value in more.items() if value is not None}
        if asked["mem"] is not None:
            asked["mem"] = re.sub(r"^\d+", lambda number: str(int(number[0]) * world), str(asked["mem"]))
        if asked["gpus_per_node"] is not None:
            asked["gpus_per_node"] = times(asked["gpus_per_node"], world)
        if "gres" in extra:  # tasks share everything but GPUs
            parts = str(extra["gres"]).split(",")
            extra["gres"] = ",".join(str(times(part, world)) if part.startswith("gpu") else part for part in parts)
        # Since SLURM 22.05, srun does not inherit the number of cores.
        cores = [] if asked["cpus_per_task"] is None else [f"--cpus-per-task={asked['cpus_per_task']}"]
        return asked | {"srun_args": [*cores, *self.srun], "additional_parameters": extra}

    def names_a_kind(self, types: Collection[str]) -> bool:
        """Whether its jobs ask for GPUs of one of these types, for certain nodes, or for no GPU at all."""
        asked = self.parameters("", self.longest)
        more = asked["additional_parameters"] | {"gpus-per-node": asked["gpus_per_node"]}
        told = " ".join(f"{key}={value}" for key, value in more.items() if value is not None)
        return bool(
            asked["constraint"] or "nodelist" in more or "gpu" not in told or any(kind in told for kind in types)
        )


def _option(key: str) -> str:
    """An option such as ``--mail-type`` as submitit writes it."""
    return key.lstrip("-").replace("-", "_")


def times(asked: int | str, world: int) -> int | str:
    """``1``, ``h200:1`` or ``gpu`` for several tasks."""
    if isinstance(asked, int) or world == 1:
        return asked * world
    text, numbers = re.subn(r"(?<!\w)\d+$", lambda number: str(int(number[0]) * world), asked)
    return text if numbers else f"{asked}:{world}"


def minutes(text: str) -> int:
    """The minutes of a time in one of SLURM's formats (``90``, ``1:30:00``, ``1-12:00:00``), rounded up."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not match:
        raise ValueError(f"minutes must be a number or a time such as 1:30:00, got '{text}'")
    days, first, second, third = (None if part is None else int(part) for part in match.groups())
    if days is not None:  # days-hours:minutes:seconds
        seconds = ((days * 24 + (first or 0)) * 60 + (second or 0)) * 60 + (third or 0)
    elif third is not None:  # hours:minutes:seconds
        seconds = ((first or 0) * 60 + (second or 0)) * 60 + third
    else:  # minutes:seconds
        seconds = (first or 0) * 60 + (second or 0)
    return max(1, -(-seconds // 60))


def shipped() -> dict[str, Path]:
    return {file.stem: file for file in sorted(SHIPPED.glob("*.yaml"))}


def listed() -> list[dict[str, Any]]:
    return [{"name": name, "about": " ".join(load(name).about.split())} for name in shipped()]


def described(name: str) -> dict[str, Any]:
    file = shipped()[name]
    return {"site": name, "file": str(file), "to copy": file.read_text()}


def load(name: str) -> Site:
    """The site of this name, or in this file."""
    return read(find(name, shipped(), "site")).convert(Site)
