"""A model's tokenizer as its folder holds it, or one line that says why it cannot be had."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from caploc.errors import ModelError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
"""Without any of them transformers makes an empty tokenizer for most families, which reads every text as nothing."""
_RANDOMNESS = ("dropout", "alpha", "nbest_size")  # of BPE's merges; of unigram's sampling
_BEGINNING = (
    "LlamaTokenizer",
    "CodeLlamaTokenizer",
    "GemmaTokenizer",
    "llama",
    "mistral",
    "gemma2",
    "gemma3_text",
)
"""Classes and families whose texts begin with a beginning-of-sequence token, unless add_bos_token says otherwise."""
_PLAIN_SENTENCEPIECE = (None, *_BEGINNING[:3], "T5Tokenizer", "PreTrainedTokenizer", "TokenizersBackend")
_PROBES = (
    "Question: what is 17 plus 25?\nAnswer: 42",
    "The CAPITAL of Italy's Lazio, it's said (don't ask), is_Rome/ROMA -- e.g. $1,234.56 or 50%.",
    "  two  spaces, a\ttab,\r\n\n\na line and an end ",
    "def f(x):\n    return x**2  # naïve Ödön, ﬁne e\u0301",
    "日本語と中文, русский, العربية, हिन्दी 🙂👩‍👧 \u200b½",
    "x",
)


def load_tokenizer(folder: Path, title: str, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of the model in ``folder``, without the randomness that some are trained with.

    A tokenizer.json is read as it is, whatever class tokenizer_config.json names: many of transformers' classes
    rebuild it from its vocabulary alone, with normalizer, pre-tokenizer and template of their own. Without it, a
    sentencepiece model is read as it says itself, and vocab.txt or vocab.json by the class that the folder or the
    family names. Names of special tokens come from tokenizer_config.json, else from the ids in config.json.

    Raises:
        ModelError: no such files, or not all that belong together; sentencepiece wanted; texts are read otherwise than
            the folder's own file has it.
    """
    present = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not present:
        raise ModelError(
            f"{title} holds no tokenizer ({', '.join(TOKENIZER_FILES)}); put the original's tokenizer files into it"
        )
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            settings |= json.loads((folder / name).read_text(encoding="utf-8"))
    settings.setdefault("tokenizer_class", getattr(config, "tokenizer_class", None))
    if present[0] == "tokenizer.json":
        reference = _calm(Tokenizer.from_file(str(folder / present[0])))
        names: Any = _names(reference, settings, config)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, **names)
        _check_reading(tokenizer, lambda text: reference.encode(text).ids, f"{title}: {present[0]}", settings)
    elif present[0].endswith(".model"):
        tokenizer = _of_sentencepiece(folder / present[0], title, settings, config)
    else:
        tokenizer = _of_vocabulary(folder, title, present, settings, config)
    return settled(tokenizer)


def settled(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The same tokenizer, its randomness off: one text, one reading."""
    if getattr(tokenizer, "is_fast", False):  # models that are given tokens, not texts, have none
        _calm(tokenizer.backend_tokenizer)
    return tokenizer


def _calm(backend: Tokenizer) -> Tokenizer:
    backend.no_truncation()
    backend.no_padding()
    for name in _RANDOMNESS:
        if getattr(backend.model, name, None) is not None:
            setattr(backend.model, name, None)
    return backend


def _names(backend: Tokenizer, settings: Mapping[str, Any], config: PreTrainedConfig) -> dict[str, str]:
    """The special tokens that only config.json tells."""
    numbers = {name: getattr(config, f"{name}_id", None) for name in ("bos_token", "eos_token")}
    found = {
        name: backend.id_to_token(number)
        for name, number in numbers.items()
        if name not in settings and isinstance(number, int) and number >= 0
    }
    return {name: token for name, token in found.items() if token is not None}


def _check_reading(
    tokenizer: PreTrainedTokenizerBase,
    own: Callable[[str], list[int]],
    file: str,
    settings: Mapping[str, Any],
    special: bool = True,
) -> None:
    """Refuse a tokenizer that reads a text otherwise than the folder's ``file``, whose tokens ``own`` gives."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if not token.special]
    settled(tokenizer)
    for text in (*_PROBES, *(f"a{content} b" for content in added)):
        if tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"] != own(text):
            raise ModelError(
                f"{file} reads {text!r} otherwise than {settings['tokenizer_class'] or type(tokenizer).__name__}, as "
                "tokenizer_config.json and added_tokens.json set it up; take all tokenizer files from one place"
            )


# ------------------------------------------------------------------------------------- folders without a tokenizer.json


def _of_vocabulary(
    folder: Path, title: str, present: list[str], settings: Mapping[str, Any], config: PreTrainedConfig
) -> PreTrainedTokenizerBase:
    """By the class that wrote the files; a bare vocab.txt is BERT's, in lower case if all of its words are."""
    tokenizer: PreTrainedTokenizerBase
    if "vocab.json" in present and not (folder / "merges.txt").is_file():
        raise ModelError(
            f"{title} holds vocab.json without its merges.txt; put all of the original's tokenizer files into it"
        )
    if present == ["vocab.txt"] and settings["tokenizer_class"] is None:
        words = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        cased = any(word != word.lower() for word in words if not word.startswith("["))
        tokenizer = BertTokenizer.from_pretrained(folder, **{"do_lower_case": not cased, **settings})
    else:
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False)
    wanted = {name for what, name in tokenizer.vocab_files_names.items() if what != "tokenizer_file"}
    missing = sorted(name for name in wanted if not (folder / name).is_file())
    if missing:
        raise ModelError(
            f"{title} lacks {', '.join(missing)}, a file of {type(tokenizer).__name__}, and has {', '.join(present)}; "
            "put the original's tokenizer files into it, or name their tokenizer_class in tokenizer_config.json"
        )
    return tokenizer


