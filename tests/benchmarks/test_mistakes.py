# SPDX-License-Identifier: Apache-2.0
"""What first answers get wrong, on names that are taken apart by hand."""

import numpy as np
import pytest

from benchmarks.study.mistakes import Composed, kinds_of, main, names_of
from cots_jax.errors import UserError

NAMES = {
    0: "waving hand dark skin tone",
    1: "waving hand medium-dark skin tone",
    2: "thumbs up dark skin tone",
    3: "thumbs up light skin tone",
}


@pytest.mark.parametrize(
    ("name", "sign", "tones"),
    [
        ("waving hand medium-dark skin tone", "waving hand", ("medium-dark",)),
        ("man light skin tone red hair", "man red hair", ("light",)),
        (
            "kiss man man dark skin tone medium skin tone",
            "kiss man man",
            ("dark", "medium"),
        ),
        ("light bulb", "light bulb", ()),
    ],
)
def test_a_name_is_a_sign_and_its_tones(name: str, sign: str, tones: tuple[str, ...]) -> None:
    assert Composed.read(name) == Composed(sign, tones)


def test_mistakes_are_told_apart_and_right_answers_are_none() -> None:
    # Query k prefers candidate answer[k]; its own comes second.
    answer = [1, 1, 0, 0]  # tone, right, sign, both
    queries = np.eye(4, dtype=np.float32)[answer] + 0.5 * np.eye(4, dtype=np.float32)
    groups = np.arange(4)
    found = kinds_of(queries, np.eye(4, dtype=np.float32), groups, groups, NAMES)
    assert found == {"tone": 1, "sign": 1, "both": 1}


def test_a_set_of_other_names_is_refused_with_one_that_would_do() -> None:
    assert names_of(list(NAMES), list(NAMES.values()), "x") == NAMES
    with pytest.raises(UserError, match=r"1 of the 2 names of x have .*'light bulb'.*#"):
        names_of([0, 1], [NAMES[0], "light bulb"], "x")


def test_a_folder_that_is_none_is_said_in_one_line(
    tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"--data={tmp_path}#x", f"{tmp_path}/none"]) == 1
    assert capsys.readouterr().err.startswith("mistakes: ")
