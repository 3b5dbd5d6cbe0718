"""Captions to word features, encoded once each where the encoder is frozen."""

from __future__ import annotations

import json
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from textseg.batch import TextFeatures
from textseg.encoders.pretrained import (
    build,
    config_from,
    layers_of,
    load,
    load_tokenizer,
    scratch_config,
    takes_4d_mask,
)
from textseg.encoders.restore import restored_text_state
from textseg.encoders.unknown_words import encoded_once, unknown_shares, unknown_warning
from textseg.encoders.vocabulary import SCRATCH, SPECIAL, build_tokenizer, least_size, words_of
from textseg.errors import UserError, check_at_least
from textseg.preprocess import word_spans

CACHED_CAPTIONS = 8192


class TextEncoderBase(nn.Module):
    """What a network asks of a text encoder; a subclass gives `dim`, `forward` and `word_mask`.

    Any other module with these attributes will do as well.

    Attributes:
        dim: width D of the token features.
        pretrained: whether it started from published weights; then it is frozen by default, and
            trained at `text_lr_scale` of the rate otherwise.
    """

    dim: int
    pretrained: bool = False

    def forward(self, text: Sequence[str]) -> TextFeatures:
        """B captions to tokens [B, L, D], mask [B, L] (True for a real token) and pooled [B, D]."""
        raise NotImplementedError

    def word_mask(self, text: Sequence[str], word: str | None) -> Tensor:
        """Tokens of `word` in each caption, or of all content words if it is None: [B, L] bool."""
        raise NotImplementedError

    def prepare_captions(self, captions: Sequence[str], *, training: bool) -> None:
        """Learn from the captions of a stage before its first batch; by default nothing.

        Args:
            captions: all of them, repeats included.
            training: whether they are those of the training split.
        """

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Parameters that started from published weights."""
        return list(self.parameters()) if self.pretrained else []

    @property
    def frozen(self) -> bool:
        """Whether no parameter is trained."""
        return not any(parameter.requires_grad for parameter in self.parameters())

    def freeze(self) -> None:
        """Keep the weights as they are, random ones too."""
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        self.eval()

    def unfreeze_layers(self, count: int) -> None:
        """Train the last `count` layers of a frozen encoder; by default there are none.

        Raises:
            UserError: the encoder has fewer layers, or none that it knows.
        """
        raise UserError(
            f"unfreeze_text_layers={count}: {type(self).__name__} has no layers to unfreeze",
            "leave it out, or give the encoder a method unfreeze_layers(count)",
        )


class NoText(TextEncoderBase):
    """Stands in for a text encoder in an image-only network: a caption is one token of width 0."""

    dim = 0
    _device: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_device", torch.empty(0), persistent=False)

    def forward(self, text: Sequence[str]) -> TextFeatures:
        """B captions to tokens [B, 1, 0], mask [B, 1] and pooled [B, 0]."""
        device = self._device.device
        return TextFeatures(
            torch.zeros(len(text), 1, 0, device=device),
            torch.ones(len(text), 1, dtype=torch.bool, device=device),
            torch.zeros(len(text), 0, device=device),
        )

    def word_mask(self, text: Sequence[str], word: str | None) -> Tensor:
        """The one token of each caption: [B, 1].

        Raises:
            UserError: a word is asked for.
        """
        if word is not None:
            raise UserError(
                f"word={word!r} cannot be explained: the network reads no words",
                "leave word out; saliency is drawn for every network",
            )
        return self(text).mask


def reads_text(network: nn.Module) -> bool:
    """Whether a network reads words: an image-only one has `NoText` for its text encoder."""
    return not isinstance(getattr(network, "text_encoder", None), NoText)


class TextEncoder(TextEncoderBase):
    """A BERT: captions to token features of a fixed length.

    Args:
        name: ``scratch``, a local folder, or a hub name.
        pretrained: load the published weights; without them the architecture is kept and trained.
        max_tokens: length L to which every caption is padded or cut, special tokens included.
        vocab_size: rows of the vocabulary of ``scratch``.
        dim: width of ``scratch``.
        depth: layers of ``scratch``.

    Raises:
        UserError: the name can be neither found locally nor fetched.
    """

    model: Any

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
        check_at_least("vocab_size", vocab_size, len(SPECIAL) + 1)
        self._begin(name, max_tokens, pretrained=pretrained)
        tokenizer: Tokenizer | None = None
        state = restored_text_state()
        if state is not None:
            self.model = build(config_from(json.loads(state["config"])))
            self.set_extra_state(state)
        elif name == SCRATCH:
            self.model = build(scratch_config(vocab_size, dim, depth))
        else:
            self.model, tokenizer = load(name, pretrained)
        self._mask_4d = takes_4d_mask(self.model)
        longest = self.model.config.max_position_embeddings
        if not 3 <= max_tokens <= longest:
            raise UserError(
                f"max_tokens={max_tokens} is not in 3..{longest}, what {name!r} can take",
                "give a number in between; 32 fits the captions of all four datasets",
            )
        if tokenizer is not None:
            self._set_tokenizer(tokenizer)
        self.dim: int = self.model.config.hidden_size

    def _begin(self, name: str, max_tokens: int, *, pretrained: bool) -> None:
        """What there is before a model and a tokenizer."""
        self.name = name
        self.max_tokens = max_tokens
        self.pretrained = pretrained and name != SCRATCH
        self._random = not self.pretrained  # until it is trained or loaded
        self._tokenizer: Tokenizer | None = None
        self._cache: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()
        self._unfrozen: tuple[nn.Module, ...] = ()  # trained parts of an encoder that is frozen

    def requires_grad_(self, requires_grad: bool = True) -> TextEncoder:
        """Train the parameters or not, except that random weights cannot be frozen; see `freeze`.

        Raises:
            UserError: the weights are neither published nor restored nor trained.
        """
        if self._random and not requires_grad:
            raise UserError(
                f"freeze_text: true would keep text_encoder={self.name!r} at random weights"
                + ("" if self.name == SCRATCH else " (pretrained: false)"),
                "leave freeze_text out, or give a published text_encoder with pretrained: true; "
                "to measure cost only: textseg benchmark --freeze_text true",
            )
        return super().requires_grad_(requires_grad)

    def unfreeze_layers(self, count: int) -> None:
        """Train the last `count` layers, and a norm after them if there is one.

        What is below stays frozen and in eval mode, without dropout; the trained layers follow the
        network's mode. Captions are no longer encoded once each: the whole encoder runs in every
        step, in the training's precision.

        Raises:
            UserError: the encoder has fewer layers, or they cannot be told apart.
        """
        layers, norms = layers_of(self.model)
        if count > len(layers):
            raise UserError(
                f"unfreeze_text_layers={count}, but text_encoder={self.name!r} has "
                + (f"{len(layers)} layers" if layers else "no list of layers that is known"),
                f"give up to {len(layers)}; freeze_text: false trains all of it",
            )
        self._unfrozen = (*layers[len(layers) - count :], *norms)
        for part in self._unfrozen:
            part.requires_grad_(True)

    def train(self, mode: bool = True) -> TextEncoder:
        """Training mode, except for what stays frozen below layers that are trained."""
        super().train(mode and not self._unfrozen)
        for part in self._unfrozen:
            part.train(mode)
        return self

    @property
    def needs_vocabulary(self) -> bool:
        """Whether `learn_vocabulary` must be called before the first forward."""
        return self._tokenizer is None

    def prepare_captions(self, captions: Sequence[str], *, training: bool) -> None:
        """Learn a missing vocabulary from the training captions; warn of cut and unknown words."""
        if self.needs_vocabulary and training:
            self.learn_vocabulary(captions)
        if self.needs_vocabulary:
            return
        count = self.count_truncated(captions)
        if count:
            warnings.warn(
                f"{count} of {len(captions)} captions are longer than max_tokens={self.max_tokens} "
                "and are cut; raise max_tokens to keep their ends",
                stacklevel=2,
            )
        unknown = unknown_warning(self._require_tokenizer(), captions)
        if unknown is not None:
            remedy = self._remedy(captions, training=training)
            warnings.warn(f"{unknown}; {remedy}", stacklevel=2)

    def _remedy(self, captions: Sequence[str], *, training: bool) -> str:
        """What to do about unknown words."""
        if self.name != SCRATCH:
            return "give a text_encoder that was trained on their language"
        if training and (least := least_size(captions)) > self.model.config.vocab_size:
            return f"set vocab_size to {least} or more, which holds every letter"
        return "use the words and the language of the captions that it was trained on"

    def unknown_shares(self, captions: Sequence[str]) -> list[float]:
        """Share of each caption's tokens that are [UNK], in [0, 1]."""
        return unknown_shares(self._require_tokenizer(), captions)

    def learn_vocabulary(self, captions: Sequence[str]) -> None:
        """Build the word-piece vocabulary of ``scratch`` from the training captions."""
        self._set_tokenizer(build_tokenizer(captions, self.model.config.vocab_size))

    def vocabulary(self) -> list[str]:
        """Words and pieces of words that the tokenizer knows, special tokens included."""
        return list(self._require_tokenizer().get_vocab())

    def count_truncated(self, captions: Sequence[str]) -> int:
        """How many captions are longer than `max_tokens`."""
        times = Counter(captions)
        encoded = encoded_once(self._require_tokenizer(), times)
        return sum(times[caption] for caption, encoding in encoded if encoding.overflowing)

    def forward(self, text: Sequence[str]) -> TextFeatures:
        """B captions to tokens [B, L, D], mask [B, L] and pooled [B, D], L = max_tokens.

        A frozen encoder runs once for each distinct caption, alone and in fp32, so that a feature
        depends neither on the rest of its batch nor on the precision of the training. Up to
        CACHED_CAPTIONS features stay on the device: 0.1 MB each for a BERT-base at L = 32.

        An empty caption is its special tokens.
        """
        if self.frozen:
            tokens, mask = self._cached(text)
        else:
            self._cache.clear()  # what was kept before a thaw is out of date
            self._random = self._random and not self.training
            tokens, mask = self._encode(text)
        return TextFeatures(tokens, mask, masked_mean(tokens, mask))

    def word_mask(self, text: Sequence[str], word: str | None) -> Tensor:
        """Tokens of `word` in each caption, or of all content words if it is None: [B, L] bool.

        Content words are all but the special tokens. A caption without any is given its special
        tokens, so that no row is empty.

        Args:
            text: B captions.
            word: a word or phrase, in any case; all of its occurrences count.

        Raises:
            UserError: a caption does not hold `word` within `max_tokens`.
        """
        rows = [self._tokens_of(caption, word) for caption in text]
        return torch.tensor(rows, dtype=torch.bool, device=self.model.device)

    def _tokens_of(self, caption: str, word: str | None) -> list[bool]:
        encoding = self._require_tokenizer().encode(caption)
        real = [bool(on) for on in encoding.attention_mask]
        kinds = zip(real, encoding.special_tokens_mask, strict=True)
        content = [on and not special for on, special in kinds]
        if word is None:
            return content if any(content) else real
        spans = word_spans(caption, word)
        chosen = [
            on and any(start < last and first < end for first, last in spans)
            for on, (start, end) in zip(content, encoding.offsets, strict=True)
        ]
        if not any(chosen):
            raise UserError(
                f"the caption {caption!r} does not hold the word {word!r} "
                f"within its first {self.max_tokens} tokens",
                "give a word of the caption, or leave word out for all words together",
            )
        return chosen

    def _encode(self, text: Sequence[str]) -> tuple[Tensor, Tensor]:
        encodings = self._require_tokenizer().encode_batch(list(text))
        host = torch.tensor([[e.ids for e in encodings], [e.attention_mask for e in encodings]])
        on_gpu = self.model.device.type == "cuda"
        host = host.pin_memory() if on_gpu else host  # or the copy would wait for the GPU's work
        ids, real = host.to(self.model.device, non_blocking=on_gpu)  # [B, L] each
        mask = real.bool()
        return self.encode_ids(ids, mask), mask

    def encode_ids(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Features [B, L, D] of token ids [B, L] and their mask [B, L], True for a real token."""
        attend = mask[:, None, None, :].expand(-1, 1, mask.shape[1], -1) if self._mask_4d else mask
        tokens: Tensor = self.model(input_ids=ids, attention_mask=attend).last_hidden_state
        return tokens

    def _cached(self, text: Sequence[str]) -> tuple[Tensor, Tensor]:
        device = self.model.device
        features = {caption: self._cache.pop(caption, None) for caption in dict.fromkeys(text)}
        for caption, feature in features.items():
            if feature is None or feature[0].device != device:
                feature = features[caption] = self._encode_alone(caption)
            self._cache[caption] = feature  # the newest go last
        while len(self._cache) > CACHED_CAPTIONS:
            self._cache.popitem(last=False)
        tokens, masks = zip(*(features[caption] for caption in text), strict=True)
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

    def _set_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Pad and cut to `max_tokens` from now on."""
        self._tokenizer = tokenizer
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
        """Config and tokenizer as text, for the state_dict."""
        tokenizer = "" if self._tokenizer is None else self._tokenizer.to_str()
        return {"config": self.model.config.to_json_string(), "tokenizer": tokenizer}

    def set_extra_state(self, state: Any) -> None:
        """Restore what `get_extra_state` gave."""
        self._cache.clear()
        self._random = False  # a checkpoint's weights come with its config
        if state["tokenizer"]:
            self._set_tokenizer(Tokenizer.from_str(state["tokenizer"]))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> TextEncoder:
        self._cache.clear()  # the weights move or change precision
        return super()._apply(fn, recurse)


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens that are not padding: [B, L, D] and [B, L] -> [B, D]."""
    weight = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weight).sum(1) / weight.sum(1)


def token_counter(name: str) -> Callable[[str], int]:
    """A function that counts a caption's tokens, special ones included.

    Args:
        name: ``scratch`` counts words and punctuation marks, the fewest that any encoder needs; a
            local folder or hub name counts by its own tokenizer.

    Raises:
        UserError: the tokenizer cannot be loaded.
    """
    if name == SCRATCH:
        return lambda caption: len(words_of(caption)) + 2
    tokenizer = load_tokenizer(name)
    return lambda caption: len(tokenizer.encode(caption).ids)
