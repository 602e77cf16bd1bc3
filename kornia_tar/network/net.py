"""TARNet = MSFL → TAFE → CFDM: two images in, sub-pixel matches out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kornia_tar.conventions import CELL, MODALITIES, STRIDE
from kornia_tar.network.cfdm import CFDM, Cells, CFDMConfig, Coarse, cell_centres, mutual_nearest
from kornia_tar.network.fine import Offset
from kornia_tar.network.layers import Down, RepConv
from kornia_tar.network.msfl import MSFL, Features, MSFLConfig, standardise
from kornia_tar.network.tafe import TAFE, TAFEConfig


@dataclass(frozen=True)
class TARConfig:
    """The three modules' configs, composed."""

    msfl: MSFLConfig = field(default_factory=MSFLConfig)
    tafe: TAFEConfig = field(default_factory=TAFEConfig)
    cfdm: CFDMConfig = field(default_factory=CFDMConfig)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, for the checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TARConfig:
        """Inverse of :meth:`to_dict`; unknown keys raise TypeError."""
        parts = {"msfl": MSFLConfig, "tafe": TAFEConfig, "cfdm": CFDMConfig}
        read = {k: parts[k](**{n: tuple(v) if isinstance(v, list) else v for n, v in values[k].items()}) for k in parts}
        return cls(**read)


SIZES = {
    "XXS": TARConfig(MSFLConfig((16, 32, 64, 96))),  # 0.8 M parameters: ablations on a CPU
    "XS": TARConfig(),  # 3.0 M: what a CPU trains well
    "S": TARConfig(MSFLConfig((40, 80, 160, 256)), cfdm=CFDMConfig(layers=2)),  # 5.3 M
    "M": TARConfig(MSFLConfig((64, 128, 256, 320)), cfdm=CFDMConfig(layers=2)),  # 10.9 M
}


class ImageFeatures(NamedTuple):
    """One image after MSFL and TAFE."""

    coarse: Tensor  # (B, C, h, w) at 1/8, text-enhanced
    fine: Tensor  # (B, C2, 4h, 4w) at 1/2
    landcover: Tensor  # (B, K, h, w)
    mask: Tensor | None  # (B, h, w) bool

    def rows(self, part: slice) -> ImageFeatures:
        """Part of the batch."""
        mask = None if self.mask is None else self.mask[part]
        return ImageFeatures(self.coarse[part], self.fine[part], self.landcover[part], mask)


class Matches(NamedTuple):
    """Matches of a batch; pixel centres at integers, x before y."""

    points0: Tensor  # (N, 2)
    points1: Tensor  # (N, 2)
    confidence: Tensor  # (N,)
    std: Tensor  # (N,) px
    batch: Tensor  # (N,) long


