"""A real one-node Slurm for tests: munged, slurmctld and slurmd of this machine, with a configuration of our own.

Nothing of an installed Slurm is touched: keys, sockets, spool folders, logs and ports are the cluster's own, in one
folder. What is started here is stopped here. The daemons run as children that the kernel ends with this process
(`setpriv --pdeathsig`), so that not even a killed test run leaves one behind, and processes of jobs are known by the
`SLURM_CONF` in their environment, which names the cluster's folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "sinfo", "squeue", "setpriv")

# States from which a job does not come back by itself.
FINAL = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE"}

# No cgroups, no accounting, no mail: only what runs anywhere. A requeued job may start again only when its old
# credential has expired, which takes two minutes by default, hence cred_expire (6 is the least that Slurm takes).
# Finished jobs stay visible to scontrol for MinJobAge, since there is no accounting to ask. The node may claim more
# CPUs and memory than there are (config_overrides), so that tests do not depend on the machine.
CONFIGURATION = """\
ClusterName=swlottery
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=6
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
MailProg=/bin/true
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/node
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdDebug=info
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=3600
PriorityType=priority/basic
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=16000 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class ClusterError(RuntimeError):
    """The cluster did not start, or a job did not do what was waited for; the text holds the ends of the logs."""


def missing() -> str | None:
    """Why a cluster cannot run on this machine (one line), or None."""
    if os.geteuid() != 0:
        return "the test cluster's slurmd can only run as root"
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"no {', '.join(absent)} here (Debian and Ubuntu: apt-get install slurm-wlm munge)"
    return None


def _path() -> str:
    """PATH with the folders of daemons, which a plain user's often lacks."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


class Cluster:
    """One node named as this machine, one partition. Use as a context manager, or call `start` and `stop`.

    folder: an empty folder that everything goes to. Its path should be short: munge's socket in it may have at most
        107 characters.
    cpus: how many CPUs the node claims to have, whatever the machine has.
    """

    def __init__(self, folder: Path, cpus: int = 4) -> None:
        self.folder = folder
        self.configuration = folder / "slurm.conf"
        self.host = socket.gethostname().split(".")[0]
        self.cpus = cpus
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    # --- starting and stopping

    def start(self) -> None:
        """Start the three daemons and wait for an idle node; on any failure stop what runs and raise."""
        try:
            self._write_configuration()
            munge = self.folder / "munge"
            self._launch(
                "munged",
                "--foreground",
                "--force",
                f"--socket={munge}/socket",
                f"--key-file={munge}/key",
                f"--pid-file={munge}/pid",
                f"--seed-file={munge}/seed",
                f"--log-file={munge}/log",
            )
            self.wait_for("munge's socket", lambda: (munge / "socket").exists())
            self._launch("slurmctld", "-D", "-f", str(self.configuration))
            self._launch("slurmd", "-D", "-f", str(self.configuration))
            self.wait_for("an idle node", lambda: self._run("sinfo", "-h", "-o", "%T", check=False).strip() == "idle")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Cancel every job and stop every process of this cluster. May be called twice."""
        with contextlib.suppress(Exception):
            if self._daemons and self._run("squeue", "-h", check=False).strip():
                self._run("scancel", "--user=root", check=False)
                self.wait_for("an empty queue", lambda: not self._run("squeue", "-h", check=False).strip(), 15)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def processes(self) -> list[int]:
        """Processes of this cluster and of its jobs that are still there."""
        mark = f"{self.folder}/".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    environment = (entry / "environ").read_bytes().split(b"\0")
                    if b"SLURM_CONF=" + mark + b"slurm.conf" in environment or mark in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
        return found

    def task(self, job: str, rank: int) -> int:
        """The process of swlottery that is this task of a job's first step."""
        wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={rank}".encode(), b"SLURM_STEP_ID=0"}
        for pid in self.processes():
            with contextlib.suppress(OSError):
                variables = set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
                is_ours = b"swlottery.cli" in Path(f"/proc/{pid}/cmdline").read_bytes()
                if is_ours and wanted <= variables:
                    return pid
        raise ClusterError(f"task {rank} of job {job} has no process")

    def _write_configuration(self) -> None:
        for name in ("munge", "controller", "node"):
            (self.folder / name).mkdir(mode=0o755)
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        controller_port, node_port = _free_ports(2)
        self.configuration.write_text(
            CONFIGURATION.format(
                host=self.host, folder=self.folder, cpus=self.cpus, controller_port=controller_port, node_port=node_port
            )
        )

    def _launch(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.out").open("wb") as out:
            self._daemons.append(
                subprocess.Popen(
                    ["setpriv", "--pdeathsig", "TERM", *command],
                    env=self.environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,  # a Ctrl-C at the tests does not reach the daemons
                )
            )

    def logs(self) -> str:
        """The last lines of every log of the daemons."""
        parts = []
        for log in sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out"), *self.folder.glob("munge/log")]):
            parts.append(f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:]))
        return "\n".join(parts)

    # --- using it

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """This process's environment for a command of the cluster; of another Slurm's variables nothing is kept."""
        kept = {name: value for name, value in os.environ.items() if not re.match(r"(SLURM|SBATCH|SRUN)_", name)}
        return {**kept, "PATH": _path(), "SLURM_CONF": str(self.configuration), **(extra or {})}

    def _run(
        self, *command: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, check: bool = True
    ) -> str:
        done = subprocess.run(
            command, cwd=cwd, env=self.environment(env), capture_output=True, text=True, timeout=60, check=False
        )
        if check and done.returncode:
            raise ClusterError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def run(self, *command: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
        """Standard output of a command (scontrol, scancel, …); ClusterError if it fails."""
        return self._run(*command, cwd=cwd, env=env)

    def submit(self, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> str:
        """`sbatch ARGUMENTS` in the folder `cwd`; env is added to the job's environment. Returns the job's id."""
        return self._run("sbatch", "--parsable", *arguments, cwd=cwd, env=env).strip().split(";")[0]

    def show(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says: JobState, ExitCode, StdOut, …"""
        text = self._run("scontrol", "--oneliner", "show", "job", job)
        return dict(re.findall(r"(\S+?)=(.*?)(?=\s+\S+?=|\s*$)", text))

    def wait(self, job: str, states: set[str] = FINAL, seconds: float = 120) -> dict[str, str]:
        """Wait until the job is in one of the states, and return what `show` says then."""
        end = time.monotonic() + seconds
        while (shown := self.show(job))["JobState"] not in states:
            if time.monotonic() > end:
                raise ClusterError(
                    f"job {job} is {shown['JobState']} ({shown.get('Reason')}) after {seconds:.0f} s, "
                    f"not {sorted(states)}\n{self.logs()}"
                )
            time.sleep(0.2)
        return shown

    def wait_for(self, what: str, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Wait until the condition holds; ClusterError, saying what was waited for, if it does not or a daemon ends."""
        end = time.monotonic() + seconds
        while not condition():
            dead = [daemon.args for daemon in self._daemons if daemon.poll() is not None]
            if dead or time.monotonic() > end:
                why = f"{dead} ended" if dead else f"not after {seconds:.0f} s"
                raise ClusterError(f"waiting for {what}: {why}\n{self.logs()}")
            time.sleep(0.1)


def _free_ports(number: int) -> list[int]:
    """Ports that nothing listens on now."""
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
