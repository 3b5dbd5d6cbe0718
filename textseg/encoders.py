"""Image encoders from timm and text encoders from transformers: the only file importing either.

A text encoder is one of
  * ``scratch``: a small BERT trained with the network, its word-piece vocabulary built from the
    training captions;
  * a local folder or a hub name: weights-only, never running code that comes with the weights.

Whichever it is, its config and its tokenizer are kept as text in the network's ``state_dict``, so
that a checkpoint is rebuilt without any hub (`restoring`).
"""

from __future__ import annotations

import inspect
import json
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import FeatureListNet
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    PretrainedConfig,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from textseg.batch import TextFeatures
from textseg.errors import UserError

SCRATCH = "scratch"
CACHED_CAPTIONS = 8192
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_restored: ContextVar[Mapping[str, Any] | None] = ContextVar("_restored", default=None)


@contextmanager
def restoring(state_dict: Mapping[str, Any]) -> Iterator[None]:
    """While open, encoders are built as `state_dict` describes them and nothing is fetched.

    The weights themselves are left random: the caller loads `state_dict` next.
    """
    token = _restored.set(state_dict)
    try:
        yield
    finally:
        _restored.reset(token)


class Normalize(nn.Module):
    """Pixels in [0, 1] to zero mean and unit variance by channel; no state in the checkpoint."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std


class ImageEncoder(nn.Module):
    """A timm network as a feature pyramid.

    Args:
        name: a timm model name.
        pretrained: fetch its published weights.
        options: further arguments of ``timm.create_model``, such as ``drop_path_rate``.

    Attributes:
        channels, strides: of each stage, fine to coarse.

    Raises:
        UserError: the name is unknown, has no feature pyramid, or its weights cannot be fetched.
    """

    takes_text = False

    def __init__(
        self, name: str, *, pretrained: bool = True, options: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        fetch = pretrained and _restored.get() is None
        settings = dict(options or {})
        if "swin" in name:
            settings.setdefault("strict_img_size", False)
        if not timm.is_model(name):
            near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
            raise UserError(
                f"image_encoder={name!r} is not a timm model", f"did you mean one of {near}?"
            )
        try:
            self.body: Any = timm.create_model(
                name, pretrained=fetch, features_only=True, **settings
            )
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"image_encoder={name!r} could not be built ({_first_line(error)})",
                "connect to the hub once so that the weights are cached, or set pretrained: false",
            ) from error
        self.pretrained = pretrained
        self.channels: tuple[int, ...] = tuple(self.body.feature_info.channels())
        self.strides: tuple[int, ...] = tuple(self.body.feature_info.reduction())
        self.normalize = Normalize(
            *(self.body.pretrained_cfg.get(key) or default for key, default in _IMAGENET.items())
            if hasattr(self.body, "pretrained_cfg")
            else ()
        )
        self._nhwc = str(getattr(self.body.output_fmt, "value", self.body.output_fmt)) == "NHWC"

    def forward(
        self, image: Tensor, fuse: Callable[[int, Tensor], Tensor] | None = None
    ) -> list[Tensor]:
        """Feature maps fine to coarse.

        Args:
            image: [B, 3, H, W] in [0, 1].
            fuse: ``fuse(i, x) -> x`` runs after stage i on [B, C_i, H/s_i, W/s_i]; its result is
                the stage's feature and the next stage's input.

        Returns:
            A list of [B, C_i, H/s_i, W/s_i].
        """
        x = self.normalize(image)
        if fuse is None:
            return [self._nchw(feature) for feature in self.body(x)]
        if not isinstance(self.body, FeatureListNet):
            raise UserError(
                f"image_encoder {type(self.body).__name__} cannot be stepped stage by stage",
                "choose a ConvNeXt, ResNet or Swin for networks that fuse text inside the encoder",
            )
        features: list[Tensor] = []
        for stage, module in self.body.items():
            x = module(x)
            if stage in self.body.return_layers:
                fused = fuse(len(features), self._nchw(x))
                features.append(fused)
                x = fused.permute(0, 2, 3, 1) if self._nhwc else fused
        return features

    def _nchw(self, feature: Tensor) -> Tensor:
        return feature.permute(0, 3, 1, 2).contiguous() if self._nhwc else feature


_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class NoText(nn.Module):
    """Stands in for a text encoder in an image-only network: every caption is one empty word."""

    dim = 0
    pretrained = False
    _device: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_device", torch.empty(0), persistent=False)

    def forward(self, text: Sequence[str]) -> TextFeatures:
        device = self._device.device
        return TextFeatures(
            torch.zeros(len(text), 1, 0, device=device),
            torch.ones(len(text), 1, dtype=torch.bool, device=device),
            torch.zeros(len(text), 0, device=device),
        )


class TextEncoder(nn.Module):
    """Captions to word features of a fixed length.

    Args:
        name: ``scratch``, a local folder, or a hub name.
        pretrained: load the published weights; without them the architecture is kept and trained.
        max_tokens: length L to which every caption is padded or cut, special tokens included.
        vocab_size: rows of the vocabulary of ``scratch``.
        dim: width of ``scratch``.
        depth: layers of ``scratch``.

    Attributes:
        dim: width D of the word features.
        pretrained: whether it came with weights.

    Raises:
        UserError: the name can be neither found locally nor fetched.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = True,
        max_tokens: int = 32,
        vocab_size: int = 512,
        dim: int = 128,
        depth: int = 2,
    ) -> None:
        super().__init__()
        self.name = name
        self.max_tokens = max_tokens
        self.pretrained = pretrained and name != SCRATCH
        self._tokenizer: Tokenizer | None = None
        self._cache: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()
        self.model: Any
        restored = _restored.get()
        if restored is not None:
            state = _text_state(restored)
            self.model = _build(_config_from(json.loads(state["config"])))
            self.set_extra_state(state)
        elif name == SCRATCH:
            self.model = _build(
                BertConfig(
                    vocab_size=vocab_size,
                    hidden_size=dim,
                    num_hidden_layers=depth,
                    num_attention_heads=4,
                    intermediate_size=2 * dim,
                    max_position_embeddings=512,
                )
            )
        else:
            self.model, self._tokenizer = _load(name, pretrained)
            self._fix_length()
        self.dim: int = self.model.config.hidden_size

    @property
    def frozen(self) -> bool:
        """Whether no parameter is trained: then a caption is encoded once and kept."""
        return not any(parameter.requires_grad for parameter in self.parameters())

    @property
    def needs_vocabulary(self) -> bool:
        """Whether captions must be shown to `learn_vocabulary` before the first forward."""
        return self._tokenizer is None

    def learn_vocabulary(self, captions: Sequence[str]) -> None:
        """Build the word-piece vocabulary of ``scratch`` from the training captions.

        The same captions give the same vocabulary, in any process.
        """
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=self.model.config.vocab_size, special_tokens=_SPECIAL, show_progress=False
        )
        tokenizer.train_from_iterator(sorted(set(captions)), trainer)
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")],
        )
        self._tokenizer = tokenizer
        self._fix_length()

    def count_truncated(self, captions: Sequence[str]) -> int:
        """How many captions are longer than `max_tokens`."""
        tokenizer = self._require_tokenizer()
        return sum(bool(e.overflowing) for e in tokenizer.encode_batch(list(captions)))

    def forward(self, text: Sequence[str]) -> TextFeatures:
        """Encode captions.

        A frozen encoder runs once for each distinct caption, alone and in fp32, so that a feature
        depends neither on the rest of its batch nor on the precision of the training.

        Args:
            text: B captions; an empty one is its special tokens.

        Returns:
            tokens [B, L, D], mask [B, L], pooled [B, D] with L = max_tokens.
        """
        if self.frozen:
            tokens, mask = self._cached(text)
        else:
            tokens, mask = self._encode(text)
        return TextFeatures(tokens, mask, masked_mean(tokens, mask))

    def _encode(self, text: Sequence[str]) -> tuple[Tensor, Tensor]:
        device = self.model.device
        encodings = self._require_tokenizer().encode_batch(list(text))
        ids = torch.tensor([e.ids for e in encodings], device=device)  # [B, L]
        mask = torch.tensor([e.attention_mask for e in encodings], device=device)
        tokens = self.model(input_ids=ids, attention_mask=mask).last_hidden_state  # [B, L, D]
        return tokens, mask.bool()

    def _cached(self, text: Sequence[str]) -> tuple[Tensor, Tensor]:
        device = self.model.device
        kept = [self._cache.pop(caption, None) for caption in dict.fromkeys(text)]
        found = dict(zip(dict.fromkeys(text), kept, strict=True))
        for caption, feature in found.items():
            if feature is None or feature[0].device != device:
                feature = found[caption] = self._encode_alone(caption)
            self._cache[caption] = feature  # the newest go last
        while len(self._cache) > CACHED_CAPTIONS:
            self._cache.popitem(last=False)
        tokens, masks = zip(*(found[caption] for caption in text), strict=True)
        return torch.stack(tokens), torch.stack(masks)

    def _encode_alone(self, caption: str) -> tuple[Tensor, Tensor]:
        # A feature made in inference mode could not be used in training later: leave that mode.
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast(self.model.device.type, enabled=False),
        ):
            tokens, mask = self._encode([caption])
        return tokens[0], mask[0]

    def _fix_length(self) -> None:
        tokenizer = self._require_tokenizer()
        pad = self.model.config.pad_token_id or 0
        tokenizer.enable_truncation(self.max_tokens)
        tokenizer.enable_padding(
            length=self.max_tokens, pad_id=pad, pad_token=tokenizer.id_to_token(pad) or "[PAD]"
        )

    def _require_tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise RuntimeError(
                "the from-scratch text encoder has no vocabulary yet: call learn_vocabulary "
                "with the training captions, or load a checkpoint"
            )
        return self._tokenizer

    def get_extra_state(self) -> dict[str, str]:
        tokenizer = "" if self._tokenizer is None else self._tokenizer.to_str()
        return {"config": self.model.config.to_json_string(), "tokenizer": tokenizer}

    def set_extra_state(self, state: Any) -> None:
        self._cache.clear()
        if state["tokenizer"]:
            self._tokenizer = Tokenizer.from_str(state["tokenizer"])
            self._fix_length()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> TextEncoder:
        self._cache.clear()  # the weights move or change precision
        return super()._apply(fn, recurse)


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean over real tokens: [B, L, D] and [B, L] -> [B, D]."""
    weight = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weight).sum(1) / weight.sum(1)


def _text_state(state_dict: Mapping[str, Any]) -> Mapping[str, str]:
    for key, value in state_dict.items():
        if key.endswith("text_encoder._extra_state"):
            return value
    raise UserError(
        "the checkpoint describes no text encoder",
        "it is of another network: give the config of the run it came from",
    )


def _config_from(values: dict[str, Any]) -> PretrainedConfig:
    """A config class of transformers' own; a custom BERT (CXR-BERT) is read as BERT."""
    kind = str(values.get("model_type", ""))
    if kind in CONFIG_MAPPING:
        config_class = CONFIG_MAPPING[kind]
    elif "bert" in kind.lower():
        config_class = BertConfig
    else:
        raise UserError(
            f"text encoder of type {kind!r} is not one that transformers provides",
            "choose a BERT-like encoder, or text_encoder: scratch",
        )
    known = {k: v for k, v in values.items() if k not in ("auto_map", "model_type")}
    return config_class.from_dict(known)


