"""Manifest and job → plan: everything that can be known before a device is touched. No torch.

    preflight.py    what a job asks for and cannot have
    layout.py       what several devices to a picture are for, in seconds
    memory_fit.py   does a job fit into the devices' memory, and what would make it fit
    memory.py       how much device memory a rank takes: an estimate
    decode_memory.py   how much decoding takes of it
    eager_memory.py   how much 8-bit blocks take more where they are not compiled
    score_memory.py   how much a scorer takes of it
    extension.py    a plan goes on with appended rows, or with the rest of a trial
    planner.py      manifest + job → Plan
    effects.py      what was asked for and changes no picture
    licence_check.py   an open licence for pictures of a non-commercial model
    schedule_file.py   which steps each class computes, as calibrate wrote it for a model
    noise_levels.py   what a job states of them, beside the model's scheduler
    stretch.py      consecutive pictures from a place on → shards
    cut_list.py     a frozen list of pictures → shards
    cut.py          the stream of rows → shards
    estimate.py     seconds and bytes of a picture
    outlook.py      time and money of a plan, with the devices that there are
    pace.py         how fast earlier runs were
    plan_file.py    plan.json: its checksum, and what must hold between its numbers
    identity.py     the fingerprint: what a run may never change
    hardware.py     the devices, asked for without torch
    plan.py         Plan, Shard, Shape; the groups of a shard

A room imports only rooms below it.
"""

from batchgen.planning.cut import later_shard_size
from batchgen.planning.cut_list import Places, cut_list, locate_keys
from batchgen.planning.extension import (
    NewPictures,
    append_rows,
    plan_further,
    rest_of_sample,
    sample_plan,
)
from batchgen.planning.hardware import (
    UNKNOWN,
    Hardware,
    assumed,
    of_site,
    this_machine,
    visible_devices,
    worker_count,
)
from batchgen.planning.identity import as_before, identify_run, refuse_change, software
from batchgen.planning.layout import describe_layout
from batchgen.planning.licence_check import limits, refuse_open_licence
from batchgen.planning.memory_fit import describe_memory
from batchgen.planning.outlook import Outlook, look_ahead
from batchgen.planning.pace import Pace, remember
from batchgen.planning.plan import (
    PLAN_VERSION,
    AddedRows,
    Generation,
    KeyList,
    Part,
    Plan,
    Shard,
    groups,
)
from batchgen.planning.plan_file import (
    continue_plan,
    decode_generation,
    decode_plan,
    encode_generation,
    encode_plan,
)
from batchgen.planning.planner import dry_run, locate_model, locate_trace, make_plan, recount
from batchgen.planning.preflight import refuse_impossible, refuse_unfit
from batchgen.planning.schedule_file import ModelDigest, encode_schedule

__all__ = [
    "PLAN_VERSION",
    "UNKNOWN",
    "AddedRows",
    "Generation",
    "Hardware",
    "KeyList",
    "ModelDigest",
    "NewPictures",
    "Outlook",
    "Pace",
    "Part",
    "Places",
    "Plan",
    "Shard",
    "append_rows",
    "as_before",
    "assumed",
    "continue_plan",
    "cut_list",
    "decode_generation",
    "decode_plan",
    "describe_layout",
    "describe_memory",
    "dry_run",
    "encode_generation",
    "encode_plan",
    "encode_schedule",
    "groups",
    "identify_run",
    "later_shard_size",
    "limits",
    "locate_keys",
    "locate_model",
    "locate_trace",
    "look_ahead",
    "make_plan",
    "of_site",
    "plan_further",
    "recount",
    "refuse_change",
    "refuse_impossible",
    "refuse_open_licence",
    "refuse_unfit",
    "remember",
    "rest_of_sample",
    "sample_plan",
    "software",
    "this_machine",
    "visible_devices",
    "worker_count",
]
