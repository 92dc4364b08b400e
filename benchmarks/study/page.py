# SPDX-License-Identifier: Apache-2.0
"""A study as one HTML page: tables, curves, and a link from each figure to the run behind it."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from benchmarks.study.arms import Suite
from benchmarks.study.findings import FIGURES, ContrastRow, Findings, RunRow
from benchmarks.study.runs import Run
from benchmarks.study.words import in_short
from cots_jax.files import write_whole
from cots_jax.retrieval.curves import Curve, Series, draw
from cots_jax.retrieval.metrics_log import read_metrics

MOST_CURVES = 8  # lines that a chart can tell apart


def write_page(
    path: Path, suite: Suite, facts: Mapping[str, Any], found: Findings, runs: Sequence[Run]
) -> None:
    """Writes the page beside the folders of its runs, which it links to."""
    style = (resources.files("cots_jax.retrieval") / "page" / "report.css").read_text("utf-8")
    sections = {
        "Differences at equal seeds": _differences(found.contrasts),
        "Recall": _recall(found, suite),
        "Longer and longer": _ladders(found),
        "Settings that were tried": _settings(found),
        "The filter over time": _filters(found),
        "Curves": _curves(runs),
        "Runs": _runs(runs, found),
    }
    body = "\n".join(
        f"<section><h2>{escape(name)}</h2>\n{content}\n</section>"
        for name, content in sections.items()
        if content
    )
    shown = "".join(
        f'<div class="{"wide" if name == "command" else ""}"><dt>{escape(name)}</dt>'
        f"<dd>{escape(str(value))}</dd></div>"
        for name, value in facts.items()
    )
    write_whole(
        path,
        f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(suite.title)}</title>
<style>
{style}
.scroll {{ overflow-x: auto; }}
.scroll th {{ white-space: nowrap; }}
.charts + .scroll {{ margin-top: 16px; }}
.words {{ font-size: 14px; }}
.words td, .words th {{ padding: 5px 9px; text-align: left !important; white-space: nowrap; }}
.words td:last-child {{ white-space: normal; }}
.made {{ color: var(--quiet); font-size: 14px; }}
.runs code {{ margin: 0 0 12px; white-space: pre-wrap; overflow-wrap: anywhere; }}
.runs p {{ margin: 10px 0 4px; }}
figcaption {{ overflow-wrap: anywhere; }}
.results td:nth-child(2) {{ font-weight: 400; }}</style></head>
<body><header><h1>{escape(suite.title)}</h1><dl class="facts">{shown}</dl></header>
<main>{body}</main></body></html>
""",
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], style: str = "results") -> str:
    heads = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f"<td>{cell}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f'<table class="{style}"><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>'


