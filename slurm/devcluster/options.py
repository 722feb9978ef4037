"""The options of a private cluster, and the SLURM configuration made from them."""

from dataclasses import dataclass
from pathlib import Path

from kdbench.slurm.devcluster import refusal


@dataclass(frozen=True)
class Partition:
    """A partition. If jobs of a higher tier wait, those of a lower are warned, get a grace time and are requeued."""

    name: str
    tier: int = 1
    grace_seconds: int = 0


@dataclass(frozen=True)
class Options:
    """The options. The first partition is the default. The numbers of CPUs and memory may exceed the machine's."""

    nodes: int = 2
    gpus: int = 2
    cpus: int = 4
    memory_mb: int = 16_000
    partitions: tuple[Partition, ...] = (Partition("low", tier=1, grace_seconds=30), Partition("high", tier=10))
    max_array_size: int = 1001
    kill_wait_seconds: int = 5
    node_timeout_seconds: int = 10
    requeue_seconds: int = 5
    accounting: bool = False

    def __post_init__(self) -> None:
        for name in ("nodes", "cpus", "memory_mb", "max_array_size", "node_timeout_seconds"):
            if getattr(self, name) < 1:
                raise refusal(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.gpus < 0:
            raise refusal(f"gpus must be at least 0, got {self.gpus}")
        if not self.partitions:
            raise refusal("partitions must name at least one, got none")

    @property
    def names(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.nodes + 1)]


def slurm_conf(options: Options, home: Path, logs: Path, host: str, ports: list[int]) -> str:
    """The text of slurm.conf. The ports are the controller's, the accounting's, and one for each node."""
    controller, accounting, *nodes = ports
    lines = [
        "ClusterName=devcluster",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={controller}",
        "SlurmUser=root",
        "SlurmdUser=root",
        "MailProg=/bin/true",
        # A requeued job waits until its old credential has expired: two minutes by default.
        f"AuthInfo=socket={home}/munge.socket,cred_expire={options.requeue_seconds}",
        f"StateSaveLocation={home}/state",
        f"SlurmdSpoolDir={home}/%n",
        f"SlurmctldPidFile={home}/slurmctld.pid",
        f"SlurmdPidFile={home}/slurmd-%n.pid",
        f"SlurmctldLogFile={logs}/slurmctld.log",
        f"SlurmdLogFile={logs}/slurmd-%n.log",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "JobAcctGatherType=jobacct_gather/linux",
        "JobAcctGatherFrequency=task=2",
        "JobAcctGatherParams=OverMemoryKill",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        f"DefMemPerCPU={max(1, options.memory_mb // options.cpus)}",
        "SlurmdParameters=config_overrides",
        "GresTypes=gpu",
        "SchedulerParameters=batch_sched_delay=0,sched_interval=2",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        "SlurmctldParameters=preempt_send_user_signal",
        "JobRequeue=1",
        "ReturnToService=2",
        "MinJobAge=10",
        f"KillWait={options.kill_wait_seconds}",
        f"SlurmdTimeout={options.node_timeout_seconds}",
        f"MaxArraySize={options.max_array_size}",
    ]
    if options.accounting:
        lines += [
            "AccountingStorageType=accounting_storage/slurmdbd",
            "AccountingStorageHost=127.0.0.1",
            f"AccountingStoragePort={accounting}",
            f"AccountingStoragePass=socket={home}/munge.socket",
            "AccountingStorageTRES=gres/gpu",
        ]
    lines += [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
        f" CPUs={options.cpus} RealMemory={options.memory_mb}" + (f" Gres=gpu:{options.gpus}" if options.gpus else "")
        for name, port in zip(options.names, nodes, strict=True)
    ]
    lines += [
        f"PartitionName={partition.name} Nodes=ALL Default={'NO' if position else 'YES'}"
        f" PriorityTier={partition.tier} GraceTime={partition.grace_seconds}"
        for position, partition in enumerate(options.partitions)
    ]
    return "\n".join(lines) + "\n"


def gres_conf(options: Options, gpus: Path) -> str:
    """The text of gres.conf. SLURM accepts a GPU only if it has its own device file."""
    return "".join(
        f"NodeName={name} Name=gpu File={gpus}/{name}-{gpu}\n" for name in options.names for gpu in range(options.gpus)
    )


def slurmdbd_conf(home: Path, logs: Path, host: str, port: int, database_port: int, password: str) -> str:
    lines = [
        "SlurmUser=root",
        f"AuthInfo=socket={home}/munge.socket",
        f"DbdHost={host}",
        "DbdAddr=127.0.0.1",
        f"DbdPort={port}",
        f"PidFile={home}/slurmdbd.pid",
        f"LogFile={logs}/slurmdbd.log",
        "StorageType=accounting_storage/mysql",
        "StorageHost=127.0.0.1",
        f"StoragePort={database_port}",
        "StorageUser=slurm",
        f"StoragePass={password}",
    ]
    return "\n".join(lines) + "\n"
