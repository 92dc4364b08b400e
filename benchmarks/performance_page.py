# SPDX-License-Identifier: Apache-2.0
"""Puts the figures of benchmark records into docs/performance.md.

    python -m benchmarks.performance_page FOLDER [--page=FILE.md]

FOLDER holds what `--out=FOLDER/NAME.json` has written. Of each section of the page, what stands
between `<!-- figures: NAME -->` and `<!-- end -->` is replaced by the plot and the tables of
NAME.json, with command, date, commit, machine and versions. Record and plot are copied into a
folder beside the page, which has the page's name, so that each figure has all its times one click
away. A section without a record stays as it is. Records of quick looks are refused.
"""

import argparse
import json
import re
import sys
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import PROJECT, Table
from cots_jax.errors import UserError
from cots_jax.files import write_whole

PAGE = PROJECT / "docs" / "performance.md"
SECTION = re.compile(r"<!-- figures: (\w+) -->\n.*?<!-- end -->\n", re.DOTALL)


def read_record(file: Path) -> dict[str, Any]:
    """A benchmark's record. Raises UserError."""
    try:
        record = json.loads(file.read_text("utf-8"))
        if record["quick"]:
            raise UserError(f"{file} is of a quick look: measure without --quick")
        return record
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} is no record of a benchmark ({error!r}): measure anew") from error


def figures(record: Mapping[str, Any], stem: str, plotted: bool) -> str:
    """The tables of a record and where they were taken, in Markdown.

    stem: of the files of the record and of its plot, as the page links to them.
    """
    tables = [Table(t["title"], tuple(t["columns"]), t["rows"]) for t in record["tables"]]
    machine = record["machine"]
    where = machine["device"]
    if where != machine["processor"]:
        where += f" beside an {machine['processor']}"
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    taken = (
        f"Taken on {record['date'][:10]} at commit {record['commit'][:12]}, {where}, "
        f"{machine['cores']} cores, {machine['memory_gib']} GiB, a load of {machine['load'][0]} "
        f"before it began, by `{record['command']}` ([all times]({stem}.json)): {versions}."
    )
    plot = [f"![{record['benchmark']}: {tables[0].title}]({stem}.svg)"] if plotted else []
    return "\n\n".join([taken, *plot, *(table.markdown() for table in tables)])


def filled(
    page: str, records: Mapping[str, Mapping[str, Any]], folder: str, plotted: Container[str]
) -> str:
    """The page with the figures of these records in their sections. Raises UserError.

    folder: of records and plots, as the page links to it. plotted: the records that have a plot.
    """
    known = SECTION.findall(page)
    for name in records:
        if name not in known:
            raise UserError(f"the page has no section for {name}: it has {', '.join(known)}")

    def section(found: re.Match[str]) -> str:
        name = found[1]
        if name not in records:
            return found[0]
        made = figures(records[name], f"{folder}/{name}", name in plotted)
        return f"<!-- figures: {name} -->\n\n{made}\n\n<!-- end -->\n"

    return SECTION.sub(section, page)


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 done, 1 failed with one line of reason, 2 wrong use."""
    parser = argparse.ArgumentParser("python -m benchmarks.performance_page", description=__doc__)
    parser.add_argument("folder", type=Path, help="of records, NAME.json")
    parser.add_argument("--page", type=Path, default=PAGE)
    flags = parser.parse_args(argv)
    try:
        records = {file.stem: read_record(file) for file in sorted(flags.folder.glob("*.json"))}
        if not records:
            raise UserError(f"there is no record in {flags.folder}: make them by --out=NAME.json")
        beside = flags.page.with_suffix("")
        plots = {name: flags.folder / f"{name}.svg" for name in records}
        plots = {name: file.read_text("utf-8") for name, file in plots.items() if file.exists()}
        page = filled(flags.page.read_text("utf-8"), records, beside.name, plots)
        for name, record in records.items():
            write_whole(beside / f"{name}.json", json.dumps(record, indent=1) + "\n")
        for name, plot in plots.items():
            write_whole(beside / f"{name}.svg", plot)
        write_whole(flags.page, page)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{flags.page}: {', '.join(records)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
