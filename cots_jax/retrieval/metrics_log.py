# SPDX-License-Identifier: Apache-2.0
"""The curves of a training run from its metrics.jsonl, one object a logged step."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cots_jax.errors import UserError
from cots_jax.retrieval.curves import Curve, Series

_SMOOTHED_SHARE = 50  # the bold line averages this fraction of the points (own choice)
_WAYS = {"image_to_text": "image → text", "text_to_image": "text → image"}
_LEVELS = {
    "instance": "instance (contrastive)",
    "mvm": "masked vision modelling",
    "mlm": "masked language modelling",
    "task": "task (KL alignment)",
}
_LOSS_NOTES = {
    "instance": "Cross-entropy over the queue, both directions.",
    "mvm": "Cross-entropy on the codes of masked patches.",
    "mlm": "Cross-entropy on the masked tokens.",
    "task": "KL between the two directions' rows; 0 means that they agree.",
}


@dataclass(frozen=True)
class MetricsLog:
    """The readable rows of a metrics file, in step order, each step once (the last one wins)."""

    rows: Sequence[dict]

    def series(self, key: str, name: str, scale: float = 1.0) -> Series:
        """All numbers under a key; empty where it was never logged."""
        found = [(row["step"], row[key]) for row in self.rows if _is_number(row.get(key))]
        return Series(name, [step for step, _ in found], [scale * value for _, value in found])

    def names(self, prefix: str) -> list[str]:
        """What stands behind a prefix such as `kept/`, in order of first appearance."""
        keys = dict.fromkeys(key for row in self.rows for key in row if key.startswith(prefix))
        return [key.removeprefix(prefix) for key in keys]


def read_metrics(path: Path) -> MetricsLog:
    """Reads the file; a torn line (a run that was killed) is left out, as is any other object."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        raise UserError(f"there is no {path}: train first, or name another workdir") from None
    rows = {}
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and _is_number(row.get("step")):
            # a resumed run logs its first steps again, and an evaluation its own keys at a step
            rows[row["step"]] = rows.get(row["step"], {}) | row
    return MetricsLog([rows[step] for step in sorted(rows)])


def curves_from_metrics(path: Path) -> list[Curve]:
    """Every curve that the file has the keys for, recall first."""
    log = read_metrics(path)
    curves = [*_recall_curves(log), *_loss_curves(log), *_health_curves(log), *_speed_curves(log)]
    return [curve for curve in curves if any(len(s.steps) for s in curve.series)]


def _recall_curves(log: MetricsLog) -> list[Curve]:
    sets = dict.fromkeys(name.split("/")[0] for name in log.names("recall/"))
    return [
        Curve(
            title=f"Recall on {name}",
            series=_present(
                log.series(f"recall/{name}/{way}/r{k}", f"{said} R@{k}")
                for k in (1, 10)
                for way, said in _WAYS.items()
            ),
            unit="%",
            note="Measured during training.",
        )
        for name in sets
    ]


def _loss_curves(log: MetricsLog) -> list[Curve]:
    total = log.series("loss", "loss")
    curves = [
        Curve("Total loss", [total], window=_window(total), note="Under the weights of each step.")
    ]
    for key in dict.fromkeys([*_LEVELS, *log.names("loss/")]):
        series = log.series(f"loss/{key}", "loss")
        chance = log.series(f"chance/{key}", "chance")
        curves.append(
            Curve(
                title=f"Loss: {_LEVELS.get(key, key)}",
                series=[series],
                chance=chance if len(chance.steps) else None,
                unit="nats",
                window=_window(series),
                note=_LOSS_NOTES.get(key, ""),
            )
        )
    return curves


def _health_curves(log: MetricsLog) -> list[Curve]:
    kept = _present(log.series(f"kept/{s}", s, 100.0) for s in log.names("kept/"))
    shares = _present(
        log.series(f"gradient_share/{key}", key, 100.0)
        for key in dict.fromkeys([*_LEVELS, *log.names("gradient_share/")])
    )
    return [
        Curve(
            title="Share of the towers' gradient norm",
            series=shares,
            unit="%",
            window=max(map(_window, shares), default=1),
            note="Weighted objectives; a level that is on should not vanish here.",
        ),
        Curve(
            title="Pairs that the momentum filter kept",
            series=kept,
            unit="%",
            window=max(map(_window, kept), default=1),
            note="By data source.",
        ),
        Curve(
            title="Weights of the objectives",
            series=_present(
                log.series(f"weight/{key}", key)
                for key in dict.fromkeys([*_LEVELS, *log.names("weight/")])
            ),
            note="As scheduled.",
        ),
        Curve("Temperature", [log.series("temperature", "τ")]),
        Curve("Learning rate", [log.series("learning_rate", "learning rate")]),
    ]


def _speed_curves(log: MetricsLog) -> list[Curve]:
    speed = log.series("pairs_per_second", "pairs/s")
    wait = log.series("data_wait", "waiting", 100.0)
    return [
        Curve("Speed", [speed], unit="pairs/s", window=_window(speed)),
        Curve(
            title="Time spent waiting for data",
            series=[wait],
            unit="%",
            window=_window(wait),
            note="Share of each step's time.",
        ),
    ]


def _present(series: Iterable[Series]) -> list[Series]:
    return [s for s in series if len(s.steps)]


def _window(series: Series) -> int:
    return max(1, len(series.steps) // _SMOOTHED_SHARE)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