def _in_words(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells are mostly words, which may be wider than the page."""
    return f'<div class="scroll">{_table(head, rows, "words")}</div>'


def _linked(arm: str, about: str = "") -> str:
    """An arm's name, which leads to its runs."""
    title = f' title="{escape(about)}"' if about else ""
    return f'<a href="#runs-of-{escape(arm)}"{title}>{escape(arm)}</a>'


def _recall(found: Findings, suite: Suite) -> str:
    head = ("arm", "R@1 image → text", "R@1 text → image", "rsum", "seeds")
    parts = []
    for name in dict.fromkeys(row.set for row in found.arms):
        rows = [
            [
                _linked(row.arm, suite.arm(row.arm).about),
                *(str(row.figures[key]) for key in FIGURES),
                str(row.figures["rsum"].seeds),
            ]
            for row in found.arms
            if row.set == name
        ]
        parts.append(f"<h3>{escape(name)}</h3>{_table(head, rows)}")
    note = '<p class="note">Mean ± standard deviation over seeds, in percent.</p>'
    return note + "\n".join(parts)


def _differences(contrasts: Sequence[ContrastRow]) -> str:
    rows = []
    for contrast in contrasts:
        d = contrast.difference
        each = ", ".join(f"{value:+.1f}" for value in d.each)
        what = f"{_linked(contrast.first)} − {_linked(contrast.second)}"
        rows.append([what, escape(contrast.set), f"{d.mean:+.1f}", d.interval, d.verdict, each])
    note = '<p class="note">In rsum; 95 % t-interval of the mean of the paired differences.</p>'
    head = ("arms", "set", "mean", "95 % interval", "verdict", "each seed")
    return note + _in_words(head, rows) if rows else ""


def _ladders(found: Findings) -> str:
    """Mean rsum of each method against its number of steps, and on each reported set."""
    if not found.plateaus:
        return ""
    looked_at = [
        Series(
            plateau.method,
            [rung.steps for rung in plateau.rungs],
            [rung.looked_at.mean for rung in plateau.rungs],
        )
        for plateau in found.plateaus
    ]
    charts = [draw(Curve("Sets looked at in training: mean rsum by steps", looked_at))]
    for name in dict.fromkeys(row.set for row in found.arms):
        means = {row.arm: row.figures["rsum"].mean for row in found.arms if row.set == name}
        lines = [
            Series(
                plateau.method,
                [rung.steps for rung in plateau.rungs],
                [means[rung.arm] for rung in plateau.rungs],
            )
            for plateau in found.plateaus
        ]
        charts.append(draw(Curve(f"{name}: rsum by steps", lines)))
    rows = [
        [
            escape(plateau.method),
            _linked(rung.arm),
            f"{rung.steps:,.0f}",
            str(rung.looked_at),
            str(rung.looked_at.seeds),
            "" if rung.arm != plateau.best else "best" if plateau.reached else "best, the longest",
        ]
        for plateau in found.plateaus
        for rung in plateau.rungs
    ]
    table = _in_words(("method", "arm", "steps", "rsum looked at", "seeds", ""), rows)
    return f'<div class="charts">{"".join(charts)}</div>{table}'


def _settings(found: Findings) -> str:
    rows = [
        [escape(one.group), _linked(one.arm), str(one.rsum), escape(in_short(one.keys))]
        for one in found.settings
    ]
    head = ("tried for", "arm", "rsum, mean of the sets", "keys")
    return _in_words(head, rows) if rows else ""


def _filters(found: Findings) -> str:
    charts = []
    for quality in found.filters:
        steps = [window.step for window in quality.windows]
        lines = [
            Series("precision", steps, [100 * window.precision for window in quality.windows]),
            Series("recall", steps, [100 * window.recall for window in quality.windows]),
            Series("right pairs dropped", steps, [100 * w.clean_dropped for w in quality.windows]),
        ]
        parts = "; ".join(
            f"{name} captions ({part.share:.0%} of the wrong pairs) {part.precision:.0%} and "
            f"{part.recall:.0%}"
            for name, part in quality.rarity.items()
        )
        note = "Precision and recall in the last quarter, where a caption's rarest word stands in "
        note += f"{parts}."
        charts.append(draw(Curve(quality.run, lines, unit="%", note=note)))
    return f'<div class="charts">{"".join(charts)}</div>' if charts else ""


def _curves(runs: Sequence[Run]) -> str:
    """Recall while they trained, of the first seed."""
    done = [run for run in runs if run.done]
    first = [run for run in done if run.seed == done[0].seed][:MOST_CURVES]
    logs = {run.arm.name: read_metrics(run.folder / "metrics.jsonl") for run in first}
    keys = dict.fromkeys(
        key for log in logs.values() for row in log.rows for key in row if key.endswith("/r1")
    )
    charts = [
        draw(Curve(_named(key), [log.series(key, name) for name, log in logs.items()], unit="%"))
        for key in keys
    ]
    return f'<div class="charts">{"".join(charts)}</div>' if charts else ""


def _named(key: str) -> str:
    """`recall/SET/image_to_text/r1` -> `SET: image to text, R@1`."""
    _, name, way, figure = key.split("/")
    return f"{name}: {way.replace('_', ' ')}, {figure.replace('r', 'R@')}"


def _runs(runs: Sequence[Run], found: Findings) -> str:
    """By arm: what made each run, where its files are, and its command."""
    here = {run.folder.name: run for run in runs}
    done = {row.run: row for row in found.runs}
    of_arms: dict[str, list[str]] = {}
    for name in dict.fromkeys((*done, *here)):
        arm = here[name].arm.name if name in here else name.rpartition("-seed")[0]
        of_arms.setdefault(arm, []).append(_run(name, here.get(name), done.get(name)))
    parts = (
        f'<h3 id="runs-of-{escape(arm)}">{escape(arm)}</h3>{"".join(blocks)}'
        for arm, blocks in of_arms.items()
    )
    return f'<div class="runs">{"".join(parts)}</div>'


def _run(name: str, here: Run | None, done: RunRow | None) -> str:
    said = [f"<b>{escape(name)}</b>"]
    if here is None:
        said.append("of an earlier study")
    elif not here.done:
        said.append("not there yet")
    else:
        said += [f'<a href="{name}/{file}">{file}</a>' for file in ("report.html", "results.json")]
    made = done.made if done else {}
    known = [f"commit {made['commit']}"] if "commit" in made else []
    known += [f"{made['seconds']:,.0f} s"] if "seconds" in made else []
    known += [str(made["machine"])] if "machine" in made else []
    said += [f'<span class="made">{escape(" · ".join(known))}</span>'] if known else []
    command = done.command if done else here.command if here else ""
    return f"<p>{' · '.join(said)}</p><code>{escape(command)}</code>"
