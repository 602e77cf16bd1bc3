"""TARNet = MSFL → TAFE → CFDM: two images in, sub-pixel matches out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kornia_tar.conventions import CELL, MODALITIES, STRIDE
from kornia_tar.network.cfdm import CFDM, Cells, CFDMConfig, Coarse, cell_centres, nearest_cells
from kornia_tar.network.field import Field, fit_field, inverted, pad_matches, propose_similarity, resample
from kornia_tar.network.fine import Offset
from kornia_tar.network.frames import Frame, ImageFeatures, Matches, Steering
from kornia_tar.network.layers import Down, Padding, RepConv
from kornia_tar.network.msfl import MSFL, Features, MSFLConfig, standardise
from kornia_tar.network.poses import SCALES, TURNS, match_posed
from kornia_tar.network.pyramid import match_pyramid, sizes
from kornia_tar.network.second_look import (
    CellMatches,
    DisplacementPosterior,
    SecondLook,
    SecondLookConfig,
    cell_trust,
    correlate,
    match_cells,
)
from kornia_tar.network.tafe import TAFE, LandCoverConfig, LandCoverHead, TAFEConfig, read_ground

Encode = Callable[[Tensor, Tensor | None, Tensor | None, Tensor | None, bool], ImageFeatures]
# See registration/alignment/batches.py.
Batches = Callable[[Encode, Tensor, Tensor, Tensor | None, bool], ImageFeatures]

SURE_TRUST = 20.0  # matches' worth of trust in a field that is given: as around the cells of true pairs


@dataclass(frozen=True)
class TARConfig:
    """The modules' configs, composed."""

    msfl: MSFLConfig = field(default_factory=MSFLConfig)
    tafe: TAFEConfig = field(default_factory=TAFEConfig)
    cfdm: CFDMConfig = field(default_factory=CFDMConfig)
    second_look: SecondLookConfig | None = None  # None: one look is all there is
    landcover: LandCoverConfig | None = None  # None: TAFE's attention stands for the map

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, for the checkpoint; a part that is None is left out."""
        return {name: part for name, part in asdict(self).items() if part is not None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TARConfig:
        """Inverse of :meth:`to_dict`; unknown keys raise TypeError. Earlier checkpoints lack a part or two."""
        parts: dict[str, Any] = {"msfl": MSFLConfig, "tafe": TAFEConfig, "cfdm": CFDMConfig}
        later = {"second_look": SecondLookConfig, "landcover": LandCoverConfig}
        parts |= {name: part for name, part in later.items() if values.get(name) is not None}
        read = {k: parts[k](**{n: tuple(v) if isinstance(v, list) else v for n, v in values[k].items()}) for k in parts}
        return cls(**read)


SIZES = {
    "XXS": TARConfig(MSFLConfig((16, 32, 64, 96))),  # 0.8 M parameters: ablations on a CPU
    "XS": TARConfig(),  # 3.0 M: what a CPU trains well
    "S": TARConfig(MSFLConfig((40, 80, 160, 256)), cfdm=CFDMConfig(layers=2)),  # 5.3 M
    "M": TARConfig(MSFLConfig((64, 128, 256, 320)), cfdm=CFDMConfig(layers=2)),  # 10.9 M
}


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
        self.second_look = (
            None if config.second_look is None else SecondLook(dim, (config.cfdm.window - 1) ** 2, config.second_look)
        )
        self.landcover = None if config.landcover is None else LandCoverHead(dim, config.landcover)
        self.steering: Steering | None = None  # by which every image is encoded; needs the land-cover head
        self.batches: Batches | None = None  # joins the single images that threads encode
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a fifth to a quarter faster

    @property
    def tells_no_border(self) -> bool:
        """Whether MSFL's features are the same wherever the border is."""
        return self.config.msfl.padding != "zeros"

    def encode(
        self,
        image: Tensor,
        modality: Tensor | None,
        mask: Tensor | None = None,
        text: Tensor | None = None,
        words: bool = False,
    ) -> ImageFeatures:
        """MSFL and TAFE on one image.

        Args:
            image: (B, 1, H, W) grey, any range and size.
            modality: (B, 2) weights over ("optical", "sar"), or None to infer them.
            mask: (B, 1, H, W), 1 = valid, or None.
            text: (K, D) text features to project now, or None for the stored tokens.
            words: ask the land-cover head, where there is one, for the map; MSFL then looks twice, unless
                its features never tell where the border is. Steering always asks.

        Returns:
            :class:`ImageFeatures`; a cell may match when its centre lies in the image and at least half of it is valid.
        """
        batches = None if torch.is_grad_enabled() or len(image) > 1 or text is not None else self.batches
        if batches is None or modality is None:
            return self._encode(image, modality, mask, text, words)
        return batches(self._encode, image, modality, mask, words)

    def _encode(
        self, image: Tensor, modality: Tensor | None, mask: Tensor | None, text: Tensor | None, words: bool
    ) -> ImageFeatures:
        height, width = image.shape[2:]
        x = whole = standardise(image, mask)
        if modality is None:
            modality = self.msfl.infer_modality(x)
        right, bottom = -width % STRIDE, -height % STRIDE
        cells: Tensor | None = None
        if right or bottom or mask is not None:
            valid = torch.ones_like(x) if mask is None else mask.to(x.dtype)
            x = F.pad(x, (0, right, 0, bottom), mode="replicate" if self.tells_no_border else "constant")
            cells = F.avg_pool2d(F.pad(valid, (0, right, 0, bottom)), CELL)[:, 0] >= 0.5
        features: Features = self.msfl(x, modality)
        enhanced = self.tafe(features.coarse, text)
        found = ImageFeatures(enhanced.features, features.fine, enhanced.landcover, cells)
        if self.landcover is None or not (words or self.steering):
            return found
        known = features.coarse if self.tells_no_border else None
        ground = read_ground(self.msfl, whole, modality, mask, known)
        found = found._replace(landcover=self.landcover(ground, modality, cells))
        return found if self.steering is None else self.steering.applied(found)

    def compare(self, a: ImageFeatures, b: ImageFeatures) -> Coarse:
        """CFDM's coarse stage on two encoded images."""
        return self.cfdm.coarse(a.coarse, b.coarse, a.mask, b.mask, a.tokens, b.tokens)

    def look_within(self, features: ImageFeatures) -> ImageFeatures:
        """Do what :meth:`compare` does of one image alone; for an image that is compared with several."""
        if features.tokens is not None:
            return features
        return features._replace(tokens=self.cfdm.look_within(features.coarse, features.mask))

    def forward(
        self,
        image0: Tensor,
        image1: Tensor,
        modality0: Tensor | None = None,
        modality1: Tensor | None = None,
        mask0: Tensor | None = None,
        mask1: Tensor | None = None,
        threshold: float = 0.0,
        looks: int = 1,
        turns: int = 1,
        scales: int = 1,
    ) -> Matches:
        """Match two images; see :meth:`encode` for the arguments, :class:`Matches` for the result.

        Args:
            image0: (B, 1, H0, W0).
            image1: (B, 1, H1, W1).
            modality0: (B, 2) weights, or None to infer them.
            modality1: likewise.
            mask0: (B, 1, H0, W0), 1 = valid, or None.
            mask1: likewise.
            threshold: least coarse probability of a match of the first look, in [0, 1]; of one look alone.
            looks: 1, or how many times to match in all, see ``second_look.py``.
            turns: 1, or 4 for pairs turned against each other by any angle, see ``poses.py``.
            scales: 1, or 3 for pairs of a relative scale up to 2, likewise.
        """
        a, b = self.encode(image0, modality0, mask0), self.encode(image1, modality1, mask1)
        first, second = Frame(image0, modality0, mask0, a), Frame(image1, modality1, mask1, b)
        return self.match_frames(first, second, threshold, looks, turns, scales)

    def match_frames(
        self, first: Frame, second: Frame, threshold: float = 0.0, looks: int = 1, turns: int = 1, scales: int = 1
    ) -> Matches:
        """Match images that are encoded already; see :meth:`forward`."""
        if looks < 1 or (looks > 1 and threshold > 0):
            raise ValueError(
                f"looks is {looks} and threshold {threshold}: need at least 1, and a threshold with 1 alone"
            )
        if turns not in TURNS or scales not in SCALES:
            raise ValueError(f"turns is {turns}, scales is {scales}: need one of {TURNS}, and one of {SCALES}")
        factors = sizes(first.image.shape, second.image.shape)
        if looks > 1 and len(factors) > 1:
            first, second = first.with_modality(self.msfl), second.with_modality(self.msfl)
            return match_pyramid(self, first, second, factors, looks, turns, scales)
        return self.match_whole(first, second, threshold, looks, turns, scales)

    def match_whole(
        self, first: Frame, second: Frame, threshold: float, looks: int, turns: int, scales: int
    ) -> Matches:
        """Match encoded images at the size that they have, each cell of one with all of the other."""
        matches = self.match(first.features, second.features, threshold)
        if looks == turns == scales == 1:
            return matches
        first, second = first.with_modality(self.msfl), second.with_modality(self.msfl)
        if turns == scales == 1:
            return self.look_on(first, second, matches, looks)
        return match_posed(self, first, second, matches, threshold, looks, turns, scales)

    def look_on(self, first: Frame, second: Frame, matches: Matches, looks: int) -> Matches:
        """Refine the first look's matches by all looks that follow it."""
        for _ in range(looks - 1):
            matches = self.look_again(first, second, matches)
        return matches

    def look_again(self, first: Frame, second: Frame, matches: Matches) -> Matches:
        """Refine matches: fit a field to them in both directions, and let every cell answer anew."""
        ahead, back = self.fit_fields(first, second, matches)
        in1 = match_cells(self.see(first, second, ahead), ahead)
        in0 = match_cells(self.see(second, first, back), back)
        return join_looks(in1, in0)

    def fit_fields(self, first: Frame, second: Frame, matches: Matches) -> tuple[Field, Field]:
        """Fit image0 → image1 and image1 → image0, in float32."""
        if self.second_look is None:
            raise ValueError("this network has no second look: looks must be 1")
        most = matches.longest(len(first.image))
        counts = cell_weight(first.features, matches.points0, matches.batch)
        counts = counts * cell_weight(second.features, matches.points1, matches.batch)
        values = matches.points0, matches.points1, matches.confidence * counts
        return self.fit_padded(first, second, *pad_matches(matches.batch, values, len(first.image), most))

    def fit_padded(
        self, first: Frame, second: Frame, points0: Tensor, points1: Tensor, weight: Tensor
    ) -> tuple[Field, Field]:
        """Do the same to matches as (B, N, 2), (B, N, 2) px and (B, N), of which those of no weight are none."""
        assert self.second_look is not None
        config = self.second_look.config
        with torch.autocast(first.image.device.type, enabled=False):
            size0, size1 = ((int(f.image.shape[2]), int(f.image.shape[3])) for f in (first, second))
            start = propose_similarity(points0, points1, weight, config.seeds)
            sizes = config.spacing, config.reach, config.ridge
            ahead = fit_field(points0, points1, weight, start, size0, *sizes)
            return ahead, fit_field(points1, points0, weight, inverted(start), size1, *sizes)

    def see(self, own: Frame, other: Frame, field: Field, text: Tensor | None = None) -> DisplacementPosterior:
        """Resample ``other`` into the frame of ``own`` through ``field``, and ask every cell of ``own``.

        ``text``: features to project now, as in :meth:`encode`; both images must read the same.
        """
        assert self.second_look is not None
        size = int(own.image.shape[2]), int(own.image.shape[3])
        with torch.autocast(own.image.device.type, enabled=False):
            image, mask = resample(other.image, other.mask, field, size)
        warped = self.encode(image, other.modality, mask, text)
        assert warped.mask is not None
        valid = warped.mask if own.features.mask is None else warped.mask & own.features.mask
        maps = correlate(self.cfdm, own.features.fine, warped.fine)
        trust = cell_trust(field, *valid.shape[1:])
        weight = None if own.features.weight is None or warped.weight is None else own.features.weight * warped.weight
        return self.second_look(maps, own.features.coarse, warped.coarse, trust, valid, weight)

    def match(self, a: ImageFeatures, b: ImageFeatures, threshold: float = 0.0) -> Matches:
        """Match two encoded images; matches of cells with less than ``threshold`` probability are left out."""
        coarse = self.compare(a, b)
        cells = nearest_cells(coarse, threshold)
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
        size = self.cfdm.config.window - 1
        in1, in0 = (
            maps[0].flatten(1)[:, cell].T.unflatten(1, (size, size))
            for maps in self.cfdm.displacement_maps(a.fine, b.fine)
        )
        if a.weight is not None and b.weight is not None:  # of what counts little, the map says little
            weight = (a.weight * b.weight)[0].flatten()[cell, None, None]
            in1, in0 = (weight * maps + (1 - weight) / size**2 for maps in (in1, in0))
        return cell_centres(cell, columns), in1, in0

    def cell_confidence(self, a: ImageFeatures, b: ImageFeatures) -> Tensor:
        """Ask the second look how sure each cell is, of two images that should lie on each other.

        Args:
            a: image0, a batch of one.
            b: image1, resampled into image0's frame.

        Returns:
            (K,) probabilities of being within 3 px, of the valid cells of both images.
        """
        assert self.second_look is not None
        valid = torch.ones_like(a.coarse[:, 0], dtype=torch.bool)
        for mask in (a.mask, b.mask):
            valid = valid if mask is None else valid & mask
        trust = torch.full_like(a.coarse[:, :1], SURE_TRUST)
        looks = (
            self.second_look(correlate(self.cfdm, own.fine, other.fine), own.coarse, other.coarse, trust, valid)
            for own, other in ((a, b), (b, a))
        )
        return torch.cat([look.match_logit[valid].sigmoid() for look in looks])

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


