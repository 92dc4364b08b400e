# SPDX-License-Identifier: Apache-2.0
"""Tars of samples come out whole and in order; whatever is wrong with one costs itself only."""

import contextlib
import os
import pathlib
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prepare_cases import ids, jpeg, reasons, records, rejects, write_tar

from cots_jax.data.prepare.images import Images
from cots_jax.data.prepare.samples import BadRow
from cots_jax.data.prepare.tars import TarSample, tar_samples
from cots_jax.data.prepare.webdataset import WebdatasetOptions, prepare_webdataset
from cots_jax.errors import UserError

many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)


def _prepare(folder: pathlib.Path, **more) -> dict:
    options = WebdatasetOptions(**{"source": folder / "in", "held_out": 0.0, **more})
    return prepare_webdataset(folder / "out", options).facts


def _tars(folder: pathlib.Path, **tars: list[tuple[str, bytes]]) -> None:
    (folder / "in").mkdir()
    for name, members in tars.items():
        write_tar(folder / "in" / f"{name}.tar", members)


def test_samples_of_all_forms(tmp_path):
    members = [
        ("./a.jpg", jpeg(0)), ("./a.txt", "\ufeffa first\n".encode()),
        ("deep/b.PNG", jpeg(1)), ("deep/b.json", b'{"text": ["one", "two"], "n": 1}'),
        ("c.json", b'{"caption": "json"}'), ("c.txt", b"text"), ("c.webp", jpeg(2)),
        ("c.cls", b"7"), ("d.seg.png", b"no picture of the sample"), ("d.jpg", jpeg(3)),
        ("d.txt", b"last"),
    ]  # fmt: skip
    _tars(tmp_path, x=members)
    assert _prepare(tmp_path)["splits"] == {"train": {"records": 4, "pairs": 5, "shards": 1}}
    assert [(r.id, r.captions) for r in records(tmp_path / "out", "train")] == [
        ("x/./a", ("a first",)),
        ("x/deep/b", ("one", "two")),
        ("x/c", ("text",)),
        ("x/d", ("last",)),
    ]
    assert records(tmp_path / "out", "train")[2].source_row == "x.tar:c"
    assert _prepare(tmp_path, source=tmp_path / "in")["drops"] == {}


def test_a_key_of_the_json_files_can_be_named(tmp_path):
    member = b'{"caption": "wrong", "alt": "right"}'
    _tars(tmp_path, x=[("a.jpg", jpeg(0)), ("a.txt", b"wrong"), ("a.json", member)])
    _prepare(tmp_path, caption_column="alt")
    assert [r.captions for r in records(tmp_path / "out", "train")] == [("right",)]


def test_whatever_is_wrong_with_a_sample_is_listed(tmp_path):
    members = [
        ("a.jpg", jpeg(0)), ("a.txt", b"good"),
        ("b.txt", b"no picture"),
        ("c.jpg", jpeg(1)),
        ("d.jpg", jpeg(2)), ("d.json", b"{not json"),
        ("e.jpg", jpeg(3)), ("e.json", b'{"caption": 7}'),
        ("f.jpg", jpeg(4)), ("f.txt", b"caf\xe9"),
        ("g.jpg", jpeg(5)), ("g.txt", b" \n"),
        ("h.jpg", jpeg(6)), ("h.txt", b"x" * (2**20 + 1)),
        ("../i.jpg", jpeg(7)), ("../i.txt", b"outside"),
        ("/j.jpg", jpeg(8)), ("/j.txt", b"absolute"),
        ("k.jpg", jpeg(9)[:300]), ("k.txt", b"cut"),
        ("l.jpg", jpeg(10)), ("l.json", b'{"captions": ["fine", null, "fine"]}'),
        ("m.jpg", b""), ("m.txt", b"empty"),
    ]  # fmt: skip
    _tars(tmp_path, x=members)
    facts = _prepare(tmp_path)
    assert ids(tmp_path / "out") == {"train": ["x/a", "x/l"]}
    assert reasons(tmp_path / "out") == [
        ("no_picture", "x/b"),
        ("no_caption", "x/c"),
        ("no_caption", "x/d"),
        ("no_caption", "x/e"),
        ("caption_not_utf8", "x/f"),
        ("caption_empty", "x/g"),
        ("caption_too_long", "x/h"),
        ("picture_name_unsafe", "x/../i"),
        ("picture_name_unsafe", "x//j"),
        ("picture_unreadable", "x/k"),
        ("caption_no_text", "x/l"),
        ("caption_duplicate", "x/l"),
        ("picture_unreadable", "x/m"),
    ]
    assert sum(facts["drops"].values()) == 13


