# SPDX-License-Identifier: Apache-2.0
"""A run's copy at another place: what is sent, what counts there, and what comes back."""

import json
import pathlib
import shutil
import sys
import uuid
from collections.abc import Callable

import pytest
from doors import PROJECT

from cots_jax import checkpoint, manifest
from cots_jax.arguments import parse_arguments
from cots_jax.errors import UserError
from cots_jax.schema import Config
from cots_jax.train.assemble import claimed
from cots_jax.train.mirror import Mirror

KEEP = checkpoint.Keep(2)
TINY = f"--config={PROJECT / 'configs' / 'tiny.py'}"


def a_config(*flags: str) -> Config:
    return parse_arguments([TINY, *flags], "").config


def write_step(run: pathlib.Path, step: int, folder: str = checkpoint.FOLDER) -> pathlib.Path:
    """A folder like a checkpoint: its manifest describes it."""
    path = run / folder / str(step)
    (path / "towers" / "d").mkdir(parents=True)
    (path / "towers" / "d" / "0").write_bytes(bytes([step % 256]) * 1000)
    (path / "facts.json").write_text(json.dumps({"step": step}))
    manifest.write(path, {"step": step})
    return path


def write_run(run: pathlib.Path, *steps: int) -> pathlib.Path:
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(a_config().to_dict()))
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    (run / ".lock").touch()
    (run / "frozen" / "0").mkdir(parents=True)
    (run / "frozen" / "0" / "codes").write_bytes(b"codes")
    for step in steps:
        write_step(run, step)
    return run


def names(folder: pathlib.Path) -> set[str]:
    return {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}


def fetched(mirror: Mirror, config: Config | None = None) -> list[str]:
    """What was said of it."""
    said: list[str] = []

    def same_run(found: Config) -> None:
        if found != (config or a_config()):
            raise UserError("another config")

    mirror.fetch(same_run, said.append)
    return said