def cell_weight(features: ImageFeatures, points: Tensor, batch: Tensor) -> Tensor | float:
    """Look up how much the cells count that hold points (N, 2) px of a batch's images (N,): (N,), or 1 for all."""
    if features.weight is None:
        return 1.0
    rows, columns = features.weight.shape[1:]
    cell = ((points + 0.5) / CELL).floor().long()
    x, y = cell[:, 0].clamp(0, columns - 1), cell[:, 1].clamp(0, rows - 1)
    return features.weight[batch, y, x]


def join_looks(in1: CellMatches, in0: CellMatches) -> Matches:
    """Put the matches of image0's cells and those of image1's cells in one list, pair by pair."""
    return Matches(
        torch.cat([in1.own, in0.other]), torch.cat([in1.other, in0.own]),
        torch.cat([in1.confidence, in0.confidence]), torch.cat([in1.std, in0.std]),
        torch.cat([in1.batch, in0.batch]),
    ).sorted()  # fmt: skip


def with_second_look(net: TARNet, seed: int = 0, config: SecondLookConfig | None = None) -> TARNet:
    """Return the network in eval mode with an untrained second look added, its other tensors unchanged."""
    config = config or SecondLookConfig()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wider = TARNet(replace(net.config, second_look=config))
    lacking, _ = wider.load_state_dict(net.state_dict(), strict=False)
    assert all(name.startswith("second_look.") for name in lacking)
    return wider.eval()


