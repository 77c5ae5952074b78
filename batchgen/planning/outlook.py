"""How long a plan takes with the devices that there are, and what it costs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from batchgen.planning.pace import Pace, recall
from batchgen.planning.plan import Plan


@dataclass(frozen=True, slots=True)
class Outlook:
    """Time and money of a whole run, by estimate. Waits in a queue and starts are not in it."""

    # Of one device, for all pictures.
    device_s: float
    # What that rests on, for people.
    basis: str
    # How many devices work at the same time.
    devices: int
    # On so many devices.
    wall_s: float
    # Of a device's hour, in the site's money; None: not known.
    price: float | None = None
    # That of an earlier run, if the seconds rest on one.
    pace: Pace | None = None

    @property
    def cost(self) -> float | None:
        """In the site's money; None: not known."""
        return None if self.price is None else self.device_s / 3600 * self.price


def look_ahead(plan: Plan, device: str, devices: int, price: float | None) -> Outlook:
    """Time and money of a plan, at the pace of an earlier run if there was one of its kind.

    :param device: the kind of the devices, `cuda ` or `cpu `; "" if it is not known.
    :param devices: how many work at the same time.
    :param price: of a device's hour.
    """
    device_s, basis = plan.seconds, plan.speed
    if pace := recall(plan.identity, device):
        device_s *= pace.factor
        device = re.split(" (?:torch|attention)=", pace.device)[0]
        # A measured one is told in words: "4 pictures of …".
        made = pace.run if " " in pace.run else f"the run {pace.run}"
        basis = f"the pace of {made} on {device}"
    # The last shards keep few devices busy: no run is shorter than one shard.
    wall_s = max(device_s / devices, device_s / len(plan.shards))
    return Outlook(device_s, basis, devices, wall_s, price, pace)
