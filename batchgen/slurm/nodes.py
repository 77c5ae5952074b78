"""The nodes of a partition, and what SLURM says of each."""

from __future__ import annotations

from dataclasses import dataclass

from batchgen.slurm.commands import call

# States in which a node takes no job, by sinfo's short names; a letter more tells details.
_AWAY = ("down", "drain", "drng", "fail", "maint", "unk", "no_re", "futr", "boot", "pow", "inval")


@dataclass(frozen=True, slots=True)
class Node:
    """A node, and whether it takes jobs."""

    name: str
    # As sinfo has it: `idle`, `mix`, `alloc`, `down*`.
    state: str
    # Why it takes none; "" if there is no reason on record.
    reason: str

    @property
    def away(self) -> bool:
        """Whether it takes no job now, also when it is free. `*`: it does not answer SLURM."""
        return self.state.startswith(_AWAY) or "*" in self.state


def list_nodes(partition: str | None) -> list[Node]:
    """The nodes of a partition; None: of the cluster's default one.

    :raises SchedulerSilent: SLURM cannot be asked.
    """
    where = [f"--partition={partition}"] if partition else []
    listing = call("sinfo", "--Node", "--noheader", *where, "--format=%N|%t|%P|%E")
    rows = [line.split("|", 3) for line in listing.splitlines() if line.count("|") >= 3]
    # The default partition is marked by a star.
    nodes = [row for row in rows if partition or row[2].strip().endswith("*")]
    listed = [
        Node(name.strip(), state.strip(), "" if reason.strip() == "none" else reason.strip())
        for name, state, _, reason in nodes
    ]
    return list({node.name: node for node in listed}.values())  # it may be in several partitions


def expand_hosts(listed: str) -> list[str]:
    """Names of nodes from SLURM's short form, such as `node[01-04,7]`."""
    return call("scontrol", "show", "hostnames", listed).split()