@pytest.fixture(params=["folder", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "place" / "run")
    return f"memory://{uuid.uuid4().hex}/run"


def failing_at(mirror: Mirror, monkeypatch: pytest.MonkeyPatch, word: str) -> Callable[[], None]:
    """Lets `_put` fail for names that hold a word, until what is returned is called."""
    put = mirror._put

    def some(wanted: list[str]) -> None:
        for name in wanted:
            if word in name:
                raise OSError("connection lost")
            put([name])

    monkeypatch.setattr(mirror, "_put", some)
    return lambda: monkeypatch.setattr(mirror, "_put", put)


class TestThereAndBack:
    def test_a_lost_disk_comes_back(self, place: str, tmp_path: pathlib.Path) -> None:
        run = write_run(tmp_path / "run", 10, 20)
        write_step(run, 10, checkpoint.BEST)
        before = names(run) - {".lock"}
        Mirror(run, place).send(KEEP)
        shutil.rmtree(run)
        run.mkdir()
        said = fetched(Mirror(run, place))
        assert said == [f"step 20 came back from {place}"]
        older = {name for name in before if name.startswith("checkpoints/10/")}
        assert names(run) == before - older  # the newest is what a run goes on from
        assert checkpoint.verify(run / "checkpoints" / "20") is None
        assert (run / "metrics.jsonl").read_text() == '{"step": 1}\n'

    def test_an_empty_place_brings_nothing(self, place: str, tmp_path: pathlib.Path) -> None:
        assert fetched(Mirror(tmp_path / "run", place)) == []
        assert not (tmp_path / "run").exists()

    def test_what_is_not_newer_stays_there(self, place: str, tmp_path: pathlib.Path) -> None:
        run = write_run(tmp_path / "run", 10)
        Mirror(run, place).send(KEEP)
        (run / "metrics.jsonl").write_text("newer")
        assert fetched(Mirror(run, place)) == []
        assert (run / "metrics.jsonl").read_text() == "newer"

    def test_a_damaged_own_one_is_healed(self, place: str, tmp_path: pathlib.Path) -> None:
        run = write_run(tmp_path / "run", 10)
        Mirror(run, place).send(KEEP)
        (run / "checkpoints" / "10" / "facts.json").write_text("{}")
        assert fetched(Mirror(run, place)) == [f"step 10 came back from {place}"]
        assert checkpoint.verify(run / "checkpoints" / "10") is None
        assert (run / "checkpoints" / "10.aside").is_dir()

    def test_a_damaged_copy_is_passed_over(self, place: str, tmp_path: pathlib.Path) -> None:
        run = write_run(tmp_path / "run", 10, 20)
        mirror = Mirror(run, place)
        mirror.send(KEEP)
        mirror._fs.pipe_file(f"{mirror._root}/checkpoints/20/facts.json", b"{}")
        shutil.rmtree(run)
        run.mkdir()
        passed, back = fetched(mirror)
        assert "checkpoints/20" in passed and "facts.json has 2 bytes instead of" in passed
        assert back == f"step 10 came back from {place}"


class TestKilledOnTheWayBack:
    def test_before_the_checkpoint_is_there(
        self, place: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = a_config(f"--config.mirror={place}")
        run = write_run(tmp_path / "run", 10)
        Mirror(run, place).send(KEEP)
        shutil.rmtree(run)
        with monkeypatch.context() as broken:
            broken.setattr(Mirror, "_fetch", lambda *_: 1 / 0)
            with pytest.raises(UserError, match="ZeroDivisionError"), claimed(run, config, print):
                pass
        assert not (run / "checkpoints").exists()
        said: list[str] = []
        with claimed(run, config, said.append):
            assert said == [f"step 10 came back from {place}"]

    def test_within_the_checkpoint(self, place: str, tmp_path: pathlib.Path) -> None:
        run = write_run(tmp_path / "run", 10)
        Mirror(run, place).send(KEEP)
        shutil.rmtree(run)
        left = run / "checkpoints" / "10.fetching" / "half"
        left.parent.mkdir(parents=True)
        left.touch()
        assert fetched(Mirror(run, place)) == [f"step 10 came back from {place}"]
        assert not (run / "checkpoints" / "10" / "half").exists()

    def test_a_second_damaged_one_is_healed_like_the_first(
        self, place: str, tmp_path: pathlib.Path
    ) -> None:
        run = write_run(tmp_path / "run", 10)
        Mirror(run, place).send(KEEP)
        for _ in range(2):
            (run / "checkpoints" / "10" / "facts.json").write_text("{}")
            assert fetched(Mirror(run, place)) == [f"step 10 came back from {place}"]


class TestWhatIsSent:
    def test_nothing_that_passes(self, place: str, tmp_path: pathlib.Path) -> None:
        run = write_run(tmp_path / "run", 10)
        wanted = names(run) - {".lock"}
        for name in ("checkpoints/20.saving/x", "checkpoints/5.deleted/x", "profile/trace"):
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            (run / name).touch()
        mirror = Mirror(run, place)
        mirror.send(KEEP)
        assert mirror.behind == ""
        assert set(mirror._there()) == wanted

    def test_what_the_run_deletes_goes_there_too(self, place: str, tmp_path: pathlib.Path) -> None:
        run = write_run(tmp_path / "run", 10, 20)
        mirror = Mirror(run, place)
        mirror.send(KEEP)
        shutil.rmtree(run / "checkpoints" / "10")
        write_step(run, 30)
        mirror.send(KEEP)
        steps = {name.split("/")[1] for name in mirror._there() if name.startswith("checkpoints/")}
        assert steps == {"20", "30"}

    def test_what_stays_for_good_outlives_a_lost_disk(
        self, place: str, tmp_path: pathlib.Path
    ) -> None:
        keep = checkpoint.Keep(1, every=10)
        run = write_run(tmp_path / "run", 10, 20, 25)
        mirror = Mirror(run, place)
        mirror.send(keep)
        mirror._remove("checkpoints/10", {"checkpoints/10/manifest.json": 0})  # half of it is left
        shutil.rmtree(run)
        run.mkdir()
        other = Mirror(run, place)
        assert fetched(other) == [f"step 25 came back from {place}"]
        write_step(run, 30)
        shutil.rmtree(run / "checkpoints" / "25")
        other.send(keep)
        steps = {name.split("/")[1] for name in other._there() if name.startswith("checkpoints/")}
        assert steps == {"20", "30"}

    def test_later_steps_there_stay(self, place: str, tmp_path: pathlib.Path) -> None:
        run = write_run(tmp_path / "run", 10, 20)
        mirror = Mirror(run, place)
        mirror.send(KEEP)
        shutil.rmtree(run / "checkpoints" / "20")
        mirror.send(KEEP)
        assert "checkpoints/20/manifest.json" in mirror._there()

    def test_the_same_step_written_anew(self, place: str, tmp_path: pathlib.Path) -> None:
        run = write_run(tmp_path / "run", 10)
        mirror = Mirror(run, place)
        mirror.send(KEEP)
        path = run / "checkpoints" / "10"
        (path / "facts.json").write_text('{"step": 10, "other": 1}')
        manifest.write(path, {"step": 10})
        mirror.send(KEEP)
        shutil.rmtree(run)
        run.mkdir()
        fetched(mirror)
        assert "other" in (path / "facts.json").read_text()

    def test_what_has_not_changed_is_not_sent_again(
        self, place: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = write_run(tmp_path / "run", 10)
        mirror = Mirror(run, place)
        mirror.send(KEEP)
        sent: list[str] = []
        monkeypatch.setattr(mirror, "_put", sent.extend)
        (run / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
        mirror.send(KEEP)
        assert sent == ["metrics.jsonl"]


class TestACutConnection:
    @pytest.mark.parametrize(
        "word", ["checkpoints/20/towers", "checkpoints/20/manifest", "metrics"]
    )
    def test_half_a_checkpoint_does_not_count(
        self, place: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, word: str
    ) -> None:
        run = write_run(tmp_path / "run", 10)
        mirror = Mirror(run, place)
        mirror.send(KEEP)
        write_step(run, 20)
        (run / "metrics.jsonl").write_text('{"step": 20}\n')
        mended = failing_at(mirror, monkeypatch, word)
        mirror.send(KEEP)
        assert mirror.behind == f"the copy at {place} is behind: OSError: connection lost"
        other = tmp_path / "other"
        other.mkdir()
        assert fetched(Mirror(other, place)) == [f"step 10 came back from {place}"]
        mended()
        mirror.send(KEEP)
        assert mirror.behind == ""
        assert fetched(Mirror(other, place)) == [f"step 20 came back from {place}"]

    def test_a_file_that_arrives_short(
        self, place: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = write_run(tmp_path / "run", 10)
        mirror = Mirror(run, place)
        put = mirror._put

        def short(wanted: list[str]) -> None:
            put(wanted)
            if any(name.endswith("towers/d/0") for name in wanted):
                mirror._fs.pipe_file(f"{mirror._root}/checkpoints/10/towers/d/0", b"12")

        monkeypatch.setattr(mirror, "_put", short)
        mirror.send(KEEP)
        assert "checkpoints/10/towers/d/0 has 2 bytes there instead of 1000" in mirror.behind
        assert "checkpoints/10/manifest.json" not in mirror._there()

    def test_a_first_send_that_was_cut_is_still_this_run(
        self, place: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = write_run(tmp_path / "run", 10)
        mirror = Mirror(run, place)
        failing_at(mirror, monkeypatch, "metrics")
        mirror.send(KEEP)
        assert mirror.behind
        assert fetched(Mirror(run, place)) == []


class TestPlacesThatAreRefused:
    def test_of_another_run(self, place: str, tmp_path: pathlib.Path) -> None:
        Mirror(write_run(tmp_path / "run", 10), place).send(KEEP)
        with pytest.raises(UserError, match="another config"):
            fetched(Mirror(tmp_path / "other", place), a_config("--config.seed=1"))
        assert not (tmp_path / "other").exists()

    def test_a_folder_with_something_else_is_not_written_to(
        self, place: str, tmp_path: pathlib.Path
    ) -> None:
        Mirror(write_run(tmp_path / "run", 10), place).send(KEEP)
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "thesis.tex").touch()
        config = a_config(f"--config.mirror={place}")
        with (
            pytest.raises(UserError, match="no run of ours"),
            claimed(tmp_path / "home", config, print),
        ):
            pass
        assert names(tmp_path / "home") == {"thesis.tex", ".lock"}

    def test_of_something_else(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "place").mkdir()
        (tmp_path / "place" / "thesis.tex").touch()
        with pytest.raises(UserError, match="no copy of a run: name an empty place"):
            fetched(Mirror(tmp_path / "run", str(tmp_path / "place")))

    def test_of_no_known_kind(self, tmp_path: pathlib.Path) -> None:
        with pytest.raises(UserError, match=r"cannot be used .*: name a folder, or a gs://"):
            Mirror(tmp_path, "nowhere://x/y")

    def test_without_the_package(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "s3fs", None)
        with pytest.raises(UserError, match="pip install s3fs"):
            Mirror(tmp_path, "s3://bucket/run")

    def test_that_cannot_be_written(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "file").touch()
        mirror = Mirror(write_run(tmp_path / "run", 10), str(tmp_path / "file" / "below"))
        mirror.send(KEEP)
        assert mirror.behind.startswith(f"the copy at {tmp_path / 'file' / 'below'} is behind: ")
