# SPDX-License-Identifier: Apache-2.0
"""The contrastive temperature: a number of the config (R), or a learned and clamped one (O).

Learned, its logarithm is a parameter, so that it stays above 0, and it is put back into its range
after every update: a clamp inside of the loss would leave it without a gradient once outside.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cots_jax.models.two_stream import Params
from cots_jax.schema import MethodConfig
from cots_jax.switches import TemperatureRule

Temperature = float | Float[Array, ""]
NAME = "log_temperature"  # beside the heads: towers are what retrieval needs, and no more


def fresh_temperature(method: MethodConfig) -> Params:
    """What a learned temperature adds to the parameters of the heads; nothing for a fixed one."""
    if method.temperature_rule is TemperatureRule.FIXED:
        return {}
    return {NAME: jnp.asarray(math.log(method.temperature), jnp.float32)}


def temperature_of(heads: Params, method: MethodConfig) -> Temperature:
    """The temperature in force."""
    return jnp.exp(heads[NAME]) if NAME in heads else method.temperature


def clamped(params: Params, method: MethodConfig) -> Params:
    """All parameters, a learned temperature put back into `temperature_range`."""
    heads = params["heads"]
    if NAME not in heads:
        return params
    low, high = (math.log(limit) for limit in method.temperature_range)
    return {**params, "heads": {**heads, NAME: jnp.clip(heads[NAME], low, high)}}


def held(temperature: Temperature) -> Temperature:
    """Without a gradient: a KL between two rows could be had for nothing by warming both."""
    if isinstance(temperature, float | int):
        return temperature
    return jax.lax.stop_gradient(temperature)
