# SPDX-License-Identifier: Apache-2.0
"""Tokenizers: published ids, special tokens, training that is equal everywhere, loading."""

import concurrent.futures
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from clip_like import clip_like

from cots_jax.data.tokenizer import Tokenizer, load_tokenizer, text_masking, train_wordpiece
from cots_jax.errors import UserError

CAPTIONS = [
    "A black dog is running after a white dog in the snow .",
    "flag: Côte d’Ivoire",
    "running runners ran; the dogs' running",
    "two women in white are walking",
    "黑狗 a dog",
]

# Thousands of tied merges: words over few letters, each about as frequent as the others.
TRAIN_AND_PRINT = """
import hashlib, random, sys
from cots_jax.data.tokenizer import train_wordpiece
draw = random.Random(0)
word = lambda: "".join(draw.choice("abcdefgh") for _ in range(draw.randint(2, 7)))
captions = [" ".join(word() for _ in range(5)) for _ in range(400)]
if sys.argv[1] == "reversed":
    captions.reverse()
print(hashlib.sha256(train_wordpiece(captions, 400).to_json().encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_wordpiece(CAPTIONS, 120)


@pytest.fixture(scope="module")
def bert(shared_data) -> Tokenizer:
    return load_tokenizer(shared_data / "bert" / "vocab.txt")


def test_bert_ids_are_the_published_ones(bert):
    golden = "101 1037 2304 3899 2003 2770 2044 1037 2317 3899 1999 1996 4586 1012 102"
    encoded = bert.encode(CAPTIONS[:1], 20)
    assert encoded.ids[0, :15].tolist() == [int(i) for i in golden.split()]
    assert encoded.ids[0, 15:].tolist() == [0] * 5
    assert encoded.length.tolist() == [15]
    assert bert.vocab_size == 30522
    assert (bert.pad_id, bert.unk_id, bert.cls_id, bert.sep_id, bert.mask_id) == (
        0,
        100,
        101,
        102,
        103,
    )


def test_bert_folds_case_and_accents_and_splits_pieces(bert):
    plain, fancy = bert.encode(["cote d ivoire unaffable", "CÔTE d Ivoire unaffable"], 16).ids
    assert plain.tolist() == fancy.tolist()
    pieces = [bert.token(i) for i in plain[: np.argmax(plain == bert.sep_id)]]
    assert pieces[-3:] == ["una", "##ffa", "##ble"]
    assert bert.decode(plain) == "cote d ivoire unaffable"
    assert bert.is_continuation[plain[plain > 103]].sum() == sum("##" in p for p in pieces)


def test_training_is_equal_in_every_process(tmp_path):
    digests = set()
    for hash_seed, threads, order in (("1", "1", "as is"), ("2", "4", "reversed")):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "RAYON_NUM_THREADS": threads}
        environment["TOKENIZERS_PARALLELISM"] = "true" if threads == "4" else "false"
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        command = [sys.executable, "-c", TRAIN_AND_PRINT, order]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1


def test_training_is_pinned(trained):
    # A change here makes other vocabularies than the ones in published checkpoints.
    assert hashlib.sha256(trained.to_json().encode()).hexdigest().startswith("47708af77af7")


def test_trained_pieces_cover_the_captions(trained):
    encoded = trained.encode(CAPTIONS, 64)
    assert trained.vocab_size <= 120
    assert (encoded.ids != trained.unk_id).all()
    assert trained.decode(encoded.ids[0]) == "a black dog is running after a white dog in the snow."
    assert trained.special_ids == (0, 1, 2, 3, 4)
    tokens = [trained.token(i) for i in range(trained.vocab_size)]
    assert "running" in tokens and len(set(tokens)) == len(tokens)


def test_pieces_are_characters_then_merges_by_frequency_then_by_number():
    tokenizer = train_wordpiece(["abab abab abab cd!"], 40)
    pieces = [tokenizer.token(i) for i in range(5, tokenizer.vocab_size)]
    # Punctuation never continues a word. Of the pairs seen three times (a ##b, ##b ##a, ##a ##b)
    # the one with the lowest numbers is merged first, and again after it.
    alphabet = ["!", "a", "b", "c", "d", "##a", "##b", "##c", "##d"]
    assert pieces == [*alphabet, "ab", "##ab", "abab", "cd"]


def test_unseen_words_of_known_characters_are_not_unknown():
    tokenizer = train_wordpiece(["quick iran"], 50)
    ids = tokenizer.encode(["iraq"], 8).ids[0]
    assert tokenizer.unk_id not in ids and tokenizer.decode(ids) == "iraq"


def test_frequent_characters_win_when_the_vocabulary_is_small():
    tokenizer = train_wordpiece(["aaa bbb aaa zq"], 5 + 11)
    assert tokenizer.decode(tokenizer.encode(["aaa bbb"], 12).ids[0]) == "aaa bbb"
    assert tokenizer.encode(["zq"], 4).ids[0].tolist() == [2, tokenizer.unk_id, 3, 0]


def test_long_texts_keep_sep_and_short_ones_are_padded(trained):
    encoded = trained.encode([" ".join(CAPTIONS * 50), "", "dog"], 6)
    assert encoded.length.tolist() == [6, 2, 3]
    assert encoded.ids[0, -1] == trained.sep_id
    assert encoded.ids[1].tolist() == [trained.cls_id, trained.sep_id, 0, 0, 0, 0]
    assert encoded.ids.dtype == np.int32
    with pytest.raises(UserError, match="text length 1"):
        trained.encode(["dog"], 1)


def test_no_texts_give_no_rows(trained):
    assert trained.encode([], 8).ids.shape == (0, 8)


def test_a_caption_cannot_spell_special_tokens(bert, trained):
    for tokenizer in (bert, trained, Tokenizer.from_json(trained.to_json())):
        ids = tokenizer.encode(["a [SEP] [MASK] dog [PAD] [CLS]"], 40)
        inner = ids.ids[0, 1 : ids.length[0] - 1]
        assert not set(inner.tolist()) & (set(tokenizer.special_ids) - {tokenizer.unk_id})


def test_special_tokens_of_a_hugging_face_file_cannot_be_spelt(bert):
    file = json.loads(bert.to_json())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    file["added_tokens"] = [
        {"id": i, "content": bert.token(i), "special": True, **flags} for i in bert.special_ids
    ]
    file["truncation"] = {
        "direction": "Right",
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    loaded = Tokenizer.from_json(json.dumps(file))
    texts = ["a [SEP] dog and a very long tail", CAPTIONS[0]]
    np.testing.assert_array_equal(loaded.encode(texts, 20).ids, bert.encode(texts, 20).ids)


def test_clips_tokens_end_and_pad_alike_and_none_masks():
    clip = clip_like()
    encoded = clip.encode(["b a", "a"], 5)
    np.testing.assert_array_equal(encoded.ids, [[2, 1, 0, 3, 3], [2, 0, 3, 3, 3]])
    np.testing.assert_array_equal(encoded.length, [4, 3])
    assert clip.mask_id is None
    assert set(clip.special_ids) == {2, 3}
    assert text_masking(clip).special_ids == clip.special_ids


def test_json_round_trip(trained, tmp_path):
    trained.save(tmp_path / "tokenizer.json")
    for again in (Tokenizer.from_json(trained.to_json()), load_tokenizer(tmp_path)):
        assert again.to_json() == trained.to_json()
        np.testing.assert_array_equal(
            again.encode(CAPTIONS, 12).ids, trained.encode(CAPTIONS, 12).ids
        )
        assert again.special_ids == trained.special_ids
        np.testing.assert_array_equal(again.is_continuation, trained.is_continuation)


def test_threads_with_different_lengths_do_not_disturb_each_other(trained):
    lengths = [4, 7, 12, 30] * 50
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda length: trained.encode(CAPTIONS, length), lengths))
    for length, result in zip(lengths, results, strict=True):
        np.testing.assert_array_equal(result.ids, trained.encode(CAPTIONS, length).ids)


def test_vocab_txt_reads_the_case_from_the_config_beside_it(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Dog", "dog"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    assert load_tokenizer(tmp_path).encode(["Dog"], 3).ids.tolist() == [[2, 6, 3]]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert load_tokenizer(tmp_path).encode(["Dog"], 3).ids.tolist() == [[2, 5, 3]]


@pytest.mark.parametrize("name", ["model.safetensors", "weights.npz"])
def test_that_of_a_file_of_weights_lies_beside_it(trained, tmp_path, name):
    (tmp_path / name).write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"holds neither tokenizer\.json nor vocab\.txt"):
        load_tokenizer(tmp_path / name)
    trained.save(tmp_path / "tokenizer.json")
    assert load_tokenizer(tmp_path / name).to_json() == trained.to_json()


def test_a_name_goes_through_transformers(trained, monkeypatch):
    import transformers

    asked = []

    def pretend(name, **_):
        asked.append(name)
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_json(trained.to_json())._backend
        )

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", pretend)
    loaded = load_tokenizer("somebody/their-bert")
    assert asked == ["somebody/their-bert"]
    np.testing.assert_array_equal(loaded.encode(CAPTIONS, 12).ids, trained.encode(CAPTIONS, 12).ids)


def test_what_cannot_be_loaded_says_what_was_looked_for(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"neither tokenizer\.json nor vocab\.txt"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"/tokenizer\.json: this is not a tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(UserError, match=r"/tokenizer\.json is damaged.* at byte 7"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\ndog\n")
    with pytest.raises(UserError, match=r"lacks the special tokens \[CLS\] \[SEP\] \[MASK\]"):
        load_tokenizer(tmp_path / "vocab.txt")
    (tmp_path / "vocab.txt").write_text("[PAD]\ndog\ndog\n")
    with pytest.raises(UserError, match="names a piece twice: 3 lines, 2 different"):
        load_tokenizer(tmp_path / "vocab.txt")
    (tmp_path / "words.dat").write_text("dog")
    with pytest.raises(UserError, match="neither a"):
        load_tokenizer(tmp_path / "words.dat")

    import transformers

    def offline(name, **_):
        raise OSError("cannot reach the hub\nmore lines")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", offline)
    with pytest.raises(UserError, match=r"no tokenizer 'some/name'.*cannot reach the hub\)$"):
        load_tokenizer("some/name")


def test_impossible_training_is_refused():
    with pytest.raises(UserError, match="use at least 9"):
        train_wordpiece(["a dog"], 6)
    with pytest.raises(UserError, match="every caption is empty"):
        train_wordpiece(["", "  "], 100)


def test_an_unknown_id_is_an_error(trained):
    with pytest.raises(UserError, match="token id 5000"):
        trained.token(5000)