def with_padding(net: TARNet, padding: Padding) -> TARNet:
    """Return the network in eval mode with another padding of MSFL, see :class:`MSFLConfig`, its tensors unchanged."""
    changed = TARNet(replace(net.config, msfl=replace(net.config.msfl, padding=padding)))
    changed.tafe.tokens = net.tafe.tokens.clone()  # the text may have been exchanged for another number of names
    changed.load_state_dict(net.state_dict())
    return changed.eval()


def with_landcover(net: TARNet, config: LandCoverConfig | None, seed: int = 0) -> TARNet:
    """Return the network in eval mode with an untrained land-cover head, or None, its other tensors unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        changed = TARNet(replace(net.config, landcover=config))
    kept = {name: tensor for name, tensor in net.state_dict().items() if not name.startswith("landcover.")}
    changed.tafe.tokens = net.tafe.tokens.clone()  # the text may have been exchanged for another number of names
    lacking, _ = changed.load_state_dict(kept, strict=False)
    assert all(name.startswith("landcover.") for name in lacking)
    return changed.eval()


def modality_weights(names: list[str]) -> Tensor:
    """One-hot rows for modality names: (B, 2)."""
    return F.one_hot(torch.tensor([MODALITIES.index(name) for name in names]), len(MODALITIES)).float()
