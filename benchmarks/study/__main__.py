# SPDX-License-Identifier: Apache-2.0
"""Studies: arms trained with several seeds, evaluated, and compared seed by seed.

    python -m benchmarks.study --suite=noise --seeds=3

Run it in a clone of the repository. Data and tokenizers are made first; each run is a process on a
core of its own, `--jobs` at a time. What is there already is not made again, so a study that was
stopped goes on. Tables go to standard output, everything to OUT/SUITE/study.json and index.html.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

from benchmarks.study.circumstances import circumstances
from benchmarks.study.copies import fold_copy
from benchmarks.study.earlier import earlier_runs
from benchmarks.study.equal_time import with_equal_time
from benchmarks.study.findings import find
from benchmarks.study.noise import noisy_copy
from benchmarks.study.page import write_page
from benchmarks.study.runs import all_runs, before, carry_out, one_at_a_time
from benchmarks.study.suites import SUITES
from benchmarks.study.words import in_words
from cots_jax.errors import UserError, nearest
from cots_jax.files import write_whole


def main() -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__)
    add = parser.add_argument
    add("--suite", required=True, choices=sorted(SUITES))
    add("--seeds", type=int, default=3, help="how many (default 3)")
    add("--first_seed", type=int, default=0, help="number of the first (default 0)")
    add("--arms", default="", help="these only, by name, with commas between")
    add("--data", default="", help="FOLDER#SPLIT,… to evaluate on, in the place of the config's")
    add("--jobs", type=int, default=2, help="runs at a time, a core each (default 2)")
    add("--out", type=Path, default=Path("runs/study"))
    add("--earlier", default="", help="study.json,… of which runs are taken rather than made again")
    add("--quick", action="store_true", help="runs of seconds: whether it works")
    options = parser.parse_args()
    suite = SUITES[options.suite].quick() if options.quick else SUITES[options.suite]
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    arms = {arm.name: arm for arm in suite.arms}
    wanted = options.arms.split(",") if options.arms else list(arms)
    for name in wanted:
        if name not in arms:
            parser.error(f"no arm {name!r} in suite {options.suite}; {nearest(name, arms, 'arms')}")
    if options.seeds < 1 or options.jobs < 1:
        parser.error("--seeds and --jobs start at 1")
    try:
        with one_at_a_time():
            before(suite.first)
            for noise in suite.noise:
                noisy_copy(noise)
            for fold in suite.folds:
                fold_copy(fold)
            suite = with_equal_time(suite, options.out, wanted)
        runs = [run for run in all_runs(suite, seeds, options.out) if run.arm.name in wanted]
        data = options.data or suite.data
        earlier = earlier_runs(list(filter(None, options.earlier.split(","))), runs, data)
        runs = [run for run in runs if (run.arm.name, run.seed) not in earlier]
        carry_out(runs, options.jobs, data)
        found = find(suite, runs, earlier)
    except UserError as error:
        print(f"study: {error}", file=sys.stderr)
        return 1
    facts = {
        "suite": suite.name,
        "title": suite.title,
        "command": shlex.join(["python", "-m", "benchmarks.study", *sys.argv[1:]]),
        **circumstances(),
    }
    folder = options.out / suite.name
    content = {**facts, **found.to_json()}
    write_whole(folder / "study.json", json.dumps(content, indent=1) + "\n")
    write_page(folder / "index.html", suite, facts, found, runs)
    print(in_words(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
