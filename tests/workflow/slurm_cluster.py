"""A real Slurm on this one machine, for as long as a test needs it: munged, slurmctld and two slurmd, no systemd.

Needs root and Debian's packages (`make test-slurm` installs them). Everything lies in one folder, but for two links in
/etc/slurm, where Slurm's programs look by default: Snakemake's plugin drops SLURM_CONF before the step of a job.

    python tests/workflow/slurm_cluster.py FOLDER    # bring it up, and down again on Ctrl-C

Node ``big`` has two GPUs, twins of /dev/null that are handed out as real ones are; node ``small`` has none. Both
pretend to own more cores than there are, so that scheduling can be seen on a laptop.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ETC = Path("/etc/slurm")
PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", "sbatch", "srun", "sinfo", "scontrol")
CORES_PER_NODE = 8
MEMORY_PER_NODE_MB = 64_000  # told, not owned
GPUS = 2
READY_WITHIN_S = 60.0
STOPS_WITHIN_S = 10.0
CONTROLLER_PORT, FIRST_NODE_PORT = 26817, 26818
NODES = {"big": f"Gres=gpu:fake:{GPUS}", "small": ""}

SLURM_CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
# Nothing here needs cgroups or systemd: processes are followed through /proc, and memory is asked for but not policed.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
SchedulerParameters=bf_interval=1
# A job past its limit ends within seconds.
KillWait=2
JobRequeue=1
# A node that was declared lost stays lost until it is brought back.
ReturnToService=0
# Without accounting a finished job is known for this long, which must exceed the longest pause between two looks.
MinJobAge=900
EnforcePartLimits=ALL
SlurmdParameters=config_overrides
GresTypes=gpu
{nodes}
# LLN: jobs are spread over the nodes, so that there is always one that a lost node does not cost.
PartitionName=cpu Nodes=ALL LLN=YES Default=YES MaxTime=7-0 State=UP
PartitionName=gpu Nodes=big MaxTime=3-0 State=UP
PartitionName=short Nodes=ALL MaxTime=30 State=UP
"""


def why_not() -> str | None:
    """Return why no cluster can be started on this machine, or None where one can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "a cluster of its own needs root"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} not installed; make test-slurm installs them on Debian"
    others = [path for path in (ETC / "slurm.conf", ETC / "gres.conf") if path.exists() or path.is_symlink()]
    return f"{others[0]} is there: this machine belongs to a cluster" if others else None


def ask(*command: str) -> str:
    """Return what one of Slurm's programs prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def wait_until(condition: Callable[[], object], what: str, within_s: float) -> None:
    """Return as soon as `condition` holds; raise TimeoutError after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within_s:g} s")
        time.sleep(0.1)


class Cluster:
    """A controller, two nodes and their key; use it as a context manager.

    Parameters
    ----------
    folder : Path
        Where configuration, state, sockets and logs go. Its path must be short: a socket's name has 107 characters.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.daemons: list[subprocess.Popen] = []

    def __enter__(self) -> Cluster:
        reason = why_not()
        if reason:
            raise RuntimeError(reason)
        try:
            self._configure()
            self._start_all()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _configure(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir(exist_ok=True)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        host = socket.gethostname().partition(".")[0]
        size = f"CPUs={CORES_PER_NODE} RealMemory={MEMORY_PER_NODE_MB} State=UNKNOWN"
        lines = [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={FIRST_NODE_PORT + number} {size} {extra}"
            for number, (name, extra) in enumerate(NODES.items())
        ]
        facts = {"host": host, "folder": self.folder, "controller_port": CONTROLLER_PORT, "nodes": "\n".join(lines)}
        (self.folder / "slurm.conf").write_text(SLURM_CONF.format(**facts))
        (self.folder / "gres.conf").write_text("\n".join(self._gpus()) + "\n")
        ETC.mkdir(exist_ok=True)
        for name in ("slurm.conf", "gres.conf"):
            (ETC / name).symlink_to(self.folder / name)

    def _gpus(self) -> list[str]:
        """Make the devices that stand for GPUs: slurmd insists on character devices, and names them to each step."""
        null = os.makedev(1, 3)
        lines = []
        for number in range(GPUS):
            device = self.folder / f"gpu{number}"
            if not device.exists():
                os.mknod(device, stat.S_IFCHR | 0o600, null)
            lines.append(f"NodeName=big Name=gpu Type=fake Flags=nvidia_gpu_env File={device}")
        return lines

    def _start_all(self) -> None:
        names = {
            "key-file": "munge.key",
            "pid-file": "munged.pid",
            "seed-file": "munged.seed",
            "log-file": "munged.log",
        }
        files = [f"--{option}={self.folder / name}" for option, name in names.items()]
        # --force: its folder may be writable by others, as /tmp is.
        self._start("munged", "--foreground", "--force", f"--socket={self.folder / 'munge.socket'}", *files)
        wait_until((self.folder / "munge.socket").exists, "munged's socket", READY_WITHIN_S)
        self._start("slurmctld", "-D", "-i")
        for node in NODES:
            self._start("slurmd", "-D", "-N", node)
        wait_until(lambda: self.idle() == set(NODES), f"nodes idle (logs in {self.folder})", READY_WITHIN_S)

    def _start(self, *command: str) -> None:
        with open(self.folder / f"{command[0]}.out", "ab") as log:
            self.daemons.append(subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL))

    def idle(self) -> set[str]:
        """Return the nodes that stand ready with nothing to do."""
        done = subprocess.run(["sinfo", "-h", "-N", "-o", "%N %T"], capture_output=True, text=True, timeout=60)
        return {line.split()[0] for line in done.stdout.splitlines() if line.split()[1] == "idle"}

    def stop(self) -> None:
        """End what was started, each by its pid, and take the links out of /etc/slurm."""
        if (self.folder / "munge.socket").exists():
            subprocess.run(["scancel", "--user=root"], capture_output=True, timeout=60)
            self._let_jobs_end()
        for daemon in reversed(self.daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(STOPS_WITHIN_S)
            except subprocess.TimeoutExpired:  # a slurmd that never met its controller does not listen
                daemon.kill()
                daemon.wait()
        self.daemons.clear()
        for name in ("slurm.conf", "gres.conf"):
            link = ETC / name
            if link.is_symlink() and Path(os.readlink(link)) == self.folder / name:
                link.unlink()

    def _let_jobs_end(self) -> None:
        """Wait until no cancelled job is left, so that no process outlives its cluster."""
        active = ["squeue", "-h", "-t", "running,completing,suspended"]
        for _ in range(100):
            done = subprocess.run(active, capture_output=True, text=True, timeout=60)
            if done.returncode or not done.stdout.strip():
                return
            time.sleep(0.2)

    def jobs(self) -> dict[int, dict[str, str]]:
        """Return every job that the controller remembers, by its number: name, rule, state, memory, node and so on."""
        found = {}
        for line in ask("scontrol", "--oneliner", "show", "job").splitlines():
            if line.startswith("JobId="):
                fields = dict(word.split("=", 1) for word in line.split(" ") if "=" in word)
                found[int(fields["JobId"])] = fields
        return found

    def take_down(self, node: str) -> None:
        """Declare a node lost: its jobs end there at once."""
        ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=drill")

    def bring_back(self, node: str) -> None:
        """Let a lost node serve again."""
        ask("scontrol", "update", f"NodeName={node}", "State=RESUME")


def main() -> None:
    """Keep a cluster up until the user interrupts."""
    with Cluster(Path(sys.argv[1])):
        print(ask("sinfo", "-N", "-o", "%N %c CPUs %m MB %G %P %l %T"), flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
