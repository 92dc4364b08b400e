# SPDX-License-Identifier: Apache-2.0
"""How long the texts of a training are beside the rows that hold them, and how many of their words
the tokenizer knows (own choice).

Every text is padded to `data.text_length` tokens and loses what is longer. Padding costs as much as
text does, and a lost end is lost, so that a run says both before it starts.
"""

import dataclasses

import numpy as np
from jaxtyping import Int

from cots_jax.data.pair_table import PairTable

LOOKED_AT = 512  # texts
ROOM = 1.25  # a row may be this much longer than the longest text that was looked at
WORTH_SAYING = 0.01  # of the tokens are unknown
STEP = 8  # tokens; lengths that are proposed are multiples


@dataclasses.dataclass(frozen=True)
class TextLengths:
    """tokens: of each text that was looked at, [CLS] and [SEP] among them, nothing cut."""

    tokens: Int[np.ndarray, "n"]
    length: int  # of a row
    unknown: int = 0  # tokens of all of them that are in no vocabulary

    @property
    def cut(self) -> int:
        """How many of them lose their end."""
        return int(np.sum(self.tokens > self.length))

    @property
    def enough(self) -> int:
        """A length that none of them would need more than, with some room."""
        return int(np.ceil(self.tokens.max() * ROOM / STEP)) * STEP

    def words(self) -> str:
        """One line for the start of a run."""
        mean = float(np.minimum(self.tokens, self.length).mean())
        said = f"texts: {mean:.1f} of {self.length} tokens at the mean"
        if self.cut:
            share = 100 * self.cut / len(self.tokens)
            shown = f"{share:.0f}" if share >= 1 else f"{share:.1f}"
            said += (
                f", {shown} % are longer and lose their end (the longest of {len(self.tokens)} "
                f"has {self.tokens.max()} tokens; config.data.text_length)"
            )
        elif self.enough < self.length:
            said += (
                f", the rest is padding: the longest of {len(self.tokens)} has "
                f"{self.tokens.max()}, and --config.data.text_length={self.enough} would be faster"
            )
        share = self.unknown / max(int(np.sum(self.tokens - 2)), 1)
        if share >= WORTH_SAYING:
            said += (
                f"; {share:.0%} of the tokens are unknown to the tokenizer, which reads them all "
                "alike (config.data.tokenizer)"
            )
        return said


def text_lengths(table: PairTable, most: int = LOOKED_AT) -> TextLengths:
    """Of that many texts, evenly spaced over the table; each is read and encoded."""
    pairs = np.unique(np.linspace(0, table.pairs - 1, most).round().astype(np.int32))
    texts = table.captions(pairs)
    unknown = int(table.tokenizer.unknown(texts).sum())
    return TextLengths(table.tokenizer.count(texts), table.length, unknown)
