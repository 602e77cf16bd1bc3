"""Uses of text that need meaning, tried one at a time by ``ablation.py``; none is part of the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from kornia_tar.network.cfdm import CFDM, Cells, Coarse
from kornia_tar.network.fine import Offset
from kornia_tar.network.msfl import standardise
from kornia_tar.network.net import ImageFeatures, TARConfig, TARNet
from kornia_tar.network.tafe import TAFE, Enhanced, read_ground
from kornia_tar.training.augment import Batch
from kornia_tar.training.losses import LossWeights, step_loss

Loss = Callable[..., tuple[Tensor, dict[str, Tensor]]]


class SceneTAFE(TAFE):
    """What the image as a whole shows picks the prompts: each pixel's map times the image's mean map."""

    def landcover(self, x: Tensor, tokens: Tensor) -> Tensor:
        """(B, C, H, W), (K, C) → (B, K, H, W) probabilities."""
        local = super().landcover(x, tokens)
        joint = local * local.mean(dim=(2, 3), keepdim=True)
        return joint / joint.sum(dim=1, keepdim=True)


class GeometryTAFE(TAFE):
    """A pixel's similarities to all prompts shall look like those of the prompts that it is taken for."""

    penalty: Tensor  # of the last forward pass: 1 - correlation, mean over pixels

    def forward(self, x: Tensor, text: Tensor | None = None) -> Enhanced:
        """As TAFE; where ``text`` (K, D) is given, ``penalty`` is set."""
        found = super().forward(x, text)
        if text is not None:
            # The logarithm of the map is the similarities, but for their scale and mean, which correlation ignores.
            similar = found.landcover.clamp_min(1e-6).log()
            wanted = torch.einsum("bkhw,kj->bjhw", found.landcover.detach(), (text @ text.T).to(similar.dtype))
            a, b = (s.float() - s.float().mean(1, keepdim=True) for s in (similar, wanted))
            self.penalty = 1 - F.cosine_similarity(a, b, dim=1).mean()
        return found


def geometry_loss(
    net: TARNet, batch: Batch, text: Tensor, weights: LossWeights, per_pair: int, generator: Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """``step_loss`` and :class:`GeometryTAFE`'s penalty, as heavy as the other terms of text."""
    loss, log = step_loss(net, batch, text, weights, per_pair, generator)
    assert isinstance(net.tafe, GeometryTAFE)
    term = weights.text * net.tafe.penalty
    return loss + term, log | {"geometry": term.detach()}


class WorthCFDM(CFDM):
    """What the land-cover maps show at both ends of a match has a say in its worth.

    ``fine_head.worth`` (K,) holds the logits per class, divided by SCALE.
    """

    maps: tuple[Tensor, Tensor]  # (B, K, h, w) of image0 and image1
    SCALE = 10.0  # Adam moves a weight by some 0.1 in a short run: too little for a logit

    def refine(self, cells: Cells, coarse: Coarse, fine0: Tensor, fine1: Tensor) -> tuple[Offset, Offset]:
        """As CFDM; the logits of "this match is right" get the ends' classes' own."""
        ends = zip(super().refine(cells, coarse, fine0, fine1), self.maps, (cells.cell0, cells.cell1), strict=True)
        worth = self.SCALE * cast(Tensor, self.fine_head.worth)
        in0, in1 = (
            found._replace(logit=found.logit + m.flatten(2)[cells.batch, :, cell].float() @ worth)
            for found, m, cell in ends
        )
        return in0, in1


class WorthNet(TARNet):
    """TARNet that hands the land-cover maps on to :class:`WorthCFDM`."""

    cfdm: WorthCFDM

    def compare(self, a: ImageFeatures, b: ImageFeatures) -> Coarse:
        """As TARNet."""
        self.cfdm.maps = a.landcover, b.landcover
        return super().compare(a, b)


class OwnWordsTAFE(TAFE):
    """Each word is asked as much as the image bears it: a pixel's map times ``shares``, (B, K), set by the network."""

    shares: Tensor

    def landcover(self, x: Tensor, tokens: Tensor) -> Tensor:
        """(B, C, H, W), (K, C) → (B, K, H, W) probabilities."""
        joint = super().landcover(x, tokens) * self.shares[:, :, None, None]
        return joint / joint.sum(dim=1, keepdim=True)


class OwnWordsNet(TARNet):
    """TARNet whose land-cover head says of each image which words its TAFE shall read."""

    tafe: OwnWordsTAFE
    BY = 0  # words further on whose shares are taken instead: another name's, for a control

    def encode(
        self, image: Tensor, modality: Tensor | None, mask: Tensor | None = None, text: Tensor | None = None,
        words: bool = False,
    ) -> ImageFeatures:  # fmt: skip
        """As TARNet."""
        assert self.landcover is not None
        with torch.no_grad():
            x = standardise(image, mask)
            told = self.msfl.infer_modality(x) if modality is None else modality
            shares = self.landcover(read_ground(self.msfl, x, told, mask), told).mean((2, 3))
        self.tafe.shares = shares.roll(self.BY, 1).clamp_min(1e-3)
        return super().encode(image, modality, mask, text, words)


class OthersWordsNet(OwnWordsNet):
    """The control: as sharp a choice, of the wrong words."""

    BY = 7


class ShuffledTAFE(TAFE):
    """Pixels ask for one name and read another's value; tokens in another order alone would change nothing."""

    def landcover(self, x: Tensor, tokens: Tensor) -> Tensor:
        """(B, C, H, W), (K, C) → (B, K, H, W) probabilities, of the next name each."""
        return super().landcover(x, tokens).roll(1, dims=1)


def with_tafe(kind: type[TAFE]) -> Callable[[TARConfig], TARNet]:
    """A maker of networks with another TAFE of the same parameters, and so of the same random start."""

    def build(config: TARConfig) -> TARNet:
        net = TARNet(config)
        net.tafe.__class__ = kind
        return net

    return build


def with_own_words(kind: type[OwnWordsNet]) -> Callable[[TARConfig], TARNet]:
    """A maker of networks that read what their land-cover head says is there.

    Raises:
        ValueError: the base has none; or one of other words.
    """

    def build(config: TARConfig) -> TARNet:
        head = config.landcover
        if head is None or head.classes != config.tafe.classes:
            raise ValueError(
                "this row asks the land-cover head for the words: give a --base that has one, of the same words"
            )
        net: Any = TARNet(config)
        net.__class__, net.tafe.__class__ = kind, OwnWordsTAFE
        return net  # type: ignore[no-any-return]

    return build


def with_worth(config: TARConfig) -> TARNet:
    """A network whose land-cover maps have a say in the worth of matches, none at the start."""
    net: Any = TARNet(config)
    net.__class__, net.cfdm.__class__ = WorthNet, WorthCFDM
    net.cfdm.fine_head.worth = nn.Parameter(torch.zeros(config.tafe.classes))
    return net  # type: ignore[no-any-return]


def template_loss(per_prompt: np.ndarray) -> Loss:
    """``step_loss`` with the names in one template's words, another one each step.

    Args:
        per_prompt: (T, K, D) features of T templates.
    """
    features = F.normalize(torch.from_numpy(per_prompt).float(), dim=-1)

    def loss(
        net: TARNet, batch: Batch, text: Tensor, weights: LossWeights, per_pair: int, generator: Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        drawn = int(torch.randint(len(features), (), generator=generator, device=generator.device))
        return step_loss(net, batch, features[drawn].to(text.device), weights, per_pair, generator)

    return loss
