"""A text encoder whose tokenizer is here and whose weights something else runs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch
from tokenizers import Tokenizer
from torch import Tensor

from textseg.encoders.text import TextEncoder, TextEncoderBase

RunIds = Callable[[Tensor, Tensor], Tensor]
"""Token ids [B, L] int64 and their mask [B, L] bool to features [B, L, D], all on the CPU."""


class ReadyTextEncoder(TextEncoder):
    """Treats captions as the text encoder did that was exported; it is never trained.

    Args:
        run: runs the weights.
        tokenizer: as `TextEncoder.get_extra_state` gives it.
        name: of the encoder that was exported, for messages.
        dim: width D of the features.
        max_tokens: length L of a caption.
        pad_id: the token that captions are padded with.
    """

    def __init__(
        self, run: RunIds, tokenizer: str, *, name: str, dim: int, max_tokens: int, pad_id: int
    ) -> None:
        TextEncoderBase.__init__(self)  # the parent would build a model
        self._begin(name, max_tokens, pretrained=False)
        self._random = False
        self.dim = dim
        config = SimpleNamespace(pad_token_id=pad_id)
        self.model = SimpleNamespace(device=torch.device("cpu"), config=config)
        self._run = run
        self._set_tokenizer(Tokenizer.from_str(tokenizer))

    def encode_ids(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Features [B, L, D] of token ids [B, L] and their mask [B, L], True for a real token."""
        return self._run(ids, mask)
