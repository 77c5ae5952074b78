"""The life of a shard: claimed, written group by group, committed by one link, published.

    publish.py         a finished attempt becomes the published tar and metadata
    tally.py           how many pictures are done, counted from files
    in_progress.py     begun and not yet published, seen from outside
    claims.py          who works on which shard, and who is dead
    escalation.py      after deaths: carefully, one by one, not at all
    partial_shard.py   the files one attempt writes
    commit.py          commit is one link; roll-forward
    journal.py         begin, end, void, verdict: checksummed lines
    records.py         the per-picture record
    pictures.py        a shard's pictures, read from the manifest

A room imports only rooms below it.
"""

from batchgen.shard.claims import Claim, Claims
from batchgen.shard.commit import (
    Done,
    committed_shards,
    published_shards,
    read_done,
    roll_forward,
    sweep,
    visible_shards,
)
from batchgen.shard.escalation import KILLED, Task, plan_tasks, too_large
from batchgen.shard.in_progress import unpublished_counts, unpublished_records, unpublished_verdicts
from batchgen.shard.partial_shard import PartialShard
from batchgen.shard.pictures import read_shard
from batchgen.shard.publish import publish_shard
from batchgen.shard.records import Record, Route, identity_of
from batchgen.shard.tally import Tally, count_pictures

__all__ = [
    "Claim",
    "Claims",
    "Done",
    "KILLED",
    "PartialShard",
    "Record",
    "Route",
    "Tally",
    "Task",
    "committed_shards",
    "count_pictures",
    "identity_of",
    "plan_tasks",
    "publish_shard",
    "published_shards",
    "read_done",
    "read_shard",
    "roll_forward",
    "sweep",
    "too_large",
    "unpublished_counts",
    "unpublished_records",
    "unpublished_verdicts",
    "visible_shards",
]
