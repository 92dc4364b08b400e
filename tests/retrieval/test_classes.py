# SPDX-License-Identifier: Apache-2.0
"""Files of classes and of prompts: what is taken, and every way in which they are refused."""

import hashlib
import pathlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cots_jax.errors import UserError
from cots_jax.retrieval.classes import Prompts, label_numbers, read_classes, read_prompts


def _file(folder: pathlib.Path, content: str | bytes) -> pathlib.Path:
    path = folder / "list.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_classes_with_and_without_words(tmp_path):
    text = "\ufeffcat\r\nn01\ttench,  Tinca tinca\n\n golden  retriever \ncrane, bird\n"
    found = read_classes(_file(tmp_path, text))
    assert found.labels == ("cat", "n01", "golden retriever", "crane, bird")
    assert found.words == (
        ("cat",), ("tench", "Tinca tinca"), ("golden retriever",), ("crane, bird",),
    )  # fmt: skip
    assert found.sha256 == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has 0 classes"),
        (" \n\n", "has 0 classes"),
        ("cat\n", "has 1 classes"),
        ("cat\ndog\ncat\n", "'cat' twice, again in line 3"),
        ("a_b\na  b\na b\n", "'a b' twice, again in line 3"),
        ("cat\n\tdog\n", "line 2 is .*one tab"),
        ("cat\ndog\ta\tb\n", "line 2 is .*one tab"),
        ("cat\ndog\t\n", "line 2 is .*one tab"),
        ("cat\ndog\ta,,b\n", "line 2 is .*one tab"),
        (b"cat\ncaf\xe9\n", r"is not UTF-8 \(byte 7\)"),
    ],
)
def test_classes_that_are_refused(tmp_path, content, said):
    with pytest.raises(UserError, match=said):
        read_classes(_file(tmp_path, content))


def test_prompts(tmp_path):
    found = read_prompts(_file(tmp_path, "a photo of a {}.\n\n{} or {}\n"))
    assert found.of(("cat", "tom")) == [
        "a photo of a cat.", "a photo of a tom.", "cat or cat", "tom or tom",
    ]  # fmt: skip
    assert Prompts().of(("cat",)) == ["cat"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("a photo\n", r"line 1 is 'a photo': put \{\}"),
        ("{}\n{ }\n", "line 2"),
        ("{}\n {}\n", "twice, again in line 2"),
        (b"\xff{}\n", "is not UTF-8"),
    ],
)
def test_prompts_that_are_refused(tmp_path, content, said):
    with pytest.raises(UserError, match=said):
        read_prompts(_file(tmp_path, content))


def test_missing_files_are_named(tmp_path):
    for read, flag in ((read_classes, "--classes"), (read_prompts, "--prompts")):
        with pytest.raises(UserError, match=f"{flag}=.*none.txt cannot be read: No such file"):
            read(tmp_path / "none.txt")
        with pytest.raises(UserError, match="Is a directory"):
            read(tmp_path)


def test_labels_that_are_no_class_are_named_and_counted():
    assert label_numbers(["b", "a", "b"], ["a", "b"], "d#val", "x").tolist() == [1, 0, 1]
    said = ["a", *"bbb", *"cc", *"defgh"]
    with pytest.raises(UserError, match=r"10 of 11 pictures of d#val .*'b' \(3\), 'c' \(2\)") as e:
        label_numbers(said, ["a", "z"], "d#val", "mend it")
    assert str(e.value).endswith("and 2 more; mend it")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.binary(max_size=60) | st.text("ab,\t\n\r {}\u2028", max_size=40).map(str.encode))
def test_any_file_gives_classes_or_one_sentence(tmp_path, content):
    path = _file(tmp_path, content)
    try:
        found = read_classes(path)
        assert len(set(found.labels)) == len(found.labels) == len(found.words) >= 2
        assert all(words and all(words) for words in found.words)
    except UserError as error:
        assert "\n" not in str(error)
    try:
        assert all("{}" in template for template in read_prompts(path).templates)
    except UserError as error:
        assert "\n" not in str(error)
