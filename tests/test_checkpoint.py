# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: the same bits come back, no damage passes, no full disk costs a good one."""

import asyncio
import errno
import gc
import os
import resource
import shutil
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_cases import (
    NINE,
    assert_holds,
    assert_same_bits,
    make_trees,
    names,
    one_device,
    save,
)

from cots_jax import checkpoint, manifest
from cots_jax.checkpoint import Keep
from cots_jax.errors import UserError


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    save(folder, 1, 2)
    return folder


@pytest.fixture
def saved(pristine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pristine, tmp_path / "checkpoints")


class TestRoundTrip:
    def test_trees_and_facts_come_back_bit_for_bit(self, saved: Path) -> None:
        assert_holds(saved, 2)
        assert checkpoint.read_fact(saved / "2", "facts") == {"name": "ünï"}

    def test_target_with_shardings_gives_jax_arrays(self, saved: Path) -> None:
        towers = make_trees(2)["towers"]
        ONE = one_device()
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=ONE), towers
        )
        restored = checkpoint.restore(saved / "2", "towers", target)
        assert all(leaf.sharding == ONE for leaf in jax.tree.leaves(restored))
        assert_same_bits(restored, towers)

    def test_without_target_everything_is_numpy(self, saved: Path) -> None:
        restored = checkpoint.restore(saved / "2", "towers")
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(restored))
        assert_same_bits(restored, make_trees(2)["towers"])

    @pytest.mark.parametrize(
        "tree",
        [
            {},
            None,
            {"a": None, "b": {}, "c": (), "d": [jnp.ones(2), None]},
            {"no elements": jnp.zeros((0, 4)), "one": jnp.ones(1)},
            {"numpy": np.float32(3), "bool": np.bool_(True), "int": 5, "float": 0.1},
            jnp.arange(3),
            {"extremes": jnp.array([np.nan, -0.0, np.inf, 1e-45], jnp.float32)},
        ],
        ids=str,
    )
    def test_odd_trees(self, tmp_path: Path, tree: Any) -> None:
        path = checkpoint.save(tmp_path, 0, {"odd": tree}, {}, keep=Keep())
        expected = jax.tree.map(np.asarray, tree)
        assert_same_bits(checkpoint.restore(path, "odd", tree), expected)

    def test_negative_zero_and_nan_payloads_survive(self, tmp_path: Path) -> None:
        bits = np.array([0x80000000, 0x7FC00001, 0xFFC12345, 1], np.uint32).view(np.float32)
        path = checkpoint.save(tmp_path, 0, {"bits": {"x": bits}}, {}, keep=Keep())
        assert checkpoint.restore(path, "bits")["x"].tobytes() == bits.tobytes()

    def test_facts_must_be_exact_json(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="not JSON compliant"):
            checkpoint.save(tmp_path, 0, {}, {"bad": float("nan")}, keep=Keep())
        assert names(tmp_path) == []


class TestMismatch:
    def test_names_every_array_that_differs(self, saved: Path) -> None:
        target = make_trees(2)["towers"]
        target["half"] = jnp.zeros((5,), jnp.float32)
        target["ids"] = jnp.zeros((3, 3), jnp.int32)
        target["new"] = jnp.zeros(())
        del target["valid"]
        with pytest.raises(UserError) as error:
            checkpoint.restore(saved / "2", "towers", target)
        for difference in (
            "4 of 5 arrays differ",
            "half: saved bfloat16[5], wanted float32[5]",
            "ids: saved int32[3, 2], wanted int32[3, 3]",
            "new: saved nothing, wanted float32[]",
            "valid: saved bool[7], wanted nothing",
        ):
            assert difference in str(error.value)

    def test_what_was_never_saved(self, saved: Path) -> None:
        with pytest.raises(UserError, match="holds no 'momentum'"):
            checkpoint.restore(saved / "2", "momentum")
        with pytest.raises(UserError, match=r"holds no lineage\.json"):
            checkpoint.read_fact(saved / "2", "lineage")


