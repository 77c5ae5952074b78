"""The life of a shard: claimed, written group by group, committed by one link, published.

    publish.py         complete a finished attempt, and commit it
    tally.py           count the pictures of committed shards
    superseded.py      which records still count, where pictures were made again
    visible_files.py   published files that are gone, and strangers among them
    in_progress.py     shards begun and not published, seen by other processes
    claims.py          who works on which shard, and whose shard may be taken
    escalation.py      how carefully groups are made after deaths and verdicts
    partial_shard.py   the files that one attempt writes
    commit.py          the commit is one link; anyone completes it
    journal.py         what an attempt has begun and ended, in lines with checksums
    loss.py            what audits have measured
    metadata.py        published records, written and read
    columns.py         what each column of published records means
    older_metadata.py  those of batchgen 0.2 and older
    records.py         the record of one picture
    pictures.py        a shard's pictures, read from the manifest

A room imports only rooms below it.
"""

from batchgen.shard.claims import Claim, Claims, last_attempt, read_owner
from batchgen.shard.columns import COLUMNS, EXTRA, SCHEMA, key_text
from batchgen.shard.commit import (
    Done,
    committed_shards,
    published_shards,
    read_done,
    remake,
    roll_forward,
    sweep,
    visible_shards,
)
from batchgen.shard.escalation import KILLED, Task, plan_tasks, too_large
from batchgen.shard.in_progress import (
    Unpublished,
    unpublished_counts,
    unpublished_records,
    unpublished_verdicts,
)
from batchgen.shard.loss import Loss
from batchgen.shard.metadata import encode_table, moments_s, read_metadata, stream_metadata
from batchgen.shard.partial_shard import PartialShard
from batchgen.shard.pictures import listed_places, read_shard, shards_of
from batchgen.shard.publish import publish_shard
from batchgen.shard.records import AuditOutcome, Record, Route, identity_of
from batchgen.shard.superseded import Superseded, failed_keys
from batchgen.shard.tally import Tally, count_pictures
from batchgen.shard.visible_files import (
    lost_shards,
    missing_names,
    shards_with_attempts,
    strange_files,
)

__all__ = [
    "COLUMNS",
    "EXTRA",
    "KILLED",
    "SCHEMA",
    "AuditOutcome",
    "Claim",
    "Claims",
    "Done",
    "Loss",
    "PartialShard",
    "Record",
    "Route",
    "Superseded",
    "Tally",
    "Task",
    "Unpublished",
    "committed_shards",
    "count_pictures",
    "encode_table",
    "failed_keys",
    "identity_of",
    "key_text",
    "last_attempt",
    "listed_places",
    "lost_shards",
    "missing_names",
    "moments_s",
    "plan_tasks",
    "publish_shard",
    "published_shards",
    "read_done",
    "read_metadata",
    "read_owner",
    "read_shard",
    "remake",
    "roll_forward",
    "shards_of",
    "shards_with_attempts",
    "strange_files",
    "stream_metadata",
    "sweep",
    "too_large",
    "unpublished_counts",
    "unpublished_records",
    "unpublished_verdicts",
    "visible_shards",
]
