"""Starts, disturbs and stops a private SLURM with its own configuration, key, sockets and ports, all in one folder."""

import os
import random
import re
import secrets
import shlex
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from kdbench.slurm.devcluster import processes, refusal
from kdbench.slurm.devcluster.options import Options, gres_conf, slurm_conf, slurmdbd_conf

SLURM = {"slurm-wlm": ("slurmctld", "slurmd", "sbatch", "sinfo"), "munge": ("munged",)}
ACCOUNTING = {"slurmdbd": ("slurmdbd",), "mariadb-server": ("mariadbd", "mariadb-install-db")}
DEFAULT = Options()
SYSTEM = "/usr/local/sbin:/usr/sbin:/sbin"
OF_SLURM = ("SLURM", "SBATCH", "SRUN", "SALLOC", "SQUEUE", "SINFO", "SACCT", "SCANCEL", "MUNGE")
LONGEST_FOLDER = 70  # a socket's path has 107 characters; a job's is cluster/n1/n1_JOB.STEP
UP = {"idle", "mixed", "allocated", "completing"}
PATIENCE = 60.0  # seconds that the cluster has to reach a state
UNSEEN = 3.0  # seconds after which a daemon that is not seen counts as dead


def missing_packages(accounting: bool = False) -> list[str]:
    """The Debian packages that this machine lacks."""
    needed = SLURM | ACCOUNTING if accounting else SLURM
    return [package for package, tools in needed.items() if not all(shutil.which(tool, path=_path()) for tool in tools)]