class TestDamage:
    @pytest.mark.parametrize("seed", range(10))
    def test_any_flipped_byte_is_noticed(self, pristine: Path, tmp_path: Path, seed: int) -> None:
        path = shutil.copytree(pristine / "2", tmp_path / "2")
        rng = np.random.default_rng(seed)
        files = [file for file in path.rglob("*") if file.is_file() and file.stat().st_size]
        for number in range(max(25, len(files))):
            file = files[number % len(files)]
            good = file.read_bytes()
            bad = bytearray(good)
            bad[rng.integers(len(bad))] ^= int(rng.integers(1, 256))
            file.write_bytes(bad)
            assert checkpoint.verify(path) is not None, f"{file} {good!r} {bad!r}"
            file.write_bytes(good)
        assert checkpoint.verify(path) is None

    @pytest.mark.parametrize("harm", ["truncated", "longer", "empty", "removed"])
    def test_any_harmed_file_is_noticed(self, saved: Path, harm: str) -> None:
        path = saved / "2"
        for file in [file for file in path.rglob("*") if file.is_file()]:
            good = file.read_bytes()
            bad = {"truncated": good[:-1], "longer": good + b"\0", "empty": b""}.get(harm)
            file.unlink()
            if bad is not None:
                file.write_bytes(bad)
            assert (checkpoint.verify(path) is None) == (bad == good), file
            file.write_bytes(good)
        assert checkpoint.verify(path) is None

    def test_added_files_are_noticed_unless_hidden(self, saved: Path) -> None:
        (saved / "2" / "towers" / ".DS_Store").write_bytes(b"x")
        assert checkpoint.verify(saved / "2") is None
        (saved / "2" / "towers" / "d" / "extra").write_bytes(b"x")
        assert checkpoint.verify(saved / "2") == "towers/d/extra was added later"

    def test_renamed_folder_is_noticed(self, saved: Path) -> None:
        (saved / "2").rename(saved / "3")
        assert "saved as {'step': 2}" in str(checkpoint.verify(saved / "3"))

    def test_copy_under_a_name_of_its_own_is_good(self, saved: Path) -> None:
        assert checkpoint.verify(shutil.copytree(saved / "2", saved / "best model")) is None

    def test_other_format_is_named(self, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(manifest, "FORMAT", manifest.FORMAT + 1)
        assert "is of format 1, and this version reads format 2" in str(
            checkpoint.verify(saved / "2")
        )

    def test_damaged_newest_is_reported_and_the_one_before_taken(self, saved: Path) -> None:
        (saved / "2" / "data.json").write_text('{"position": 3}\n')
        found = checkpoint.latest(saved)
        assert found is not None
        assert found.step == 1
        assert [one.step for one in found.damaged] == [2]
        assert "data.json" in found.damaged[0].reason
        assert names(saved) == ["1", "2"]

    def test_no_good_one_left_is_an_error_and_not_a_new_start(self, saved: Path) -> None:
        for step in ("1", "2"):
            (saved / step / "manifest.json").unlink()
        with pytest.raises(UserError, match=r"2: manifest.json is missing; 1: manifest.json is"):
            checkpoint.latest(saved)

    def test_the_newest_before_a_step(self, saved: Path) -> None:
        found = checkpoint.latest(saved, before=2)
        assert found is not None and found.step == 1
        assert checkpoint.latest(saved, before=1) is None

    def test_no_checkpoint_at_all(self, tmp_path: Path) -> None:
        assert checkpoint.latest(tmp_path) is None
        assert checkpoint.latest(tmp_path / "absent") is None

    def test_damaged_parts_are_not_read_and_others_are(self, saved: Path) -> None:
        next((saved / "2" / "towers" / "d").iterdir()).write_bytes(b"x")
        with pytest.raises(UserError, match=r"is damaged \(towers/d/.* has 1 bytes instead of"):
            checkpoint.restore(saved / "2", "towers")
        training = make_trees(2)["training"]
        assert_same_bits(checkpoint.restore(saved / "2", "training", training), training)
        (saved / "2" / "data.json").write_text("{}")
        with pytest.raises(UserError, match=r"is damaged \(data.json has"):
            checkpoint.read_fact(saved / "2", "data")


class TestKeep:
    def test_last_and_best(self, tmp_path: Path) -> None:
        for step in (10, 20, 30, 40, 100):
            save(tmp_path, step, keep=Keep(last=2, best=20 if step >= 20 else None))
        assert names(tmp_path) == ["100", "20", "40"]

    def test_best_that_was_overtaken_goes(self, tmp_path: Path) -> None:
        save(tmp_path, 1, 2, keep=Keep(last=1, best=1))
        save(tmp_path, 3, keep=Keep(last=1, best=3))
        assert names(tmp_path) == ["3"]

    def test_keeping_none_is_refused(self) -> None:
        with pytest.raises(UserError, match="use 1 or more"):
            Keep(last=0)

    def test_same_step_is_exchanged(self, saved: Path) -> None:
        trees = make_trees(2) | {"towers": make_trees(7)["towers"]}
        checkpoint.save(saved, 2, trees, {}, keep=Keep())
        assert names(saved) == ["1", "2"]
        assert_same_bits(
            checkpoint.restore(saved / "2", "towers", trees["towers"]), trees["towers"]
        )

    def test_later_steps_are_set_aside(self, saved: Path) -> None:
        save(saved, 5, 4)
        assert names(saved) == ["1", "2", "4", "5.aside"]
        assert_holds(saved, 4)

    def test_leftovers_of_killed_saves_go(self, saved: Path) -> None:
        for name in ("3.saving", "1.deleted", "2.replaced"):
            shutil.copytree(saved / "2", saved / name)
        assert_holds(saved, 2)
        save(saved, 3)
        assert names(saved) == ["1", "2", "3"]

    def test_those_of_every_so_many_steps_stay(self, tmp_path: Path) -> None:
        save(tmp_path, 1, 2, 3, 4, 5, keep=Keep(last=1, every=2))
        assert names(tmp_path) == ["2", "4", "5"]


class TestSaver:
    def test_what_was_there_is_saved_though_the_run_goes_on(self, tmp_path: Path) -> None:
        """The arrays are given away to the next step while they are being written."""
        saver = checkpoint.Saver(tmp_path)
        count_up = jax.jit(lambda x: x + 1, donate_argnums=0)
        array = count_up(jnp.zeros((500, 1000)))
        for step in (1, 2, 3):
            saver.save(step, {"towers": {"kernel": array}}, {}, keep=NINE)
            for _ in range(5):
                array = count_up(array)
        saver.wait()
        for number, step in enumerate((1, 2, 3)):
            found = checkpoint.restore(tmp_path / str(step), "towers")["kernel"]
            np.testing.assert_array_equal(found, np.full((500, 1000), 1 + 5 * number))

    def test_a_refusal_is_raised_by_the_next_call_and_only_once(self, saved: Path) -> None:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        big = {"towers": {"kernel": np.random.default_rng(0).normal(size=(300, 300))}}
        saver = checkpoint.Saver(saved)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        try:
            saver.save(3, big, {}, keep=NINE)
            saver.close()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        with pytest.raises(UserError, match=r"cannot save step 3 .*File too large"):
            saver.save(4, make_trees(4), {}, keep=NINE)
        assert names(saved) == ["1", "2"]
        saver.save(4, make_trees(4), {"data": {"position": 4}}, keep=NINE)
        saver.wait()
        assert_holds(saved, 4)

    def test_a_folder_that_cannot_be_made_too(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        saver = checkpoint.Saver(tmp_path / "file" / "checkpoints")
        saver.save(1, make_trees(1), {}, keep=NINE)
        with pytest.raises(UserError, match="Not a directory"):
            saver.wait()

    def test_errors_of_the_caller_stay_what_they_are(self, tmp_path: Path) -> None:
        saver = checkpoint.Saver(tmp_path)
        with pytest.raises(ValueError, match="Unsupported data type"):
            saver.save(1, {"a": {"b": object()}}, {}, keep=NINE)
            saver.wait()


class TestDisk:
    def test_file_that_cannot_grow(self, saved: Path) -> None:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        big = {"towers": {"kernel": np.random.default_rng(0).normal(size=(300, 300))}}
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        try:
            with pytest.raises(UserError, match=r"cannot save step 3 .*File too large.* step 2 is"):
                checkpoint.save(saved, 3, big, {}, keep=Keep(last=1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert names(saved) == ["1", "2"]
        assert_holds(saved, 2)

    def test_a_refusal_leaves_no_write_running(
        self,
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        # Many arrays of both kinds, each of which Orbax writes on its own.
        rng = np.random.default_rng(0)
        arrays = {f"{number}": jnp.asarray(rng.normal(size=(40, 40))) for number in range(30)}
        trees = {"towers": arrays | {f"{name} here": np.asarray(arrays[name]) for name in arrays}}
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
        try:
            with pytest.raises(UserError, match="cannot save step 3"):
                checkpoint.save(tmp_path, 3, trees, {}, keep=Keep())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert [thread.name for thread in threading.enumerate() if "handler" in thread.name] == []
        assert asyncio.new_event_loop is asyncio.events.new_event_loop
        gc.collect()
        assert capfd.readouterr().err == caplog.text == ""
        assert names(tmp_path) == []

    def test_full_while_the_manifest_is_written(
        self, saved: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(path: Path) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        monkeypatch.setattr(manifest, "sync", full)
        with pytest.raises(UserError, match="No space left on device"):
            save(saved, 3, keep=Keep(last=1))
        assert names(saved) == ["1", "2"]
        assert_holds(saved, 2)

    def test_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="Not a directory"):
            save(tmp_path / "file" / "checkpoints", 1)

    def test_errors_of_the_caller_stay_what_they_are(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="Unsupported data type") as error:
            checkpoint.save(tmp_path, 1, {"a": {"b": object()}}, {}, keep=Keep())
        assert not isinstance(error.value, UserError)