def _build(config: PretrainedConfig) -> Any:
    kind: Any = BertModel if isinstance(config, BertConfig) else _model_class(config)
    return kind(config, **_without_pooler(kind))


def _model_class(config: PretrainedConfig) -> Any:
    return AutoModel._model_mapping[type(config)]


def _without_pooler(model_class: type) -> dict[str, bool]:
    # An unused pooler has parameters without gradients, which DDP refuses.
    accepted = inspect.signature(model_class).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in accepted else {}


def _load(name: str, pretrained: bool) -> tuple[Any, Tokenizer]:
    try:
        values, _ = PretrainedConfig.get_config_dict(name)
        config = _config_from(values)
        if isinstance(config, BertConfig):
            tokenizer = BertTokenizerFast.from_pretrained(name)
        else:
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model = _build(config)
        if pretrained:
            model = type(model).from_pretrained(
                name, config=config, dtype=torch.float32, **_without_pooler(type(model))
            )
    except UserError:
        raise
    except (OSError, ValueError, ImportError) as error:
        where = "a local folder without" if Path(name).is_dir() else "no local folder and not in"
        what = (
            "a usable config, tokenizer and weights" if Path(name).is_dir() else "the hub's reach"
        )
        raise UserError(
            f"text_encoder={name!r} is {where} {what} ({_first_line(error)})",
            "give a folder saved by transformers, connect to the hub once so that it is cached, "
            "or set text_encoder: scratch",
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"text_encoder={name!r} has no fast tokenizer", "choose an encoder that has one"
        )
    return model, backend


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def warn_of_truncation(encoder: TextEncoder, captions: Sequence[str]) -> None:
    """One warning with the count where captions are cut at `max_tokens`."""
    count = encoder.count_truncated(captions)
    if count:
        warnings.warn(
            f"{count} of {len(captions)} captions are longer than max_tokens="
            f"{encoder.max_tokens} and are cut; raise max_tokens to keep their ends",
            stacklevel=2,
        )
