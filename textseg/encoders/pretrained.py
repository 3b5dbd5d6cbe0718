"""Published text encoders: config, weights and tokenizer, and never code that comes with them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.tokenization_auto import (
    get_tokenizer_config,
    tokenizer_class_from_name,
)
from transformers.utils import cached_file

from textseg.encoders.hub import hub_or_cache, hub_reason
from textseg.errors import UserError, first_line

# Whose files lie in weights/ and are written by hand before the first training.
_OVERLAYS = " (experiments/offline/weights.py writes those of its overlays, see docs/offline.md)"
FINAL_NORMS = ("final_norm", "final_layer_norm", "norm", "ln_f")  # transformers' names of it


def config_from(values: dict[str, Any]) -> PretrainedConfig:
    """A config of transformers' own classes; a custom BERT (CXR-BERT) is read as BERT.

    Raises:
        UserError: transformers has no such type of model.
    """
    kind = str(values.get("model_type", ""))
    if kind in CONFIG_MAPPING:
        config_class = CONFIG_MAPPING[kind]
    elif "bert" in kind.lower():
        config_class = BertConfig
    else:
        raise UserError(
            f"text_encoder is of type {kind!r}, which transformers does not provide",
            "choose a BERT-like encoder, or text_encoder: scratch",
        )
    known = {k: v for k, v in values.items() if k not in ("auto_map", "model_type")}
    return config_class.from_dict(known)


def build(config: PretrainedConfig) -> Any:
    """A model with random weights and without a pooler."""
    own = isinstance(config, BertConfig)
    kind: Any = BertModel if own else AutoModel._model_mapping[type(config)]
    return kind(config, **_without_pooler(kind))


def _without_pooler(model_class: type) -> dict[str, bool]:
    # An unused pooler has parameters without gradients, which DDP refuses.
    accepted = inspect.signature(model_class).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in accepted else {}


def takes_4d_mask(model: Any) -> bool:
    """Whether `model` takes a boolean mask [B, 1, L, L] as it stands.

    Of a mask [B, L] transformers asks in every step whether all is True, and the host waits for the
    answer. Attention other than sdpa would add a boolean mask to its scores, and other models have
    masks of their own.
    """
    own = isinstance(model, BertModel) and not model.config.is_decoder
    return own and model.config._attn_implementation == "sdpa"


def layers_of(model: Any) -> tuple[list[nn.Module], list[nn.Module]]:
    """The transformer layers of a model, first to last, and the norm behind them, if any.

    Both are empty where no list is as long as the config says, as in ALBERT, whose layers share
    their weights.
    """
    count = getattr(model.config, "num_hidden_layers", 0)
    for owner in model.modules():
        for name, layers in owner.named_children():
            if isinstance(layers, nn.ModuleList) and len(layers) == count:
                children = dict(owner.named_children())
                behind = list(children)[list(children).index(name) + 1 :]
                return list(layers), [children[n] for n in behind if n in FINAL_NORMS]
    return [], []


def scratch_config(vocab_size: int, dim: int, depth: int) -> BertConfig:
    """Config of a small BERT without dropout."""
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=dim,
        num_hidden_layers=depth,
        num_attention_heads=4,
        intermediate_size=2 * dim,
        max_position_embeddings=512,
        hidden_dropout_prob=0.0,  # a few hundred templated captions: losing words costs more
        attention_probs_dropout_prob=0.0,
    )


def load(name: str, pretrained: bool) -> tuple[Any, Tokenizer]:
    """Model and tokenizer of a local folder or hub name.

    Args:
        name: of the folder or of the hub's repository.
        pretrained: load its weights; otherwise they are random.

    Raises:
        UserError: something is missing, broken, or does not belong together.
    """
    with _explained("text_encoder", name, ", or set text_encoder: scratch"):
        config, tokenizer = _config_and_tokenizer(name)
        return (_weights(name, config) if pretrained else build(config)), tokenizer


def load_tokenizer(name: str) -> Tokenizer:
    """Tokenizer of a local folder or hub name, without the model; it neither cuts nor pads.

    Raises:
        UserError: it is missing or broken.
    """
    with _explained("tokenizer", name):
        return _config_and_tokenizer(name)[1]


@contextmanager
def _explained(field: str, name: str, otherwise: str = "") -> Iterator[None]:
    """Turn an error of transformers or of the hub into a UserError."""
    local = Path(name).is_dir()
    here = "" if Path(name).is_absolute() else f" below {Path.cwd()}"
    try:
        with nullcontext() if local else hub_or_cache(name):
            yield
    except UserError:
        raise
    except Exception as error:  # missing files, broken ones and an absent hub share no class
        what = (
            f"is a local folder without usable config, tokenizer and weights ({first_line(error)})"
            if local
            else f"is no folder{here} and not in the hub's reach ({hub_reason(error)})"
        )
        raise UserError(
            f"{field}={name!r} {what}",
            f"give a folder saved by transformers{_OVERLAYS if name.startswith('weights/') else ''}"
            f", connect to the hub once so that it is cached{otherwise}",
        ) from error


def _config_and_tokenizer(name: str) -> tuple[PretrainedConfig, Tokenizer]:
    values, _ = PretrainedConfig.get_config_dict(name)
    if not values:
        raise FileNotFoundError("no config.json")
    config = config_from(values)
    return config, _tokenizer(name, config)


def _tokenizer(name: str, config: PretrainedConfig) -> Tokenizer:
    """The tokenizer of transformers' own class, or tokenizer.json where that is of another kind.

    Some classes build a tokenizer anew from the vocabulary alone: a BERT with the SentencePiece
    vocabulary of XLM-R would get word pieces, to which every word is unknown.
    """
    if isinstance(config, BertConfig) and not _has_known_class(name, config):
        tokenizer = BertTokenizerFast.from_pretrained(name)  # of CXR-BERT, whose code is not run
    else:
        own = {"config": config} if isinstance(config, BertConfig) else {}
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **own)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    stored = _stored_tokenizer(name)
    if stored is not None and type(stored.model) is not type(getattr(backend, "model", None)):
        backend = stored
    if backend is None or backend.get_vocab_size() <= len(tokenizer.all_special_tokens):
        raise UserError(
            f"text_encoder={name!r} has no fast tokenizer with a vocabulary",
            "put its tokenizer.json or vocab.txt beside its config, or choose another encoder",
        )
    backend.no_truncation()  # which a file may prescribe
    backend.no_padding()
    return backend


def _has_known_class(name: str, config: PretrainedConfig) -> bool:
    """Whether the tokenizer's class is named, and is a tokenizer of transformers."""
    named = get_tokenizer_config(name).get("tokenizer_class")
    named = named or getattr(config, "tokenizer_class", None) or ""
    plain = named.removesuffix("Fast")
    found = [tokenizer_class_from_name(known) for known in (named, plain, f"{plain}Fast")]
    return any(isinstance(c, type) and issubclass(c, PreTrainedTokenizerBase) for c in found)


def _stored_tokenizer(name: str) -> Tokenizer | None:
    """What tokenizer.json holds; None where there is none."""
    try:
        path = cached_file(name, "tokenizer.json")
    except OSError:  # a folder or a repository with a vocabulary alone
        return None
    return None if path is None else Tokenizer.from_file(path)


def _weights(name: str, config: PretrainedConfig) -> Any:
    kind = type(build(config))
    model, found = kind.from_pretrained(
        name,
        config=config,
        dtype=torch.float32,
        output_loading_info=True,
        **_without_pooler(kind),
    )
    missing = sorted(found["missing_keys"])
    if missing:
        raise UserError(
            f"text_encoder={name!r}: {len(missing)} weights are missing, first {missing[0]!r}",
            "config.json and the weights are of different networks: give a matching folder",
        )
    return model