class TARNet(nn.Module):
    """The network.

    Args:
        config: sizes of all modules.
    """

    def __init__(self, config: TARConfig = TARConfig()) -> None:
        super().__init__()
        self.config = config
        _, _, dim, _ = config.msfl.widths
        self.msfl = MSFL(config.msfl)
        self.tafe = TAFE(dim, config.tafe)
        self.cfdm = CFDM(dim, config.msfl.widths[0], config.cfdm)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a fifth to a quarter faster

    def encode(
        self, image: Tensor, modality: Tensor | None, mask: Tensor | None = None, text: Tensor | None = None
    ) -> ImageFeatures:
        """MSFL and TAFE on one image.

        Args:
            image: (B, 1, H, W) grey, any range and size.
            modality: (B, 2) weights over ("optical", "sar"), or None to infer them.
            mask: (B, 1, H, W), 1 = valid, or None.
            text: (K, D) text features to project now, or None for the stored tokens.

        Returns:
            :class:`ImageFeatures`; a cell may match when its centre lies in the image and at least half of it is valid.
        """
        height, width = image.shape[2:]
        x = standardise(image, mask)
        if modality is None:
            modality = self.msfl.infer_modality(x)
        right, bottom = -width % STRIDE, -height % STRIDE
        cells: Tensor | None = None
        if right or bottom or mask is not None:
            valid = torch.ones_like(x) if mask is None else mask.to(x.dtype)
            x = F.pad(x, (0, right, 0, bottom))
            cells = F.avg_pool2d(F.pad(valid, (0, right, 0, bottom)), CELL)[:, 0] >= 0.5
        features: Features = self.msfl(x, modality)
        enhanced = self.tafe(features.coarse, text)
        return ImageFeatures(enhanced.features, features.fine, enhanced.landcover, cells)

    def compare(self, a: ImageFeatures, b: ImageFeatures) -> Coarse:
        """CFDM's coarse stage on two described images."""
        return self.cfdm.coarse(a.coarse, b.coarse, a.mask, b.mask)

    def forward(
        self,
        image0: Tensor,
        image1: Tensor,
        modality0: Tensor | None = None,
        modality1: Tensor | None = None,
        mask0: Tensor | None = None,
        mask1: Tensor | None = None,
        threshold: float = 0.0,
    ) -> Matches:
        """Match two images; see :meth:`encode` for the arguments, :class:`Matches` for the result."""
        return self.match(self.encode(image0, modality0, mask0), self.encode(image1, modality1, mask1), threshold)

    def match(self, a: ImageFeatures, b: ImageFeatures, threshold: float = 0.0) -> Matches:
        """Match two described images; matches of cells with less than ``threshold`` probability are left out."""
        coarse = self.compare(a, b)
        cells = mutual_nearest(coarse.log_probability(), threshold)
        in0, in1 = self.cfdm.refine(cells, coarse, a.fine, b.fine)
        return assemble(cells, in0, in1, a.coarse.shape[3], b.coarse.shape[3])

    def displacement_maps(self, a: ImageFeatures, b: ImageFeatures) -> tuple[Tensor, Tensor, Tensor]:
        """Map each cell's probability over displacements, of two images that nearly lie on each other.

        Args:
            a: image0, a batch of one.
            b: image1, a batch of one of the same size no more than some 8 px off, the fine window's reach.

        Returns:
            (K, 2) centres of the cells that are valid in both images, px; (K, S, S) probabilities of image0's cells'
            displacements in image1, ``PLACE_STEP`` px apart, rows are y, the middle is zero; and those of image1's
            cells in image0.
        """
        if a.coarse.shape != b.coarse.shape or len(a.coarse) != 1:
            raise ValueError(
                f"need two single images of one size, got {tuple(a.coarse.shape)}, {tuple(b.coarse.shape)}"
            )
        rows, columns = a.coarse.shape[2:]
        valid = torch.ones(rows, columns, dtype=torch.bool, device=a.coarse.device)
        for mask in (a.mask, b.mask):
            if mask is not None:
                valid = valid & mask[0]
        cell = valid.flatten().nonzero().flatten()
        in1, in0 = self.cfdm.displacement_maps(torch.zeros_like(cell), cell, cell, a.fine, b.fine)
        return cell_centres(cell, columns), in1, in0

    def fuse(self) -> TARNet:
        """Fold every RepVGG-style block into one convolution, in place; for inference only."""
        for module in self.modules():
            if isinstance(module, RepConv | Down):
                module.fuse()
        return self


def assemble(cells: Cells, in0: Offset, in1: Offset, columns0: int, columns1: int) -> Matches:
    """Move both ends of each match half way (see ``cfdm``), and put the two views' doubts together."""
    points0 = cell_centres(cells.cell0, columns0) + in0.shift / 2
    points1 = cell_centres(cells.cell1, columns1) + in1.shift / 2
    confidence = torch.sigmoid((in0.logit + in1.logit) / 2)
    # A Laplace scale b has the standard deviation √2·b. Both views see the same pixels, so their errors are taken as
    # fully correlated: root mean square, not the smaller error of an average of independent ones.
    std = (in0.log_scale.exp().square() + in1.log_scale.exp().square()).sqrt()
    return Matches(points0, points1, confidence, std, cells.batch)


def modality_weights(names: list[str]) -> Tensor:
    """One-hot rows for modality names: (B, 2)."""
    return F.one_hot(torch.tensor([MODALITIES.index(name) for name in names]), len(MODALITIES)).float()