def _of_sentencepiece(
    file: Path, title: str, settings: Mapping[str, Any], config: PreTrainedConfig
) -> PreTrainedTokenizerBase:
    """As the model file says itself, normalization and all; compared with sentencepiece's own reading."""
    declared = settings["tokenizer_class"] and settings["tokenizer_class"].removesuffix("Fast")
    if declared not in _PLAIN_SENTENCEPIECE:
        raise ModelError(
            f"{title}: {declared} does more than its {file.name} tells; put a tokenizer.json into the folder"
        )
    if find_spec("sentencepiece") is None or find_spec("google.protobuf") is None:
        raise ModelError(
            f"{title} keeps its tokenizer in {file.name}, and sentencepiece, which reads it, is not installed: "
            "pip install 'caploc[sentencepiece]', or put a tokenizer.json into the folder"
        )
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(file.read_bytes())
    backend = _converted(proto, bool(settings.get("do_lower_case")))
    numbers = {
        "bos": proto.trainer_spec.bos_id,
        "eos": proto.trainer_spec.eos_id,
        "unk": proto.trainer_spec.unk_id,
    }
    names = {f"{name}_token": backend.id_to_token(number) for name, number in numbers.items() if number >= 0}
    for name, value in settings.items():
        token = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(token, str):
            names[name] = token
    names |= _names(backend, settings, config)
    begins = declared in _BEGINNING or (declared is None and config.model_type in _BEGINNING)
    bos = names.get("bos_token")
    if bos is not None and settings.get("add_bos_token", begins):
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **names)
    own = SentencePieceProcessor(model_file=str(file))
    lower = str.lower if settings.get("do_lower_case") else str
    _check_reading(
        tokenizer, lambda text: own.encode(lower(text)), f"{title}: {file.name}", settings, special=False
    )
    return tokenizer


def _converted(proto: Any, lower: bool) -> Tokenizer:
    """The `tokenizers.Tokenizer` that a sentencepiece model describes."""
    trained, rule = proto.trainer_spec, proto.normalizer_spec
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    if trained.model_type == trained.UNIGRAM:
        model: models.Model = models.Unigram(pieces, trained.unk_id, trained.byte_fallback)
    else:
        numbers = {piece: number for number, (piece, _) in enumerate(pieces)}
        merges = [
            (-score, len(piece[:at]), piece[:at], piece[at:])
            for piece, score in pieces
            for at in range(1, len(piece))
            if piece[:at] in numbers and piece[at:] in numbers
        ]
        model = models.BPE(
            numbers,
            [(left, right) for *_, left, right in sorted(merges)],
            unk_token=pieces[trained.unk_id][0],
            fuse_unk=True,
            byte_fallback=trained.byte_fallback,
        )
    steps: list[normalizers.Normalizer] = [normalizers.Lowercase()] if lower else []
    if rule.precompiled_charsmap:
        steps.append(normalizers.Precompiled(rule.precompiled_charsmap))
    if rule.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if rule.add_dummy_prefix:
        steps.append(normalizers.Prepend("▁"))
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    made = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(
        [*made, *([decoders.Strip(" ", 1, 0)] if rule.add_dummy_prefix else [])]
    )
    for piece in proto.pieces:
        if piece.type in (piece.CONTROL, piece.USER_DEFINED):
            control = piece.type == piece.CONTROL
            backend.add_tokens([AddedToken(piece.piece, normalized=False, special=control)])
    return backend
