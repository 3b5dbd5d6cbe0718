"""Ensemble: mean logits of one network or several, over mirror images, and over tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from textseg.batch import Batch, SegmentationOutput, TextFeatures
from textseg.encoders import NoText, reads_text
from textseg.errors import UserError, check_choice
from textseg.models.base import SegmentationModule
from textseg.models.tiles import Tiles, tile_logits, tiled_logits
from textseg.preprocess import Bytes, Resize, read_image

Tta = Literal["none", "flip"]
MirrorText = Callable[[str], str | None]
"""A caption to that of the mirrored image; None where it cannot be rewritten safely."""


class Ensemble(SegmentationModule):
    """Averages logits at test time; it is tested and predicts, and is never trained.

    With tta="flip" a network also runs on the image mirrored left-right, under the caption that
    `mirror_text` gives; its logits are mirrored back, and the mean of the two is the network's. An
    image whose caption cannot be rewritten is not mirrored. A network without text needs no words.

    The mean over networks weighs each alike. They run one after the other, so that beyond their
    weights memory is that of the largest, and time is the sum. The loss of a test is Dice + BCE of
    the mean.

    Args:
        members: networks with their weights, which take the same images; the protocol of the first
            scores a test.
        names: of the members, for results.
        tta: test-time augmentation.
        tiles: a larger picture is seen through them, at its own resolution, in tests and
            predictions; each is read with the whole caption. The loss of a test stays that of the
            whole picture.
        mirror_text: for tta="flip", such as `datamodules.captions.modes.swap_sides`.

    Raises:
        UserError: tta is unknown, or a member reads text and `mirror_text` is missing.
    """

    def __init__(
        self,
        members: Sequence[SegmentationModule],
        *,
        names: Sequence[str] = (),
        tta: Tta = "none",
        tiles: Tiles | None = None,
        mirror_text: MirrorText | None = None,
    ) -> None:
        # Not by super(): Lightning would copy the members into hparams.
        first = members[0]
        SegmentationModule.__init__(
            self, protocol=first.protocol, nsd_tolerance=first.nsd_tolerance
        )
        check_choice("tta", tta, Tta)
        reading = [member for member in members if reads_text(member)]
        if tta == "flip" and reading and mirror_text is None:
            raise UserError(
                f"tta='flip' with {reading[0].network_name}, which reads words, needs mirror_text",
                "give a function from a caption to that of the mirrored image, such as "
                "datamodules.captions.modes.swap_sides",
            )
        self.members = nn.ModuleList(members)
        self.tta = tta
        self.tiles = tiles
        if len(members) > 1:
            self.ensemble = tuple(names or (member.network_name for member in members))
        if not reading:
            self.text_encoder = NoText()
        self._mirror_text: MirrorText = mirror_text or str  # str leaves a caption as it is

    @property
    def network_name(self) -> str:
        """The members' classes, each once: "TMC + LAVT"."""
        return " + ".join(dict.fromkeys(member.network_name for member in self._networks()))

    def forward(self, image: Tensor, text: Sequence[str]) -> SegmentationOutput:
        """image [B, 3, H, W] in [0, 1] and B captions -> mean logits [B, 1, H, W], float32."""
        logits = [self._logits(member, image, text) for member in self._networks()]
        return SegmentationOutput(torch.stack(logits).mean(dim=0), {})

    def _logits(self, member: SegmentationModule, image: Tensor, text: Sequence[str]) -> Tensor:
        if self.tta == "none":
            return member(image, text).logits.float()
        return mean_with_mirror(
            member, image, text, self._mirror_text if reads_text(member) else str
        )

    def picture_logits(self, logits: Tensor, batch: Batch) -> Tensor | list[Tensor]:
        """As of any network, but of pictures larger than a tile by their tiles: [1, H0, W0]."""
        planes = super().picture_logits(logits, batch)
        if self.tiles is None:
            return planes
        resize: Resize = "pad" if "frame" in batch else "stretch"
        return [
            self.tiled(read_image(Path(file)), text, like=batch["image"], resize=resize)[None]
            if self.tiles.needed(size)
            else plane
            for plane, size, file, text in zip(
                planes, batch["original_size"].tolist(), batch["file"], batch["text"], strict=True
            )
        ]

    def tiled(
        self, picture: Bytes, text: str, *, like: Tensor, resize: Resize, batch_size: int = 8
    ) -> Tensor:
        """Logits [H0, W0] of a picture [H0, W0, 3] by its tiles; see `tiled_logits`."""
        assert self.tiles is not None
        predict = partial(tile_logits, self, text=text, like=like, resize=resize)
        return tiled_logits(picture, self.tiles, predict, device=like.device, batch_size=batch_size)

    def unmirrored(self, captions: Sequence[str]) -> int:
        """How many captions `tta` leaves unmirrored, because they cannot be rewritten."""
        if self.tta == "none" or not reads_text(self):
            return 0
        return sum(self._mirror_text(caption) is None for caption in captions)

    def prepare_captions(self, captions: Sequence[str], *, training: bool) -> None:
        """Show the captions to every text encoder; say what mirror and tiles do to them."""
        for member in self._networks():
            member.prepare_captions(captions, training=training)
        count = self.unmirrored(captions)
        if count:
            rank_zero_warn(
                f"tta={self.tta}: {count} of {len(captions)} captions could not be mirrored; their "
                "images are not mirrored either"
            )
        if self.tiles is not None and reads_text(self):
            named = sum(self._mirror_text(caption) != caption for caption in captions)
            rank_zero_warn(
                f"{self.tiles}: of a larger picture each is read with the whole caption, so that "
                "words for a place in the picture (left, upper) are taken for a place in every "
                f"tile; {named} of {len(captions)} captions name a side, or may"
            )

    def token_mask(self, text: Sequence[str], word: str | None) -> Tensor:
        """As of the first member."""
        return self._networks()[0].token_mask(text, word)

    def explain(
        self, image: Tensor, text: Sequence[str], word: str | None = None
    ) -> dict[str, Tensor]:
        """Maps of a single member for the image as it is; see `SegmentationModule.explain`.

        Raises:
            UserError: there are several members, whose maps have no common meaning.
        """
        if self.ensemble:
            raise UserError(
                f"an ensemble of {len(self.ensemble)} networks has no maps of its own to explain",
                "explain one of them: give its checkpoint alone",
            )
        return self._networks()[0].explain(image, text, word)

    def encode_text(self, text: Sequence[str]) -> TextFeatures:
        """There are no features of an ensemble: every member has its own text encoder."""
        raise NotImplementedError

    def forward_features(self, image: Tensor, text: TextFeatures) -> SegmentationOutput:
        """There is no tensor part of an ensemble: every member has its own features."""
        raise NotImplementedError

    def parameter_groups(
        self,
        *,
        lr: float,
        weight_decay: float,
        pretrained_lr_scale: float,
        text_lr_scale: float | None = None,
    ) -> list[dict[str, Any]]:
        """Nothing is trained.

        Raises:
            UserError: always.
        """
        raise UserError("an ensemble is not trained", "train its members one by one")

    def _networks(self) -> list[Any]:
        return list(self.members)


def mean_with_mirror(
    network: nn.Module, image: Tensor, text: Sequence[str], mirror_text: MirrorText
) -> Tensor:
    """Mean logits [B, 1, H, W] of an image and its mirror image, (f(x, t) + M f(M x, m(t))) / 2.

    M mirrors left-right, m is `mirror_text`. Where m(t) is None a row's logits are f(x, t).

    Args:
        network: gives a SegmentationOutput of image and text.
        image: [B, 3, H, W].
        text: B captions.
        mirror_text: rewrites a caption, or gives None.
    """
    logits: Tensor = network(image, text).logits.float()
    mirrored = [mirror_text(caption) for caption in text]
    if all(caption is None for caption in mirrored):
        return logits
    # Rows without a mirrored caption run along: a batch of another size may round otherwise.
    pairs = zip(text, mirrored, strict=True)
    captions = [own if other is None else other for own, other in pairs]
    back: Tensor = network(image.flip(-1), captions).logits.float().flip(-1)
    rewritten = torch.tensor([caption is not None for caption in mirrored], device=logits.device)
    return torch.where(rewritten[:, None, None, None], (logits + back) / 2, logits)
