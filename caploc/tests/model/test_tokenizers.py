"""A folder's tokenizer reads texts as the folder's own file says, whatever class its settings name, or is refused."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase

from caploc.errors import ModelError
from caploc.examples import Example, tokenize
from caploc.model.loading import load_model, wrap
from caploc.model.tokenizers import load_tokenizer
from caploc.spelling import encode
from caploc.tests.tiny import save_tiny, tiny_lm
from caploc.tests.tokenizers import CORPUS, KINDS, fast, made, reading

TEXTS = [*CORPUS, "Rome: 12\n 日本 é", "  a  b", "ROME's"]
CLASSES = (
    "GPT2Tokenizer",
    "LlamaTokenizerFast",
    "GPTNeoXTokenizerFast",
    "Qwen2Tokenizer",
    "GemmaTokenizerFast",
)


def config(family: str = "llama", **fields: Any) -> PreTrainedConfig:
    return AutoConfig.for_model(family, **fields)


def saved(folder: Path, backend: Tokenizer, **settings: Any) -> Path:
    """A folder with a tokenizer.json and a tokenizer_config.json."""
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def load(folder: Path, family: str = "llama", **fields: Any) -> PreTrainedTokenizerBase:
    return load_tokenizer(folder, f"model folder {folder}", config(family, **fields))


def refusal(folder: Path, family: str = "llama") -> str:
    with pytest.raises(ModelError) as caught:
        load(folder, family)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)


def own(folder: Path, text: str) -> list[int]:
    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("declared", CLASSES)
def test_a_tokenizer_file_is_read_as_it_is(kind: str, declared: str, tmp_path: Path) -> None:
    """transformers' own classes rebuild most of these from their vocabulary."""
    backend = made(kind, "<pad> <s> $A </s>", "NFKC, lower case")
    folder = saved(tmp_path, backend, tokenizer_class=declared, add_bos_token=False, add_prefix_space=True)
    tokenizer = load(folder)
    assert all(tokenizer(text)["input_ids"] == own(folder, text) for text in TEXTS)


def test_names_of_special_tokens_come_from_the_settings_else_from_the_model(tmp_path: Path) -> None:
    folder = saved(tmp_path, made("byte-level"), bos_token="<pad>")
    tokenizer = load(folder, bos_token_id=1, eos_token_id=2)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<pad>", "</s>")
    saved(tmp_path, made("byte-level"), bos_token=None, eos_token="<pad>")
    tokenizer = load(folder, bos_token_id=1, eos_token_id=[2])
    assert (tokenizer.bos_token, tokenizer.eos_token) == (None, "<pad>")


def test_settings_that_change_how_texts_are_read_are_refused(tmp_path: Path) -> None:
    token = {"content": "Zx", "special": False, "normalized": False, "lstrip": False, "rstrip": False}
    added = {"300": {**token, "single_word": False}}
    folder = saved(tmp_path, made("byte-level"), added_tokens_decoder=added, tokenizer_class="GPT2Tokenizer")
    said = "tokenizer.json reads 'aZx b' otherwise than GPT2Tokenizer, as tokenizer_config.json"
    assert said in refusal(folder)


def test_padding_and_truncation_of_the_file_leave_texts_whole(tmp_path: Path) -> None:
    backend = Tokenizer.from_str(made("byte-level").to_str())
    backend.enable_truncation(3)
    backend.enable_padding(length=50, pad_token="<pad>", pad_id=3)
    tokenizer = load(saved(tmp_path, backend))
    assert tokenizer(TEXTS[0])["input_ids"] == made("byte-level").encode(TEXTS[0]).ids


def readings(backend: Tokenizer) -> int:
    return len({tuple(backend.encode(TEXTS[0]).ids) for _ in range(20)})


def test_the_dropout_that_a_file_was_trained_with_is_off(tmp_path: Path) -> None:
    stored = json.loads(made("metaspace with bytes").to_str())
    stored["model"]["dropout"] = 0.5
    random = Tokenizer.from_str(json.dumps(stored))
    assert readings(random) > 1
    tokenizer = load(saved(tmp_path, random))
    assert (
        tokenizer.backend_tokenizer.encode(TEXTS[0]).ids == made("metaspace with bytes").encode(TEXTS[0]).ids
    )
    assert readings(tokenizer.backend_tokenizer) == 1


def test_the_sampling_of_a_tokenizer_in_memory_is_off() -> None:
    stored = json.loads(made("unigram").to_str())["model"]
    random = Tokenizer.from_str(made("unigram").to_str())
    random.model = models.Unigram([tuple(piece) for piece in stored["vocab"]], 0, False, 0.1, 64)
    assert readings(random) > 1
    lm = wrap("tiny", tiny_lm().model, fast(random))
    assert readings(lm.tokenizer.backend_tokenizer) == 1


# ------------------------------------------------------------------------------------- folders without tokenizer.json


