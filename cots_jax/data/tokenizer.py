# SPDX-License-Identifier: Apache-2.0
"""Captions to token ids: BERT WordPiece, trained here or read from a file or a name."""

import collections
import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tokenizers
from jaxtyping import Bool, Int32
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from cots_jax.data.masking import TextMasking
from cots_jax.errors import UserError
from cots_jax.files import write_whole

BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_SPECIALS = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
CLIP_SPECIALS = ("<|startoftext|>", "<|endoftext|>")  # the end pads too, and nothing masks
CONTINUATION = "##"
WEIGHTS = (".safetensors", ".npz")
CHUNK = 4096  # texts encoded at once
LONGEST_WORD = 100  # characters; BERT's own limit, a longer word is [UNK]


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Token ids with the number of tokens before the padding."""

    ids: Int32[np.ndarray, "b l"]
    length: Int32[np.ndarray, "b"]


class Tokenizer:
    """A fixed vocabulary with the five special tokens of BERT; safe in threads, equal in processes.

    CLIP's has no mask token: `mask_id` is None.

    The wrapped library object is never changed after construction, so that lengths asked for in
    one thread do not reach another.
    """

    def __init__(self, backend: tokenizers.Tokenizer):
        backend.no_truncation()
        backend.no_padding()
        # A caption that spells "[SEP]" is text, not a command.
        backend.encode_special_tokens = True
        self._backend = backend
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        special = _special_ids(backend)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = special
        self.special_ids: tuple[int, ...] = tuple(id for id in special if id is not None)

    def encode(self, texts: Sequence[str], length: int) -> Encoded:
        """[CLS] … [SEP] padded to `length`; a longer text loses its end but keeps [SEP]."""
        if length < 2:
            raise UserError(f"text length {length} has no room for [CLS] and [SEP]: use at least 2")
        ids = np.full((len(texts), length), self.pad_id, np.int32)
        lengths = np.zeros(len(texts), np.int32)
        # In chunks, since the library's encodings take some hundred times the memory of the ids.
        for start in range(0, len(texts), CHUNK):
            chunk = list(texts[start : start + CHUNK])
            encodings = self._backend.encode_batch_fast(chunk, add_special_tokens=False)
            for row, encoding in enumerate(encodings, start):
                tokens = encoding.ids[: length - 2]
                ids[row, : len(tokens) + 2] = [self.cls_id, *tokens, self.sep_id]
                lengths[row] = len(tokens) + 2
        return Encoded(ids, lengths)

    def count(self, texts: Sequence[str]) -> Int32[np.ndarray, "b"]:
        """The tokens that `encode` would give each text with room for all of them."""
        found = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return np.array([len(encoding.ids) + 2 for encoding in found], np.int32)

    def unknown(self, texts: Sequence[str]) -> Int32[np.ndarray, "b"]:
        """How many tokens of each text stand for what is in no vocabulary."""
        found = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return np.array([encoding.ids.count(self.unk_id) for encoding in found], np.int32)

    def decode(self, ids: Iterable[int | np.integer]) -> str:
        """The text of the ids without special tokens; case and accents are gone for good."""
        kept = [int(i) for i in ids if int(i) not in self.special_ids]
        return self._backend.decode(kept, skip_special_tokens=False)

    def token(self, id: int | np.integer) -> str:
        """The piece behind an id, as it stands in the vocabulary."""
        piece = self._backend.id_to_token(int(id))
        if piece is None:
            raise UserError(f"token id {id} is not in the vocabulary of {self.vocab_size}")
        return piece

    @functools.cached_property
    def is_continuation(self) -> Bool[np.ndarray, "v"]:
        """True for pieces that continue a word, for whole-word masking."""
        pieces = (self.token(i) for i in range(self.vocab_size))
        return np.array([piece.startswith(CONTINUATION) for piece in pieces], bool)

    def to_json(self) -> str:
        """Everything, as the tokenizer.json that Hugging Face tools read too."""
        return self._backend.to_str()

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """The inverse of `to_json`."""
        try:
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"this is not a tokenizer.json: {error}") from error
        return cls(backend)

    def save(self, path: str | pathlib.Path) -> None:
        """Writes `to_json` to a file."""
        write_whole(pathlib.Path(path), self.to_json())


def text_masking(tokenizer: Tokenizer) -> TextMasking:
    """What masking must know of it. Without a mask token nothing may ask for one."""
    mask = -1 if tokenizer.mask_id is None else tokenizer.mask_id
    return TextMasking(mask, tokenizer.vocab_size, tokenizer.special_ids)


def train_wordpiece(captions: Iterable[str], vocab_size: int) -> Tokenizer:
    """A WordPiece vocabulary of at most `vocab_size` pieces from the captions (own choice).

    The same captions in any order give the same vocabulary on every machine. The library's
    trainer numbers pieces in the order of a randomly seeded hash table, and ties between merges
    fall by those numbers; here every character is numbered before it starts.
    """
    words = _count_words(captions)
    characters = _alphabet(words, vocab_size)
    # A word with a character outside of the alphabet is [UNK] as a whole and teaches nothing.
    known = {word: count for word, count in words.items() if characters.issuperset(word)}
    inner = [CONTINUATION + character for character in sorted(characters) if _joins(character)]
    learner = tokenizers.Tokenizer(models.WordPiece(unk_token=BERT_SPECIALS[1]))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*BERT_SPECIALS, *sorted(characters), *inner],
        continuing_subword_prefix=CONTINUATION,
        show_progress=False,
    )
    learner.train_from_iterator(_repeat_words(known), trainer)
    vocab = learner.get_vocab(with_added_tokens=False)
    return Tokenizer(_wordpiece(vocab, lower_case=True))


def load_tokenizer(source: str | pathlib.Path) -> Tokenizer:
    """A tokenizer from a folder or file (tokenizer.json or vocab.txt) or a Hugging Face name.

    Of a file of weights it is the one in its folder. Raises UserError.
    """
    path = pathlib.Path(source)
    if path.suffix in WEIGHTS and path.is_file():
        path = path.parent
    if path.is_dir():
        found = [path / name for name in ("tokenizer.json", "vocab.txt") if (path / name).is_file()]
        if not found:
            raise UserError(f"{path} holds neither tokenizer.json nor vocab.txt")
        return _load_file(found[0])
    if path.is_file():
        return _load_file(path)
    return _load_name(str(source))


def _special_ids(backend: tokenizers.Tokenizer) -> tuple[int, int, int, int, int | None]:
    for names in (BERT_SPECIALS, ROBERTA_SPECIALS):
        pad, unk, cls, sep, mask = (backend.token_to_id(name) for name in names)
        if not (pad is None or unk is None or cls is None or sep is None or mask is None):
            return pad, unk, cls, sep, mask
    start, end = (backend.token_to_id(name) for name in CLIP_SPECIALS)
    if start is not None and end is not None:
        return end, end, start, end, None
    known = "; ".join(map(" ".join, (BERT_SPECIALS, ROBERTA_SPECIALS, CLIP_SPECIALS)))
    raise UserError(
        "this tokenizer lacks special tokens for padding, unknown, start, end and mask: looked for "
        f"{known}; use one that has such"
    )


def _split_words(text: str) -> list[str]:
    normal = normalizers.BertNormalizer().normalize_str(text)
    return [word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(normal)]


def _joins(character: str) -> bool:
    """False for characters that are always words of their own: punctuation, CJK."""
    return len(_split_words("a" + character)) == 1


def _count_words(captions: Iterable[str]) -> dict[str, int]:
    words: collections.Counter[str] = collections.Counter()
    for caption in captions:
        words.update(word for word in _split_words(caption) if len(word) <= LONGEST_WORD)
    if not words:
        raise UserError("no words to train a tokenizer on: every caption is empty")
    return dict(sorted(words.items()))


def _alphabet(words: dict[str, int], vocab_size: int) -> set[str]:
    """The most frequent characters, for at most half of the vocabulary; ties by code point."""
    counts: collections.Counter[str] = collections.Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    specials = len(BERT_SPECIALS)
    limit = (vocab_size - specials) // 4  # a character takes two pieces: a and ##a
    if limit < 1:
        raise UserError(
            f"a vocabulary of {vocab_size} has no room for words beside the {specials} special "
            f"tokens: use at least {specials + 4}"
        )
    return set(sorted(counts, key=lambda character: (-counts[character], character))[:limit])


def _repeat_words(words: dict[str, int]) -> Iterator[str]:
    """Lines in which each word stands as often as it was counted."""
    for word, count in words.items():
        for start in range(0, count, 1000):
            yield " ".join([word] * min(1000, count - start))


def _wordpiece(vocab: dict[str, int], lower_case: bool) -> tokenizers.Tokenizer:
    missing = [name for name in BERT_SPECIALS if name not in vocab]
    if missing:
        raise UserError(f"the vocabulary lacks the special tokens {' '.join(missing)}")
    backend = tokenizers.Tokenizer(
        models.WordPiece(vocab, unk_token=BERT_SPECIALS[1], max_input_chars_per_word=LONGEST_WORD)
    )
    backend.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=CONTINUATION)
    return backend


def _load_file(path: pathlib.Path) -> Tokenizer:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return Tokenizer.from_json(text)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is damaged, it is not UTF-8 text at byte {error.start}: bring it back from a "
            "copy, or remove it"
        ) from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if path.suffix != ".txt":
        raise UserError(f"{path} is neither a tokenizer.json nor a vocab.txt")
    pieces = text.rstrip("\n").split("\n")
    vocab = {piece.rstrip("\r"): number for number, piece in enumerate(pieces)}
    if len(vocab) != len(pieces):
        raise UserError(f"{path} names a piece twice: {len(pieces)} lines, {len(vocab)} different")
    return Tokenizer(_wordpiece(vocab, _lower_case(path.parent)))


def _lower_case(folder: pathlib.Path) -> bool:
    """What the tokenizer_config.json beside a vocab.txt says; lower case where there is none."""
    config = folder / "tokenizer_config.json"
    if not config.is_file():
        return True
    try:
        return bool(json.loads(config.read_text(encoding="utf-8")).get("do_lower_case", True))
    except (ValueError, AttributeError) as error:
        raise UserError(f"{config} cannot be read ({error}): copy it again") from error


def _load_name(name: str) -> Tokenizer:
    import transformers  # slow to import, and needed for a name only

    try:
        fast = transformers.AutoTokenizer.from_pretrained(name, use_fast=True)
    except Exception as error:  # offline, unknown, gated: the library has a class for each
        raise UserError(
            f"no tokenizer {name!r}: looked for a folder or file of that name here and for a "
            f"Hugging Face repository ({str(error).splitlines()[0]})"
        ) from error
    backend = getattr(fast, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"the tokenizer {name!r} has no tokenizer.json: use one that has")
    return Tokenizer.from_json(backend.to_str())
