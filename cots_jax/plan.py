# SPDX-License-Identifier: Apache-2.0
"""Plans a run without its hardware: `python -m cots_jax.plan --config=configs/pretrain.py:v5e-256`.

The real step is compiled ahead of time; what it takes is read from the compiled program.
"""

import json
import sys
from collections.abc import Sequence

from cots_jax.compilation_cache import use_compilation_cache
from cots_jax.errors import UserError
from cots_jax.planning import report
from cots_jax.planning.flags import PlanFlags, parse_flags
from cots_jax.planning.planner import check_config, plan_step
from cots_jax.planning.sweep import sweep
from cots_jax.planning.targets import target_of


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 done, fits or not; 1 failed with one line of reason, 2 wrong use."""
    try:
        flags = parse_flags(argv)
        use_compilation_cache()
        print(_sweep(flags) if flags.batches else _plan(flags))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    return 0


def _plan(flags: PlanFlags) -> str:
    check_config(flags.config)  # before any device is asked for
    plan = plan_step(flags.config, target_of(flags.config.hardware, flags.attainable))
    if flags.as_json:
        return json.dumps(report.as_json(plan, flags.budget), indent=1)
    return report.in_words(plan, flags.budget)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _sweep(flags: PlanFlags) -> str:
    tried = sweep(
        flags.config,
        flags.batches,
        lambda config: target_of(config.hardware, flags.attainable),
        lambda one: _say(report.tried_in_words(one)),
        _say,
    )
    if flags.as_json:
        return json.dumps(report.sweep_as_json(tried, flags.budget), indent=1)
    return report.sweep_in_words(tried)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