def byte_level_files(folder: Path) -> Path:
    stored = json.loads(made("byte-level").to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(stored["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, stored["merges"])))
    return folder


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_a_vocabulary_with_merges(family: str, tmp_path: Path) -> None:
    tokenizer = load(byte_level_files(tmp_path), family)
    assert all(tokenizer(text)["input_ids"] == made("byte-level").encode(text).ids for text in TEXTS[:3])
    (tmp_path / "merges.txt").unlink()
    assert "holds vocab.json without its merges.txt; put all" in refusal(tmp_path, family)


def words(folder: Path, *more: str, settings: dict[str, Any] | None = None) -> Path:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "rome", "##s", "is", "日", "本", "##e", "rom"]
    (folder / "vocab.txt").write_text("\n".join([*vocabulary, *more]), encoding="utf-8")
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("settings", [None, {}, {"tokenizer_class": "BertTokenizer", "do_lower_case": True}])
def test_a_list_of_word_pieces(settings: dict[str, Any] | None, tmp_path: Path) -> None:
    tokenizer = load(words(tmp_path, settings=settings), "gpt2")
    assert tokenizer.tokenize("Rome romes日本") == ["rome", "rome", "##s", "日", "本"]
    lm = reading(tokenizer.backend_tokenizer)
    lm.tokenizer = tokenizer
    tokens = tokenize(lm, Example("e", "Rome is", " 日本"))
    assert tokenizer.convert_ids_to_tokens(tokens.input_ids.tolist()) == ["[CLS]", "rome", "is", "日", "本"]


def test_word_pieces_with_capitals_are_not_read_in_lower_case(tmp_path: Path) -> None:
    assert load(words(tmp_path, "Rome"), "gpt2").tokenize("Rome rome") == ["Rome", "rome"]


def test_files_that_the_class_does_not_read_are_named(tmp_path: Path) -> None:
    words(tmp_path, settings={"tokenizer_class": "GPT2Tokenizer"})
    said = refusal(tmp_path, "gpt2")
    assert "lacks merges.txt, vocab.json, a file of GPT2Tokenizer, and has vocab.txt; put the" in said


def test_a_sentencepiece_model_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
    monkeypatch.setattr("caploc.model.tokenizers.find_spec", lambda name: None)
    said = "tokenizer.model, and sentencepiece, which reads it, is not installed: pip install 'caploc[sentencepiece]'"
    assert said in refusal(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CpmTokenizer"}')
    assert "CpmTokenizer does more than its tokenizer.model tells; put a tokenizer.json" in refusal(tmp_path)


@pytest.mark.skipif(
    find_spec("sentencepiece") is None, reason="needs sentencepiece: pip install -e '.[sentencepiece]'"
)
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("plain", [True, False])
def test_a_sentencepiece_model_is_read_as_sentencepiece_does(kind: str, plain: bool, tmp_path: Path) -> None:
    import io

    import sentencepiece

    out = io.BytesIO()
    rules = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False} if plain else {}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.replace("\n", " ") for text in CORPUS * 4),
        model_writer=out,
        model_type=kind,
        vocab_size=300 if kind == "bpe" else 40,
        hard_vocab_limit=False,
        byte_fallback=kind == "bpe",
        minloglevel=2,
        **rules,
    )
    (tmp_path / "tokenizer.model").write_bytes(out.getvalue())
    reader = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    tokenizer = load(tmp_path)
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == [reader.bos_id(), *reader.encode(text)]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<s>", "</s>", "<unk>")
    (tmp_path / "tokenizer.model").rename(tmp_path / "spiece.model")
    names = {"eos_token": {"content": "<s>", "lstrip": False}, "do_lower_case": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", **names}))
    tokenizer = load(tmp_path, "gpt_neox")
    assert tokenizer(TEXTS[0])["input_ids"] == reader.encode(TEXTS[0].lower())
    assert tokenizer.eos_token == "<s>"


# --------------------------------------------------------------------------------------------- what the library does


def test_a_model_folder_is_loaded_with_it(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": "LlamaTokenizer"}))
    assert load_model(tmp_path).tokenizer("a1")["input_ids"] == own(tmp_path, "a1")
    (tmp_path / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match=r"the tokenizer of model folder .* cannot be loaded"):
        load_model(tmp_path)


def test_a_file_whose_regular_expression_runs_away_is_refused(tmp_path: Path) -> None:
    """At load it reads a few texts; what Rust code ends in there is told like any error."""
    save_tiny(tmp_path)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"(([a-z? ]+)+)+#"), "isolated")
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match=r"the tokenizer of .* cannot be loaded \(PanicException"):
        load_model(tmp_path)


def test_special_tokens_are_letters_where_the_settings_say_so(tmp_path: Path) -> None:
    tokenizer = load(saved(tmp_path, made("characters with unknown"), split_special_tokens=True))
    lm = tiny_lm()
    lm.tokenizer = tokenizer
    assert encode(lm, "<s>").ids == [0, 0, 0]


def test_templates_of_two_kinds(tmp_path: Path) -> None:
    """A post-processor that is no template: Llama 3's sequence of two."""
    backend = Tokenizer.from_str(made("byte-level").to_str())
    template = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    lm = reading(backend)
    lm.tokenizer = load(saved(tmp_path, backend, bos_token="<s>", eos_token="<pad>"))
    ids = tokenize(lm, Example("e", "Rome", " a")).input_ids.tolist()
    assert ids[0] == 1 and 2 not in ids
