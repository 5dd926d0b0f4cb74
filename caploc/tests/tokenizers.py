"""Small tokenizers of every kind, each as its trainer makes it, with a decoder that gives back all that tokens hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from types import SimpleNamespace

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
LETTERS = "abcdeRomx (),.:'1234\n"
CORPUS = [
    "Rome is (Rome), not rome: a code.\nabc 12 34",
    "a x = (b), c.d: e'em Rome\n\nRome 1",
    "some more code, Rome's (more)  Rome",
]
_SPACES = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]


def _room(corpus: Sequence[str]) -> int:
    """For its characters, and for pieces of words."""
    return 50 + len(set("".join(corpus)))


def _trained(
    tokenizer: Tokenizer, corpus: Sequence[str], trainer: trainers.Trainer, decoder: decoders.Decoder
) -> Tokenizer:
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.decoder = decoder
    return tokenizer


def byte_level(corpus: Sequence[str] = CORPUS, prefix: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    return _trained(tokenizer, corpus, trainer, decoders.ByteLevel())


def metaspace(
    corpus: Sequence[str] = CORPUS, scheme: str = "always", byte_fallback: bool = True
) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    trainer = trainers.BpeTrainer(vocab_size=_room(corpus), special_tokens=SPECIAL, show_progress=False)
    tokenizer = _trained(tokenizer, corpus, trainer, decoders.Sequence(_SPACES))
    if byte_fallback:
        tokenizer.model = _with_bytes(tokenizer)
    return tokenizer


def _with_bytes(tokenizer: Tokenizer) -> models.BPE:
    """Its model, with a token for each byte."""
    made = json.loads(tokenizer.to_str())["model"]
    vocabulary = made["vocab"] | {f"<0x{byte:02X}>": len(made["vocab"]) + byte for byte in range(256)}
    merges = [tuple(pair) for pair in made["merges"]]
    return models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)


def legacy() -> Tokenizer:
    """As Llama 2's: the space in front of a text comes from the normalizer."""
    tokenizer = metaspace()
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


def unigram(corpus: Sequence[str] = CORPUS) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=_room(corpus), special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    return _trained(tokenizer, corpus, trainer, decoders.Sequence(_SPACES))


def word_piece(corpus: Sequence[str] = CORPUS) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=_room(corpus) + 20, special_tokens=SPECIAL, show_progress=False
    )
    return _trained(tokenizer, corpus, trainer, decoders.WordPiece(cleanup=False))


def characters(unknown: str | None = None, letters: str = LETTERS) -> Tokenizer:
    """One token a character; what it does not know is dropped, or read as ``unknown``."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *letters])}
    if unknown is None:
        tokenizer = Tokenizer(models.BPE(vocabulary, []))
    else:
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_level,
    "byte-level with prefix": lambda: byte_level(prefix=True),
    "metaspace with bytes": metaspace,
    "metaspace first": lambda: metaspace(scheme="first"),
    "metaspace never": lambda: metaspace(scheme="never"),
    "metaspace without bytes": lambda: metaspace(byte_fallback=False),
    "legacy": legacy,
    "unigram": unigram,
    "word pieces": word_piece,
    "characters": characters,
    "characters with unknown": lambda: characters("<unk>"),
}
SPELL_ALL = [name for name in KINDS if name.startswith("byte") or name in ("legacy", *list(KINDS)[2:5])]
"""Those that have tokens for any text."""
TEMPLATES = ("$A", "<s> $A", "$A </s>", "<s> $A </s>", "<pad> <s> $A </s> <pad>")
NORMALIZERS: dict[str, Callable[[], normalizers.Normalizer]] = {
    "none": lambda: normalizers.Sequence([]),
    "NFC": normalizers.NFC,
    "NFKC, lower case": lambda: normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]),
    "no accents": lambda: normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
    "stripped": normalizers.Strip,
    "single spaces": lambda: normalizers.Replace(Regex(" {2,}"), " "),
}
ADDED = ("<|x|>", "om", "  ")


@cache
def made(kind: str, template: str = "$A", normalizer: str = "none", added: Sequence[str] = ()) -> Tokenizer:
    """A tokenizer of a kind with more to it."""
    tokenizer = Tokenizer.from_str(_basic(kind))
    if normalizer != "none":
        own = [tokenizer.normalizer] if tokenizer.normalizer is not None else []
        tokenizer.normalizer = normalizers.Sequence([NORMALIZERS[normalizer](), *own])
    special = [(token, tokenizer.token_to_id(token)) for token in SPECIAL]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special="|" in token) for token in added])
    return tokenizer


@cache
def _basic(kind: str) -> str:
    return KINDS[kind]().to_str()


def fast(backend: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def reading(backend: Tokenizer, name: str = "tiny") -> SimpleNamespace:
    """What tokenization needs of a language model."""
    tokenizer = fast(backend)
    embedding = SimpleNamespace(num_embeddings=len(tokenizer))
    return SimpleNamespace(
        name=name,
        tokenizer=tokenizer,
        structure=SimpleNamespace(get_input_embeddings=lambda: embedding),
        max_length=100_000,
    )