def test_of_two_pictures_under_a_key_none_is_chosen(tmp_path):
    both = [("a.jpg", jpeg(0)), ("a.txt", b"which?"), ("a.png", jpeg(1))]
    _tars(tmp_path, x=[*both, ("b.jpg", jpeg(2)), ("b.txt", b"this one")])
    _prepare(tmp_path)
    assert ids(tmp_path / "out") == {"train": ["x/b"]}
    assert reasons(tmp_path / "out") == [("picture_name_ambiguous", "x/a")]


def test_names_that_are_not_utf8_cost_their_samples(tmp_path):
    odd = os.fsdecode(b"caf\xe9")
    members = [("a.jpg", jpeg(0)), ("a.txt", b"x"), (f"{odd}.jpg", jpeg(1)), (f"{odd}.txt", b"y")]
    _tars(tmp_path, x=[*members, ("b.jpg", jpeg(2)), ("b.txt", b"z")])
    _prepare(tmp_path)
    assert ids(tmp_path / "out") == {"train": ["x/a", "x/b"]}
    assert reasons(tmp_path / "out") == [("image_name_not_utf8", r"x/caf\udce9")]


def test_what_macos_packs_beside_the_files_is_passed_over(tmp_path):
    beside = b"\0\5\x16\7" + bytes(100)
    members = [
        ("./._a.jpg", beside), ("./a.jpg", jpeg(0)), ("./._a.txt", beside), ("./a.txt", b"x"),
        ("b.jpg", jpeg(1)), ("__MACOSX/b.jpg", beside), ("b.txt", b"y"),
    ]  # fmt: skip
    _tars(tmp_path, x=members)
    assert _prepare(tmp_path)["drops"] == {}
    assert ids(tmp_path / "out") == {"train": ["x/./a", "x/b"]}


def test_a_second_tar_behind_the_first_is_listed(tmp_path):
    _tars(tmp_path, x=[("a.jpg", jpeg(0)), ("a.txt", b"x")], y=[("b.jpg", jpeg(1))])
    second = tmp_path / "in" / "y.tar"
    with (tmp_path / "in" / "x.tar").open("ab") as file:
        file.write(second.read_bytes())
    second.unlink()
    _prepare(tmp_path)
    assert ids(tmp_path / "out") == {"train": ["x/a"]}
    (line,) = rejects(tmp_path / "out")
    assert (line["reason"], line["id"]) == ("file_unreadable", "x.tar")
    assert line["error"].startswith("bytes after the end mark at byte ")


def test_broken_tars_and_links_cost_themselves_only(tmp_path):
    good = [("a.jpg", jpeg(0)), ("a.txt", b"good")]
    _tars(tmp_path, a=good, b=good, c=[*good, ("b.jpg", jpeg(1)), ("b.txt", b"cut")])
    source = tmp_path / "in"
    cut = (source / "c.tar").read_bytes()
    (source / "c.tar").write_bytes(cut[: 5 * 512 + 100])
    (source / "d.tar").write_bytes(b"")
    (source / "e.tar").write_bytes(b"PK\3\4" + bytes(2000))
    whole = (source / "a.tar").read_bytes()
    (source / "f.tar").write_bytes(whole[:3072] + b"garbage" * 200)
    (tmp_path / "secret.tar").write_bytes(whole)
    (source / "g.tar").symlink_to(tmp_path / "secret.tar")
    (source / "h.tar").symlink_to(source / "nowhere.tar")
    os.mkfifo(source / "j.tar")
    (source / "k.tar").symlink_to(source / "k.tar")
    (source / "i.tar").symlink_to(source / "b.tar")
    (source / ".hidden.tar").write_bytes(whole)
    _prepare(tmp_path)
    kept = ids(tmp_path / "out")["train"]
    assert [name for name in kept if name != "c/a"] == ["a/a", "b/a", "f/a", "i/a"]
    assert reasons(tmp_path / "out")[:4] == [
        ("file_outside_folder", "g.tar"),
        ("file_not_regular", "h.tar"),
        ("file_not_regular", "j.tar"),
        ("file_not_regular", "k.tar"),
    ]
    broken = {r["id"] for r in rejects(tmp_path / "out") if r["reason"] == "file_unreadable"}
    assert broken == {"c.tar", "d.tar", "e.tar", "f.tar"}


