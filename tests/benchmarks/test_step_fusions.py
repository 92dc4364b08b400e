# SPDX-License-Identifier: Apache-2.0
"""Gradients do not hang on which sums XLA hands to a library."""

import pytest

from benchmarks.step import fusions


def test_a_size_that_there_is_not_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert fusions.main(["enormous"]) == 2
    assert "size is one of demo, b16-224, b16-384, not 'enormous'" in capsys.readouterr().err


def test_a_process_that_fails_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_no_such_flag=1")
    assert fusions.main(["demo"]) == 1
    assert "error: a step with XLA_FLAGS='--xla_no_such_flag=1' failed" in capsys.readouterr().err


@pytest.mark.slow
def test_the_demos_gradients_are_those_without_the_librarys_sums() -> None:
    apart = fusions.differences("demo")
    assert len(apart) > 40
    assert max(apart.values()) < 1e-5
