# SPDX-License-Identifier: Apache-2.0
"""Records to their splits, in the group of an earlier picture that is the same."""

import dataclasses

from cots_jax.data.prepare.samples import BadRow
from cots_jax.data.prepare.traces import Trace
from cots_jax.data.prepare.twins import Twin, Twins
from cots_jax.data.prepare.write import FolderWriter
from cots_jax.data.records import Record


def add_grouped(
    record: Record, split: str, trace: Trace, twins: Twins | None, writer: FolderWriter
) -> None:
    """Writes a record in its group, or rejects it for its twin. Without `twins` every picture is
    its own group, but for those whose source has said a group: it stays theirs, and what is in two
    of them is rejected the second time."""
    twin = twins.of(split, trace.file, trace.look) if twins else None
    if twins and twin and twins.drops(split, twin):
        reject(twin_reject(twin, record.id, record.source_row), writer)
        return
    if record.group != record.id:
        group, group_id = record.group, writer.group_id(record.group)
        if twin and twin.group_id != group_id:
            contradicted = dataclasses.replace(twin, reason="picture_in_two_classes")
            reject(twin_reject(contradicted, record.id, record.source_row), writer)
            return
    else:
        group_id = twin.group_id if twin else writer.new_group()
        group = twin.id if twin else record.id
    if twins and twin is None:
        twins.add(record.id, split, group_id, trace.file, trace.look)
    grouped = dataclasses.replace(record, group=group, group_id=group_id)
    writer.add(split, grouped, trace)


def twin_reject(twin: Twin, id: str, source_row: str) -> BadRow:
    """The reject of a picture that is there already, with where its twin is."""
    more = [("twin", twin.id), ("twin_split", twin.split)]
    if twin.distance:
        more.append(("distance", str(twin.distance)))
    return BadRow(twin.reason, source_row, id, tuple(more))


def reject(bad: BadRow, writer: FolderWriter) -> None:
    """Counts and lists what is not taken."""
    writer.reject(bad.reason, bad.source_row, bad.image, **dict(bad.more))
