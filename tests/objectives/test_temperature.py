# SPDX-License-Identifier: Apache-2.0
"""A learned temperature starts where the config says and stays in its range."""

import math

import jax.numpy as jnp
import pytest

from cots_jax.objectives.temperature import NAME, clamped, fresh_temperature, held, temperature_of
from cots_jax.schema import MethodConfig
from cots_jax.switches import TemperatureRule

LEARNED = MethodConfig(
    temperature=0.07, temperature_rule=TemperatureRule.LEARNED, temperature_range=(0.05, 0.2)
)


def test_a_fixed_one_is_a_number_and_no_parameter():
    assert fresh_temperature(MethodConfig(temperature=0.07)) == {}
    assert temperature_of({}, MethodConfig(temperature=0.07)) == 0.07
    assert held(0.07) == 0.07


def test_a_learned_one_starts_at_the_given_value():
    heads = fresh_temperature(LEARNED)
    assert set(heads) == {NAME}
    assert float(temperature_of(heads, LEARNED)) == pytest.approx(0.07, rel=1e-6)


@pytest.mark.parametrize(("value", "kept"), [(0.01, 0.05), (0.1, 0.1), (3.0, 0.2)])
def test_an_update_beyond_the_range_is_put_back(value, kept):
    heads = {"mlm": {"bias": jnp.ones(2)}, "log_temperature": jnp.log(value)}
    found = clamped({"towers": {}, "heads": heads}, LEARNED)["heads"]
    assert math.exp(found["log_temperature"]) == pytest.approx(kept, rel=1e-6)
    assert found["mlm"] is heads["mlm"]
