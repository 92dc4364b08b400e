# SPDX-License-Identifier: Apache-2.0
"""The method's formulas in NumPy, float64, one row at a time: what the tests hold the code to."""

import dataclasses

import numpy as np

OWN = "own"


@dataclasses.dataclass
class Pairs:
    """b pairs: online features, momentum keys, groups, and whether the row counts."""

    image: np.ndarray
    text: np.ndarray
    image_key: np.ndarray
    text_key: np.ndarray
    group: np.ndarray


@dataclasses.dataclass
class Column:
    """One candidate; `row` is the row of the batch that it is the key of, or None."""

    image: np.ndarray
    text: np.ndarray
    group: int
    valid: bool
    row: int | None = None


def columns_of(image, text, group, valid, rows=None):
    return [
        Column(image[j], text[j], int(group[j]), bool(valid[j]), None if rows is None else rows[j])
        for j in range(len(image))
    ]


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    top = logits.max()
    return logits - top - np.log(np.exp(logits - top).sum())


def used_columns(pairs, i, columns, mode):
    """The columns that row i is compared with, apart from its own key."""
    used = []
    for column in columns:
        same = column.group == pairs.group[i] and column.group != -1
        if not column.valid or column.row == i or (same and mode == "mask"):
            continue
        used.append((column, same))
    return used


def instance_loss(pairs, i, columns, tau, mode="mask"):
    """-log p of the positive, image-to-text plus text-to-image."""
    used = used_columns(pairs, i, columns, mode)
    to_text = [pairs.image[i] @ pairs.text_key[i]] + [pairs.image[i] @ c.text for c, _ in used]
    to_image = [pairs.text[i] @ pairs.image_key[i]] + [pairs.text[i] @ c.image for c, _ in used]
    positives = [0]
    if mode == "positive":
        positives += [place + 1 for place, (_, same) in enumerate(used) if same]
    loss = 0.0
    for logits in (to_text, to_image):
        log_p = log_softmax(np.array(logits) / tau)
        loss -= sum(log_p[p] for p in positives) / len(positives)
    return loss


def alignment(pairs, i, columns, tau, mode="mask", direction="both", teacher="online"):
    """KL(teacher row || student row) in each direction asked for, averaged."""
    used = [column for column, _ in used_columns(pairs, i, columns, mode)]
    text_keys = [pairs.text_key[i]] + [c.text for c in used]
    image_keys = [pairs.image_key[i]] + [c.image for c in used]

    def image_row(feature):
        return log_softmax(np.array([feature @ key for key in text_keys]) / tau)

    def text_row(feature):
        return log_softmax(np.array([feature @ key for key in image_keys]) / tau)

    momentum = teacher == "momentum"
    losses = []
    if direction in ("both", "image_to_text"):
        taught = text_row(pairs.text_key[i] if momentum else pairs.text[i])
        losses.append(kl(taught, image_row(pairs.image[i])))
    if direction in ("both", "text_to_image"):
        taught = image_row(pairs.image_key[i] if momentum else pairs.image[i])
        losses.append(kl(taught, text_row(pairs.text[i])))
    return sum(losses) / len(losses)


def kl(log_p, log_q):
    return sum(np.exp(p) * (p - q) for p, q in zip(log_p, log_q))


def unit_rows(rng, count, width):
    rows = rng.normal(size=(count, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def equations(jaxpr):
    """All equations of a jaxpr, those of sub-jaxprs included."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def downcasts(jaxpr):
    """Conversions from float64 to a narrower float; Python's own numbers take any width."""
    found = []
    for equation in equations(jaxpr):
        if equation.primitive.name == "convert_element_type":
            before, after = equation.invars[0].aval.dtype, equation.outvars[0].aval.dtype
            if equation.invars[0].aval.weak_type:
                continue
            if before == np.float64 and np.issubdtype(after, np.floating) and after != before:
                found.append(equation)
    return found


def shapes(jaxpr):
    """Shapes of all intermediate results."""
    return {tuple(out.aval.shape) for equation in equations(jaxpr) for out in equation.outvars}
