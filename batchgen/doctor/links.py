"""Whether two nodes exchange tensors, as ranks of a replica do that fills several nodes.

Each node of a site is examined by a job of its own, and jobs start when they can. So nodes that are
there at the same time pair up, in a folder that all of them see: a pair has two seats, which are
names that only one can link (durable.py). Who waits in vain takes the other seat too, and whoever
comes later finds the pair full.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path

from batchgen import durable
from batchgen.doctor.child import NoAnswer, attempt
from batchgen.doctor.finding import Finding, ok, warning
from batchgen.doctor.needs import Needs, broken

# Seconds to wait for another node, and for both to exchange.
PARTNER_S, _TRIAL_S = 60.0, 120.0
_POLL_S = 0.5
_NAME = "between_nodes"
_MATTERS = "Only matters where parallel.cp fills several nodes"


def between_nodes(shared: Path, node: str, needs: Needs) -> Finding:
    """Exchange a tensor with another node of the site, if one is there.

    :param shared: a folder of this examination, which all nodes see.
    """
    if needs.job and needs.nodes == 1:
        return ok(_NAME, f"not tried: this job's replicas stay on one node. {_MATTERS}")
    pair, rank, partner = pair_up(shared, node)
    if not partner:
        told = f"not tried: no other node was there within {PARTNER_S:.0f} s"
        if needs.nodes == 1:
            return ok(_NAME, f"{told}. {_MATTERS}")
        return warning(_NAME, told, "Repeat this when two nodes are idle: sinfo shows them")
    try:
        answer = attempt("rank", str(rank), str(pair), "2", limit_s=_TRIAL_S)
    except NoAnswer as silence:
        remedy = (
            "NCCL_DEBUG=INFO and GLOO_LOG_LEVEL=INFO show why; in the site profile's setup, "
            "NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME name the network; or a parallel.cp that "
            "one node holds"
        )
        return broken(_NAME, f"with {partner}: {silence}", remedy, needed=needs.nodes > 1)
    seconds, library = answer["seconds"], answer["library"]
    return ok(_NAME, f"exchanged 4 MB with {partner} over {library}, {seconds:.1f} s")


def pair_up(shared: Path, node: str) -> tuple[Path, int, str]:
    """Find another node that is here now.

    :return: the pair's folder, which of the two this node is, and the other one's name; "" if none
        came in time.
    """
    own = shared / f"{node}.name"
    durable.write(own, node.encode())
    numbers = itertools.count()
    while True:
        pair = shared / f"pair-{next(numbers)}"
        pair.mkdir(exist_ok=True)
        first, second = pair / "first", pair / "second"
        if durable.link(own, first):
            end = time.monotonic() + PARTNER_S
            while not second.exists() and time.monotonic() < end:
                time.sleep(_POLL_S)
            alone = durable.link(own, second)
            return pair, 0, "" if alone else second.read_text()
        if durable.link(own, second):
            return pair, 1, first.read_text()