def test_names_say_the_split_and_what_is_evaluated_wins(tmp_path):
    def one(seed: int) -> list[tuple[str, bytes]]:
        return [("a.jpg", jpeg(seed)), ("a.txt", b"x")]

    _tars(tmp_path)
    for name, seed in [("train-0", 0), ("train-1", 1), ("val-0", 1), ("test-0", 2)]:
        write_tar(tmp_path / "in" / f"{name}.tar", one(seed))
    _prepare(tmp_path)
    assert ids(tmp_path / "out") == {
        "test": ["test-0/a"],
        "train": ["train-0/a"],
        "val": ["val-0/a"],
    }
    assert reasons(tmp_path / "out") == [("picture_also_in_another_split", "train-1/a")]


def test_one_tar_alone_and_no_tar_at_all(tmp_path):
    _tars(tmp_path, x=[("a.jpg", jpeg(0)), ("a.txt", b"x")])
    _prepare(tmp_path, source=tmp_path / "in" / "x.tar")
    assert ids(tmp_path / "out") == {"train": ["x/a"]}
    for source, words in [
        (tmp_path / "nowhere", "--source=.*nowhere does not exist"),
        (tmp_path / "out", r"has no file \.tar: give the folder that holds them"),
    ]:
        with pytest.raises(UserError, match=words):
            prepare_webdataset(tmp_path / "other", WebdatasetOptions(source=source))


def _header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A member's header with any size: below zero too, as base-256 numbers can be."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    ("size", "kind"),
    [(-512, tarfile.REGTYPE), (-1024, tarfile.REGTYPE), (2**40, tarfile.REGTYPE),
     (2**40, tarfile.XHDTYPE), (2**40, tarfile.GNUTYPE_LONGNAME), (2**25, tarfile.XHDTYPE)],
)  # fmt: skip
def test_headers_that_lie_are_the_end_of_their_tar(tmp_path, size, kind):
    good = write_tar(tmp_path / "g.tar", [("a.jpg", b"A"), ("a.txt", b"x")]).read_bytes()
    path = tmp_path / "t.tar"
    with path.open("wb") as file:
        file.write(good[:2048] + _header("b.jpg", size, kind))
        file.truncate(2**26)  # a file with holes
    found = list(tar_samples(path, "t.tar"))
    assert isinstance(found[0], TarSample)
    assert found[0].key == "a"
    assert [row.reason for row in found[1:] if isinstance(row, BadRow)] == ["file_unreadable"]
    with contextlib.suppress(UserError), Images(path) as images:
        assert images.read(images.locate("a.jpg")) == b"A"


member = st.tuples(
    st.text("ab./", min_size=1, max_size=6),
    st.sampled_from([".jpg", ".txt", ".json", ".cls", ""]),
    st.binary(max_size=30),
)


@many
@given(st.lists(member, max_size=8), st.data())
def test_a_tar_gives_its_members_back_and_a_damaged_one_never_falls_over(tmp_path, members, data):
    path = write_tar(tmp_path / "t.tar", [(name + end, body) for name, end, body in members])
    with tarfile.open(path) as tar:
        stored = [(m.name, tar.extractfile(m).read()) for m in tar if m.isreg()]
    found = [sample for sample in tar_samples(path, "t.tar") if isinstance(sample, TarSample)]
    texts = [text for sample in found for text in sample.texts.values()]
    kept = [body for name, body in stored if name.lower().endswith((".txt", ".json"))]
    assert set(texts) <= set(kept)
    assert all(s.picture is None or len(s.picture.read()) == s.picture.size for s in found)
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    for sample in tar_samples(path, "t.tar"):
        assert isinstance(sample, TarSample | BadRow)


def test_names_with_dots_are_read_to_the_last_one(tmp_path):
    members = [
        ("IMG.2021.1.jpg", jpeg(0)), ("IMG.2021.1.txt", b"first"),
        ("IMG.2021.2.txt", b"second"), ("IMG.2021.2.jpg", jpeg(1)),
        ("IMG.2021.3.jpg", jpeg(2)), ("z.jpg", jpeg(3)), ("z.txt", b"last"),
        ("z.seg.png", b"no picture of the sample"),
    ]  # fmt: skip
    _tars(tmp_path, x=members)
    facts = _prepare(tmp_path)
    found = [(r.id, r.captions) for r in records(tmp_path / "out", "train")]
    assert found == [
        ("x/IMG.2021.1", ("first",)),
        ("x/IMG.2021.2", ("second",)),
        ("x/z", ("last",)),
    ]
    assert facts["drops"] == {"no_caption": 1}
