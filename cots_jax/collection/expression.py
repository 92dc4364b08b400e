# SPDX-License-Identifier: Apache-2.0
"""A small grammar for queries: `2*golden retriever - snow` (own choice).

    expression = term {operator term}
    operator   = "+" | "-", with white space on both sides
    term       = [weight "*"] words | [weight "*"] '"' any text '"'
    weight     = digits ["." digits], above 0
    words      = text without a quotation mark

So hyphenated words stay words, quotation marks keep a text as it is (`"war - and peace"`), and a
text that is no expression is taken literally.
"""

import dataclasses
import re

_QUOTED_OR_OPERATOR = re.compile(r'"[^"]*"|(?<=\s)[+-](?=\s)')
_TERM = re.compile(r'(?:(\d{1,6}(?:\.\d{1,6})?)\s*\*\s*)?(?:"([^"]+)"|([^"]+))')


@dataclasses.dataclass(frozen=True)
class Term:
    """A text and its weight in the sum, below 0 where it is taken away."""

    weight: float
    text: str

    def __str__(self) -> str:
        sign = "− " if self.weight < 0 else "+ "
        times = "" if abs(self.weight) == 1 else f"{abs(self.weight):g} × "
        return f"{sign}{times}{self.text!r}"


def parse_expression(text: str) -> tuple[Term, ...]:
    """The terms of an expression in their order; the text itself, weight 1, where it is none."""
    padded = f" {text} "  # so that an operator at an end is seen, with nothing beside it
    terms, sign, start = [], 1.0, 0
    for found in _QUOTED_OR_OPERATOR.finditer(padded):
        if found[0] in "+-":
            terms.append(_term(sign, padded[start : found.start()]))
            sign, start = (1.0 if found[0] == "+" else -1.0), found.end()
    terms.append(_term(sign, padded[start:]))
    whole = tuple(term for term in terms if term is not None)
    return whole if len(whole) == len(terms) else (Term(1.0, text.strip()),)


def in_words(terms: tuple[Term, ...]) -> str:
    """How an expression was understood."""
    return " ".join(map(str, terms)).removeprefix("+ ")


def _term(sign: float, part: str) -> Term | None:
    found = _TERM.fullmatch(part.strip())
    if found is None:
        return None
    weight, quoted, words = found.groups()
    text, amount = (quoted or words).strip(), float(weight or 1)
    return Term(sign * amount, text) if text and amount else None
