# SPDX-License-Identifier: Apache-2.0
"""A tokenizer of CLIP's kind with two words."""

import tokenizers

from cots_jax.data.tokenizer import Tokenizer


def clip_like() -> Tokenizer:
    vocab = {"a</w>": 0, "b</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab, [], unk_token="<|endoftext|>", end_of_word_suffix="</w>")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    return Tokenizer(backend)
