"""What `push` has done, and what to type next."""

from __future__ import annotations

from rich.console import Console

from batchgen.dataset import Pushed
from batchgen.errors import counted, shell_command
from batchgen.remote import shown
from batchgen.run import RunDirectory
from batchgen.units import data_size
from batchgen.view.console import print_lines


def show_pushed(console: Console, directory: RunDirectory, url: str, pushed: Pushed) -> None:
    """Say what is at the destination, and how it goes on."""
    place, there = shown(url), counted(pushed.shards, "shard")
    sent = f"{pushed.sent:,} of them sent now ({data_size(pushed.sent_bytes)} with all else)"
    if pushed.complete:
        print_lines(console, [f"complete: the dataset is in {place}: {there}, {sent}"])
        return
    again = shell_command("batchgen", "push", directory.root, place, "--follow")
    later = "Card and index follow when the run is complete"
    told = [f"incomplete: {there} in {place}, {sent}. {later}", f"To send the rest too: {again}"]
    print_lines(console, told)
