"""TARMatcher: kornia's LocalFeatureMatcher contract outside, TARNet inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from kornia.color import rgb_to_grayscale
from kornia.feature import LocalFeatureMatcher, laf_from_center_scale_ori
from torch import Tensor, nn

from kornia_tar.conventions import CELL, MIN_SIDE, MODALITIES
from kornia_tar.matching.memory import check_memory
from kornia_tar.network.calibration import Calibration
from kornia_tar.network.checkpoint import load_checkpoint, resolve_weights
from kornia_tar.network.msfl import standardise
from kornia_tar.network.net import ImageFeatures, Matches, TARConfig, TARNet, modality_weights
from kornia_tar.network.turns import TURNS
from kornia_tar.text import TextBank, TextPrior, choose_bank


class BatchImage(NamedTuple):
    """One image of each pair of a batch, checked."""

    image: Tensor  # (B, 1, H, W) grey
    mask: Tensor | None  # (B, 1, H, W), 1 = valid
    modality: Tensor | None  # (B, 2) one-hot; None: to be inferred

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return int(self.image.shape[2]), int(self.image.shape[3])


class TARMatcher(LocalFeatureMatcher):
    r"""Dense matcher for optical and SAR images: a drop-in for :class:`kornia.feature.LoFTR`.

    An independent implementation after the abstract and the published protocol of TAR (arXiv 2605.12064): MSFL computes
    features at three scales, TAFE lets text enhance the coarse ones, CFDM matches coarse to fine.

    Convention:
        - pixel centres at integers, x before y, origin at the top-left pixel's centre (OpenCV's and hloc's frame).
          ``kornia.feature.LoFTR`` counts pixel centres from +0.5 instead.
        - ``keypoints0[n]`` in ``image0[batch_indexes[n]]`` matches ``keypoints1[n]`` in ``image1[batch_indexes[n]]``.
        - swapping image0 and image1 (and their masks and modalities) swaps the result.

    Args:
        pretrained: name of shipped weights, path of a checkpoint, or None for random weights.
        config: sizes of the network when ``pretrained`` is None.
        threshold: matches with less confidence are dropped, in [0, 1].
        max_keypoints: keep at most so many matches of each pair, the most confident ones.
        looks: 1: every match on its own; 2 or more: the matches' common field warps the images, and all cells are
            matched again, see ``network/second_look.py``. By default 2 where the weights were trained for it.
        turns: 4: pairs that do not match as they are, are matched at quarter turns of one image too, so that they may
            be turned by any angle; 1: as they are alone, which is quicker where they do not match, and follows ±45°. In
            training mode always 1.

    The module is in eval mode after construction.

    Example:
        >>> matcher = TARMatcher(pretrained=None)
        >>> out = matcher({"image0": torch.rand(1, 3, 64, 80), "image1": torch.rand(1, 1, 96, 64)})
        >>> out["keypoints0"].shape == out["keypoints1"].shape
        True
    """

    def __init__(
        self,
        pretrained: str | Path | None = "optical-sar",
        config: TARConfig | None = None,
        *,
        threshold: float = 0.1,
        max_keypoints: int | None = None,
        looks: int | None = None,
        turns: int = 4,
    ) -> None:
        nn.Module.__init__(self)  # LocalFeatureMatcher's own wants a detector and a descriptor matcher
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {threshold}")
        if max_keypoints is not None and max_keypoints < 1:
            raise ValueError(f"max_keypoints must be at least 1 or None, got {max_keypoints}")
        if pretrained is not None and config is not None:
            raise ValueError("give pretrained or config: a checkpoint carries its own config")
        self.threshold = threshold
        self.max_keypoints = max_keypoints
        self.info: dict[str, Any] = {}
        if pretrained is None:
            self.net = TARNet(config or TARConfig())
        else:
            self.net, self.info = load_checkpoint(resolve_weights(pretrained))
        if looks is not None and looks < 1:
            raise ValueError(f"looks must be at least 1, got {looks}")
        if looks is not None and looks > 1 and self.net.second_look is None:
            raise ValueError(f"looks is {looks}, but these weights have no second look: looks must be 1")
        if turns not in TURNS:
            raise ValueError(f"turns must be 1 or 4, got {turns}")
        self.looks = looks or self._trained_looks
        self.turns = turns
        self.calibration = Calibration.from_metadata(self.info.get("calibration"))
        self.eval()

    @property
    def _trained_looks(self) -> int:
        """How many looks the weights were trained, and their calibration fitted, for."""
        return 1 if self.net.second_look is None else 2

    def fuse(self) -> TARMatcher:
        """Fold the RepVGG-style blocks into plain convolutions: faster, same output, no training afterwards."""
        self.net.fuse()
        return self

    @property
    def text_names(self) -> tuple[str, ...]:
        """The K names that the land-cover maps speak of."""
        return tuple(self.info.get("text", {}).get("names", ()))

    def set_text_prior(
        self,
        prior: str | TextPrior | TextBank,
        *,
        names: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        strict: bool = True,
        **options: Any,
    ) -> TARMatcher:
        """Exchange the text that steers the features.

        Args:
            prior: a provider's name ("remoteclip", "open_clip", "bank", "none", "random", …), a provider, or a bank.
            names: class names; by default the bank's, or those that the checkpoint was trained with.
            templates: sentences with ``{}``; by default those that the checkpoint was trained with.
            strict: require the encoder that the checkpoint was trained with. A bank from another encoder has the right
                shape but means nothing to the trained projection.
            **options: of the provider, e.g. ``path=`` for "bank".

        Returns:
            self.

        Raises:
            ValueError: unknown provider, another feature width, or another encoder while ``strict``.
        """
        trained = self.info.get("trained_text", self.info.get("text", {}))
        bank = choose_bank(prior, trained, names=names, templates=templates, strict=strict, **options)
        if bank is None:
            self.net.tafe.tokens = self.net.tafe.tokens[:0].clone()
            text: dict[str, Any] = {"encoder": "none", "names": [], "templates": []}
        else:
            self.net.tafe.set_text(bank.features)
            text = {"encoder": bank.encoder, "names": list(bank.names), "templates": list(bank.templates)}
        self.info |= {"trained_text": trained, "text": text}
        return self

    @torch.no_grad()
    def landcover(self, image: Tensor, modality: str | Sequence[str] | None = None) -> Tensor:
        """Per-pixel land cover as TAFE sees it: (B, C, H, W) → (B, K, h, w) probabilities, one pixel per 8×8 cell."""
        return self.encode(image, modality=modality).landcover

    @torch.no_grad()
    def infer_modality(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, C, H, W) → (B, 2) probabilities of "optical" and "sar"; args and errors as in :meth:`forward`."""
        grey = self._grey(image, "image")
        return self.net.msfl.infer_modality(standardise(grey, self._mask(mask, grey, "mask")))

    def encode(
        self, image: Tensor, mask: Tensor | None = None, modality: str | Sequence[str] | None = None
    ) -> ImageFeatures:
        """Compute one image's features, to be matched with several others by ``net.match``, one look, uncalibrated.

        Args and errors as in :meth:`forward`.
        """
        grey = self._grey(image, "image")
        return self.net.encode(grey, self._modality(modality, grey, "modality"), self._mask(mask, grey, "mask"))

    def extract_features(
        self, image: Tensor, mask: Tensor | None = None, modality: str | Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Text-enhanced coarse (B, C, h, w) and fine (B, C2, 4h, 4w) features, and land cover, of one image."""
        features = self.encode(image, mask, modality)
        return {"coarse": features.coarse, "fine": features.fine, "landcover": features.landcover}

    def forward(self, data: Mapping[str, Any]) -> dict[str, Tensor]:
        """Match the images of ``data``.

        Args:
            data: ``image0`` (B, 1|3, H0, W0) and ``image1`` (B, 1|3, H1, W1), floats in [0, 1], sides at least 32;
                optional ``mask0``, ``mask1`` (B, H, W) or (B, 1, H, W), 0 = nodata; optional ``modality0``,
                ``modality1``: "optical" or "sar", or a list of B of them; inferred from the image where missing.

        Returns:
            ``keypoints0``, ``keypoints1`` (N, 2) px; ``confidence`` (N,) in [0, 1], the predicted probability that the
            match is within 3 px; ``std`` (N,) px, the predicted one-sigma error per axis; ``batch_indexes`` (N,) long;
            ``lafs0``, ``lafs1`` (1, N, 2, 3), upright circles as large as a cell. All float32. Where
            ``looks`` is what the weights were trained for, their calibration is applied to ``confidence`` and ``std``;
            else both are as the network states them.

        Raises:
            TypeError: a missing key or something else than a float tensor.
            ValueError: a shape or size that does not fit, an unknown modality, NaN or Inf; or images so large that
                the memory will not do.
        """
        first, second = self._side(data, 0), self._side(data, 1)
        if len(first.image) != len(second.image):
            raise ValueError(f"image0 holds {len(first.image)} images and image1 {len(second.image)}: need as many")
        matches = self._match(first, second)
        keep = self._keep(matches, first, second)
        matches = Matches(*(t[keep] for t in matches))
        radius = torch.full_like(matches.confidence, CELL / 2)[None, :, None, None]
        lafs = [laf_from_center_scale_ori(p[None], radius) for p in (matches.points0, matches.points1)]
        return {
            "keypoints0": matches.points0,
            "keypoints1": matches.points1,
            "confidence": matches.confidence,
            "std": matches.std,
            "batch_indexes": matches.batch,
            "lafs0": lafs[0],
            "lafs1": lafs[1],
        }

    def _match(self, first: BatchImage, second: BatchImage) -> Matches:
        """All matches of a checked batch, their confidence and std calibrated."""
        if not torch.compiler.is_compiling():
            masked = first.mask is not None or second.mask is not None
            check_memory(first.image.device, first.size, second.size, len(first.image), masked)
        modality0, modality1 = (self._known_modality(side) for side in (first, second))
        turns = 1 if self.training else self.turns
        found: Matches = self.net(
            first.image, second.image, modality0, modality1, first.mask, second.mask, looks=self.looks, turns=turns
        )
        if self.looks != self._trained_looks:
            return found
        same = (modality0.argmax(1) == modality1.argmax(1))[found.batch]
        alike, cross = self.calibration.matches.same, self.calibration.matches.cross
        confidence = torch.where(same, alike.confidence(found.confidence), cross.confidence(found.confidence))
        return found._replace(confidence=confidence, std=torch.where(same, alike.std(found.std), cross.std(found.std)))

    def _known_modality(self, side: BatchImage) -> Tensor:
        """(B, 2) weights, inferred where they were not told."""
        if side.modality is not None:
            return side.modality
        return self.net.msfl.infer_modality(standardise(side.image, side.mask))

    def _side(self, data: Mapping[str, Any], k: int) -> BatchImage:
        """Image ``k`` and what is told of it, checked."""
        image = self._grey(data.get(f"image{k}"), f"image{k}")
        mask = self._mask(data.get(f"mask{k}"), image, f"mask{k}")
        return BatchImage(image, mask, self._modality(data.get(f"modality{k}"), image, f"modality{k}"))

    def _keep(self, matches: Matches, first: BatchImage, second: BatchImage) -> Tensor:
        """Indices of matches that are confident enough, on valid pixels of both images and within the budget."""
        keep = matches.confidence >= self.threshold
        for points, (image, mask, _) in ((matches.points0, first), (matches.points1, second)):
            height, width = image.shape[2:]
            x, y = points.detach().round().long().unbind(-1)
            keep = keep & (x >= 0) & (x < width) & (y >= 0) & (y < height)
            if mask is not None:
                keep = keep & (mask[matches.batch, 0, y.clamp(0, height - 1), x.clamp(0, width - 1)] > 0)
        index = keep.nonzero().flatten()
        if self.max_keypoints is None:
            return index
        best = index[matches.confidence[index].argsort(descending=True, stable=True)]
        batch = matches.batch[best]
        parts = [best[batch == b][: self.max_keypoints] for b in range(len(first.image))]
        return torch.cat(parts).sort().values

    def _grey(self, image: Any, key: str) -> Tensor:
        if not isinstance(image, Tensor):
            raise TypeError(f"{key} must be a float tensor (B, 1|3, H, W), got {type(image).__name__}")
        if not image.is_floating_point():
            raise TypeError(f"{key} must be a float tensor in [0, 1], got {image.dtype}: divide 8-bit images by 255")
        if image.ndim != 4 or image.shape[1] not in (1, 3) or len(image) < 1:
            raise ValueError(f"{key} has shape {tuple(image.shape)}, need (B, 1|3, H, W)")
        if min(image.shape[2:]) < MIN_SIDE:
            raise ValueError(f"{key} is {image.shape[3]}×{image.shape[2]} px, need at least {MIN_SIDE}×{MIN_SIDE}")
        if not image.isfinite().all():
            raise ValueError(f"{key} holds NaN or Inf: replace nodata and give a {key.replace('image', 'mask')}")
        weight = self.net.tafe.query.weight
        grey = image if image.shape[1] == 1 else rgb_to_grayscale(image)
        return grey.to(weight.device, weight.dtype)

    def _mask(self, mask: Any, image: Tensor, key: str) -> Tensor | None:
        if mask is None:
            return None
        if not isinstance(mask, Tensor):
            raise TypeError(f"{key} must be a tensor (B, H, W) or (B, 1, H, W), got {type(mask).__name__}")
        B, _, H, W = image.shape
        if tuple(mask.shape) not in ((B, H, W), (B, 1, H, W)):
            raise ValueError(f"{key} has shape {tuple(mask.shape)}, need {(B, H, W)} or {(B, 1, H, W)}")
        return (mask.reshape(B, 1, H, W) > 0).to(image.device, image.dtype)

    def _modality(self, modality: Any, image: Tensor, key: str) -> Tensor | None:
        if modality is None:
            return None
        names = [modality] * len(image) if isinstance(modality, str) else modality
        known = isinstance(names, list | tuple) and all(name in MODALITIES for name in names)
        if not known or len(names) != len(image):
            raise ValueError(f"{key} is {modality!r}, need one of {MODALITIES} or a list of {len(image)} of them")
        weight = self.net.tafe.query.weight
        return modality_weights(list(names)).to(weight.device, weight.dtype)