class DevCluster:
    """``with DevCluster(folder) as cluster``: a SLURM that runs until the block ends.

    Everything is in the folder: ``log`` is kept afterwards, ``cluster`` is removed. ``DevCluster(folder)`` also finds a
    cluster that another process has started, since all state is in the folder.
    """

    def __init__(self, folder: Path, options: Options = DEFAULT) -> None:
        self.folder, self.options = folder.resolve(), options
        self.home, self.logs = self.folder / "cluster", self.folder / "log"
        self.conf = self.home / "slurm.conf"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """The environment with which sbatch, squeue and the rest use this cluster and no other."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OF_SLURM)}
        return {**kept, "SLURM_CONF": str(self.conf), "PATH": _path()}

    @property
    def running(self) -> bool:
        return bool(processes.holding(self.logs, "slurmctld"))

    def exports(self) -> str:
        """The same for a shell."""
        if not self.running:
            raise refusal(f"a cluster must run in {self.folder}: kdbench devcluster start")
        return f"export SLURM_CONF={shlex.quote(str(self.conf))}"

    def ask(self, *command: str | Path) -> str:
        """The output of sbatch, squeue, scontrol, ...; a CalledProcessError has their error messages."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def start(self) -> None:
        """Start the cluster, and return when all nodes are idle. If one does not come up, everything is stopped."""
        self._refuse_what_cannot_work()
        self._make_room()
        try:
            self._write(*_free_ports(3 + self.options.nodes))
            self._spawn("munged", *self._munged())
            if self.options.accounting:
                self._start_accounting()
            self._spawn("slurmctld", "slurmctld")
            for name in self.options.names:
                self._spawn(f"slurmd-{name}", "slurmd", "-N", name)
            daemons = ["slurmctld", *(f"slurmd-{name}" for name in self.options.names)]
            self._wait(lambda: self._states() == dict.fromkeys(self.options.names, "idle"), *daemons)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the cluster, whatever state it is in. Only the logs are kept."""
        processes.kill(lambda: [*processes.holding(self.logs), *processes.of_jobs(self.conf)])
        if self.conf.exists():  # else it may be another folder of this name
            shutil.rmtree(self.home)

    def kill_node(self, name: str, reported: bool = False) -> None:
        """Kill the daemon and all processes of jobs on a node at once, as a power cut would.

        The controller notices after the node's timeout, or at once if ``reported``.
        """
        log = f"slurmd-{name}"
        processes.kill(lambda: [*processes.holding(self.logs, log), *processes.of_jobs(self.conf, name)])
        if reported:
            self.ask("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=killed")

    def start_node(self, name: str) -> None:
        """Start a node as after a reboot, and return when it accepts jobs again."""
        self._spawn(f"slurmd-{name}", "slurmd", "-b", "-N", name)
        self._wait(lambda: self._states().get(name) in UP, f"slurmd-{name}")

    def restart_controller(self) -> None:
        """Restart the controller as an administrator would: it saves its state and reads it again."""
        for process in processes.holding(self.logs, "slurmctld"):
            process.terminate()
        self._wait(lambda: not self.running)
        self._spawn("slurmctld", "slurmctld")
        self._wait(lambda: bool(self._states()), "slurmctld")

    def _refuse_what_cannot_work(self) -> None:
        if lacking := missing_packages(self.options.accounting):
            raise refusal(f"SLURM must be installed: apt-get install {' '.join(lacking)}")
        if os.geteuid() != 0:
            raise refusal("must be started by root: only root can make the GPUs' device files")
        if not re.fullmatch(r"[\w./+-]+", str(self.folder)) or len(str(self.folder)) > LONGEST_FOLDER:
            rule = f"at most {LONGEST_FOLDER} letters, digits and ./+-_ in its path"
            raise refusal(f"the folder must have {rule}, got {str(self.folder)!r}")
        ours = {"log", "cluster"} if self.conf.exists() else {"log"}
        if self.folder.exists() and (others := {file.name for file in self.folder.iterdir()} - ours):
            raise refusal(f"{self.folder} must be new, empty or an earlier cluster's, got {min(others)} in it")
        if processes.holding(self.logs):
            raise refusal(f"a cluster runs in {self.folder} already")

    def _make_room(self) -> None:
        """Clear the folder, which a machine that went down leaves behind."""
        if self.conf.exists():
            shutil.rmtree(self.home)
        self.logs.mkdir(parents=True, exist_ok=True)
        for log in self.logs.glob("*.log"):
            log.unlink()
        self.home.mkdir(mode=0o700)
        for name in ("state", "gpus", *self.options.names):
            (self.home / name).mkdir()

    def _write(self, database: int, *ports: int) -> None:
        host = socket.gethostname().partition(".")[0]
        password = secrets.token_hex(16)
        texts = {
            "slurm.conf": slurm_conf(self.options, self.home, self.logs, host, list(ports)),
            "gres.conf": gres_conf(self.options, self.home / "gpus"),
            "munge.key": secrets.token_hex(64),
        }
        version = [int(number) for number in re.findall(r"\d+", self.ask("slurmctld", "-V"))]
        if version[:2] >= [23, 11]:  # needs control groups, unless this plugin is disabled
            texts["cgroup.conf"] = "CgroupPlugin=disabled\n"
        if self.options.accounting:
            texts["slurmdbd.conf"] = slurmdbd_conf(self.home, self.logs, host, ports[1], database, password)
            texts["rights.sql"] = f"GRANT ALL ON slurm_acct_db.* TO slurm@'127.0.0.1' IDENTIFIED BY '{password}';\n"
            texts["database.port"] = str(database)
        for name, text in texts.items():
            (self.home / name).touch(mode=0o600)
            (self.home / name).write_text(text)
        null = Path("/dev/null").stat().st_rdev
        for node in self.options.names:
            for gpu in range(self.options.gpus):
                os.mknod(self.home / f"gpus/{node}-{gpu}", stat.S_IFCHR | 0o600, null)

    def _munged(self) -> list[str]:
        files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid", "seed-file": "munge.seed"}
        places = [f"--{option}={self.home}/{file}" for option, file in files.items()]
        return ["munged", "--force", f"--log-file={self.logs}/munged.log", *places]  # --force: the folder is private

    def _start_accounting(self) -> None:
        data = f"--datadir={self.home}/database"
        small = ["--innodb-log-file-size=4M", "--innodb-buffer-pool-size=16M", "--innodb-flush-method=nosync"]
        install = ["mariadb-install-db", "--no-defaults", "--user=root", "--skip-test-db", data, *small]
        self._spawn("mariadbd", *install)
        port = int((self.home / "database.port").read_text())
        places = [f"--socket={self.home}/mariadb.socket", f"--pid-file={self.home}/mariadbd.pid"]
        reach = ["--bind-address=127.0.0.1", f"--port={port}", f"--init-file={self.home}/rights.sql"]
        self._spawn(
            "mariadbd", "setsid", "--fork", "mariadbd", "--no-defaults", "--user=root", data, *small, *places, *reach
        )
        self._wait(lambda: _answers(port), "mariadbd")
        self._spawn("slurmdbd", "slurmdbd")
        self._wait(lambda: self._says("sacctmgr", "-i", "add", "cluster", "devcluster") is not None, "slurmdbd")

    def _states(self) -> dict[str, str]:
        """The state of each node. That of a node that does not respond ends with a mark, and is never in ``UP``."""
        rows = (self._says("sinfo", "-h", "-N", "-o", "%N %T") or "").splitlines()
        return dict(row.split() for row in rows)

    def _says(self, *command: str) -> str | None:
        try:
            return self.ask(*command)
        except subprocess.CalledProcessError:
            return None

    def _spawn(self, log: str, *command: str) -> None:
        """Start a daemon, which goes into the background by itself. Its output before that is in its log, too."""
        with (self.logs / f"{log}.log").open("ab") as words:
            done = subprocess.run(
                command,
                env=self.environment,
                cwd=self.logs,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                check=False,
            )
        if done.returncode:
            raise self._trouble(log)

    def _wait(self, reached: Callable[[], bool], *daemons: str) -> None:
        """Wait until a state is reached or one of the daemons has died. A daemon that is just going into the background
        may have no log open yet, which is tolerated for ``UNSEEN`` seconds."""
        deadline = time.monotonic() + PATIENCE
        unseen: dict[str, float] = {}
        while not reached():
            for daemon in daemons:
                if processes.holding(self.logs, daemon):
                    unseen.pop(daemon, None)
                elif time.monotonic() - unseen.setdefault(daemon, time.monotonic()) > UNSEEN:
                    raise self._trouble(daemon)
            if time.monotonic() > deadline:
                raise self._trouble(daemons[0] if daemons else "slurmctld")
            time.sleep(0.1)

    def _trouble(self, daemon: str) -> ValueError:
        log = self.logs / f"{daemon}.log"
        lines = log.read_text(errors="replace").split("\n") if log.exists() else []
        said = [line.strip() for line in lines if line.strip()] or ["nothing"]
        serious = [line for line in said if "error:" in line or "fatal:" in line] or said[-1:]
        return refusal(f"{daemon} must run, but its log {log} says: {' / '.join(serious[-2:])}")


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:{SYSTEM}"


def _free_ports(count: int) -> list[int]:
    """Free ports below those that the kernel hands out. All are held while they are chosen: no two are the same."""
    held: list[socket.socket] = []
    try:
        while len(held) < count:
            candidate = socket.socket()
            try:
                candidate.bind(("127.0.0.1", random.randrange(15_000, 32_000)))
                held.append(candidate)
            except OSError:
                candidate.close()
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
