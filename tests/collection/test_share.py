# SPDX-License-Identifier: Apache-2.0
"""Tasks that share a collection, and the run that joins them."""

import pathlib

import pytest
from stub_index import PART, Stub, held, save_picture

from cots_jax.collection.claim import claimed
from cots_jax.collection.share import update_share
from cots_jax.collection.sources import open_source
from cots_jax.collection.update import Updated, update
from cots_jax.data.prepare.tasks import Task
from cots_jax.errors import UserError


def share(photos: pathlib.Path, out: pathlib.Path, task: Task, stub: Stub) -> Updated:
    with open_source(str(photos), out) as source:
        return update_share(out, source, stub.maker(), task, PART)


def join(photos: pathlib.Path, out: pathlib.Path, stub: Stub) -> Updated:
    with open_source(str(photos), out) as source:
        return update(out, source, stub.maker(), PART)


@pytest.fixture
def photos(tmp_path: pathlib.Path) -> pathlib.Path:
    for number in range(23):
        save_picture(tmp_path / "photos" / f"{number}.png", number)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    return tmp_path / "photos"


@pytest.fixture
def fresh(photos: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """What one run makes."""
    join(photos, tmp_path / "fresh", Stub())
    return tmp_path / "fresh"


def test_tasks_give_what_one_run_gives(
    photos: pathlib.Path, tmp_path: pathlib.Path, fresh: pathlib.Path
) -> None:
    out, stubs = tmp_path / "index", [Stub() for _ in range(3)]
    for number, stub in enumerate(stubs, 1):
        share(photos, out, Task(number, 3), stub)
    assert sum(stub.embedded for stub in stubs) == 23
    assert all(stub.embedded for stub in stubs)
    joining = Stub()
    done = join(photos, out, joining)
    assert (joining.loads, done.tasks) == (0, 3)
    assert "joined 3 tasks, embedded 0" in done.summary(out)
    assert held(out) == held(fresh)
    assert not list(out.glob("task-*"))
    assert "nothing changed" in join(photos, out, Stub()).summary(out)


def test_what_no_task_has_done_is_done_by_the_join(
    photos: pathlib.Path, tmp_path: pathlib.Path, fresh: pathlib.Path
) -> None:
    out, first, joining = tmp_path / "index", Stub(), Stub()
    share(photos, out, Task(1, 2), first)
    join(photos, out, joining)
    assert (first.embedded + joining.embedded, held(out)) == (23, held(fresh))


def test_tasks_bring_an_index_up_to_date(photos: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "index"
    join(photos, out, Stub())
    before = held(out)
    for number in range(20, 30):
        save_picture(photos / f"{number}.png", 100 + number)
    (photos / "1.png").unlink()
    stubs = [Stub() for _ in range(2)]
    for number, stub in enumerate(stubs, 1):
        share(photos, out, Task(number, 2), stub)
    assert sum(stub.embedded for stub in stubs) == 10
    assert held(out) == before  # until they are joined
    done = join(photos, out, Stub())
    assert (done.embedded, done.dropped) == (0, 4)  # three were drawn anew
    join(photos, tmp_path / "fresh", Stub())
    assert held(out) == held(tmp_path / "fresh")


def test_a_task_with_nothing_to_do(photos: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "index"
    join(photos, out, Stub())
    (photos / "another.jpg").write_bytes(b"no picture")
    for number in (1, 2):
        share(photos, out, Task(number, 2), Stub())
    done = join(photos, out, Stub())
    assert (done.embedded, done.facts.skipped) == (0, {"picture_unreadable": 2})


def test_a_killed_task_goes_on(
    photos: pathlib.Path, tmp_path: pathlib.Path, fresh: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("cots_jax.collection.update.EMBED_BATCH", 1)
    out, again = tmp_path / "index", Stub()
    with pytest.raises(KeyboardInterrupt):
        share(photos, out, Task(1, 1), Stub(fail_after=2 * PART))
    share(photos, out, Task(1, 1), again)
    assert again.embedded == 23 - 2 * PART
    # what a killed task has finished is worth something to the join, too
    other, joining = tmp_path / "other", Stub()
    with pytest.raises(KeyboardInterrupt):
        share(photos, other, Task(1, 1), Stub(fail_after=2 * PART))
    join(photos, other, joining)
    assert joining.embedded == 23 - 2 * PART
    assert held(other) == held(fresh)


def test_refusals(photos: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out, task = tmp_path / "index", Task(1, 2)
    share(photos, out, task, Stub())
    with claimed(task.folder(out)), pytest.raises(UserError, match="task-00001-of-00002: wait"):
        join(photos, out, Stub())
    join(photos, out, Stub())
    with pytest.raises(UserError, match="whose vectors do not mix"):
        share(photos, out, task, Stub({"step": 2, "checkpoint": "b"}))
    with pytest.raises(UserError, match="holds other files"):
        share(photos, photos, task, Stub())


def test_finished_parts_of_another_model_are_not_taken(
    photos: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    out, joining = tmp_path / "index", Stub({"step": 2, "checkpoint": "b"})
    share(photos, out, Task(1, 1), Stub())
    join(photos, out, joining)
    assert joining.embedded == 23
