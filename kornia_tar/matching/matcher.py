"""TARMatcher: kornia's LocalFeatureMatcher contract outside, TARNet inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from kornia.feature import LocalFeatureMatcher, laf_from_center_scale_ori
from torch import Tensor, nn

from kornia_tar.conventions import CELL
from kornia_tar.matching.features import given_features, to_tensors
from kornia_tar.matching.inputs import BatchImage, float_type, read_image
from kornia_tar.matching.memory import check_memory
from kornia_tar.matching.steer import make_steering
from kornia_tar.network.calibration import Calibration
from kornia_tar.network.checkpoint import load_checkpoint, resolve_weights
from kornia_tar.network.frames import Frame, Matches
from kornia_tar.network.msfl import standardise
from kornia_tar.network.net import TARConfig, TARNet
from kornia_tar.network.poses import SCALES, TURNS
from kornia_tar.text import TextBank, TextPrior, choose_bank


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
        scales: 3: pairs that no turn matches are matched with either image at 0.6 of its size too, so that their scales
            may differ by a factor of 2; 1: as they are alone, which follows 1.4. In training mode always 1.
        ignore: words of the text, or groups of them such as "water", whose cells have no vote; see
            ``matching/steer.py``.
        prefer: words or groups whose cells count for more.

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
        scales: int = 3,
        ignore: Sequence[str] = (),
        prefer: Sequence[str] = (),
    ) -> None:
        nn.Module.__init__(self)  # LocalFeatureMatcher's own wants a detector and a descriptor matcher
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {threshold}")
        if max_keypoints is not None and max_keypoints < 1:
            raise ValueError(f"max_keypoints must be at least 1 or None, got {max_keypoints}")
        if config is not None and not isinstance(config, TARConfig):
            raise TypeError(
                f"config must be a TARConfig, got {type(config).__name__}: LoFTR's does not fit this network"
            )
        if pretrained is not None and config is not None:
            raise ValueError("give pretrained or config: a checkpoint carries its own config")
        self.threshold = threshold
        self.max_keypoints = max_keypoints
        self.info: dict[str, Any] = {}
        self.weights = None if pretrained is None else resolve_weights(pretrained)
        if self.weights is None:
            self.net = TARNet(config or TARConfig())
        else:
            self.net, self.info = load_checkpoint(self.weights)
        if looks is not None and looks < 1:
            raise ValueError(f"looks must be at least 1, got {looks}")
        if looks is not None and looks > 1 and self.net.second_look is None:
            raise ValueError(f"looks is {looks}, but these weights have no second look: looks must be 1")
        if turns not in TURNS:
            raise ValueError(f"turns must be 1 or 4, got {turns}")
        if scales not in SCALES:
            raise ValueError(f"scales must be 1 or 3, got {scales}")
        self.looks = looks or self._trained_looks
        self.turns, self.scales = turns, scales
        self.calibration = Calibration.from_metadata(self.info.get("calibration"))
        self.steer(ignore, prefer)
        self.eval()

    @property
    def _trained_looks(self) -> int:
        """How many looks the weights were trained, and their calibration fitted, for."""
        return 1 if self.net.second_look is None else 2

    def train(self, mode: bool = True) -> TARMatcher:
        """Switch to training mode, but for BatchNorm: its statistics stay those of the weights.

        A frozen matcher inside a larger model is not changed by that model's ``train()``. To let them follow new data,
        call ``matcher.net.train()``, as ``kornia-tar train`` does.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def fuse(self) -> TARMatcher:
        """Fold the RepVGG-style blocks into plain convolutions: faster, same output, no training afterwards."""
        self.net.fuse()
        return self

    @property
    def text_names(self) -> tuple[str, ...]:
        """The K names that the land-cover maps speak of."""
        return tuple(self.info.get("text", {}).get("names", ()))

    @property
    def seen_names(self) -> tuple[str, ...] | None:
        """The names whose look the land-cover head was taught; None for weights without that head."""
        return None if self.net.landcover is None else tuple(self.info.get("landcover", {}).get("seen", ()))

    def steer(self, ignore: Sequence[str] = (), prefer: Sequence[str] = ()) -> TARMatcher:
        """Let words decide which cells have a vote; see ``matching/steer.py``. Without words: steer no more.

        Raises:
            TypeError, ValueError: words that are no list, or that the text does not have; no land-cover head.
        """
        self.net.steering = make_steering(self.net, self.text_names, ignore, prefer)
        self.ignore, self.prefer = tuple(ignore), tuple(prefer)
        return self

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
            ValueError: unknown provider, another feature width, another encoder while ``strict``, or a text without
                the words that steer.
        """
        trained = self.info.get("trained_text", self.info.get("text", {}))
        bank = choose_bank(prior, trained, names=names, templates=templates, strict=strict, **options)
        head = self.net.landcover
        if bank is None:
            self.net.tafe.tokens = self.net.tafe.tokens[:0].clone()
            if head is not None:
                head.words = head.words[:0].clone()
            text: dict[str, Any] = {"encoder": "none", "names": [], "templates": []}
        else:
            self.net.tafe.set_text(bank.features)
            if head is not None:
                head.set_text(bank.features)
            text = {"encoder": bank.encoder, "names": list(bank.names), "templates": list(bank.templates)}
        self.info |= {"trained_text": trained, "text": text}
        return self.steer(self.ignore, self.prefer)

    @torch.no_grad()
    def landcover(self, image: Tensor, modality: str | Sequence[str] | None = None) -> Tensor:
        """What the words say: (B, C, H, W) → (B, K, h, w) probabilities, one pixel per 8×8 cell.

        They sum to at most one: the rest is "none of these". Without a land-cover head it is TAFE's attention.
        """
        return self.encode(image, modality=modality).features.landcover

    @torch.no_grad()
    def infer_modality(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, C, H, W) → (B, 2) probabilities of "optical" and "sar"; args and errors as in :meth:`forward`."""
        grey, valid, _ = read_image({"image": image, "mask": mask}, "", self._like)
        return self.net.msfl.infer_modality(standardise(grey, valid))

    def encode(
        self,
        image: Tensor,
        mask: Tensor | None = None,
        modality: str | Sequence[str] | None = None,
        *,
        words: bool = True,
    ) -> Frame:
        """Encode one image of each pair of a batch, to be matched with several others by :meth:`match`.

        Args:
            image: (B, 1|3, H, W), as in :meth:`forward`.
            mask: (B, H, W) or (B, 1, H, W), 0 = nodata, or None.
            modality: "optical" or "sar", or a list of B of them; None to infer it.
            words: ask the land-cover head for its map, which only steering needs, and which takes half of the time.

        Raises:
            TypeError, ValueError: as in :meth:`forward`.
        """
        given = read_image({"image": image, "mask": mask, "modality": modality}, "", self._like)
        return self._encoded(given, words)

    def match(self, first: BatchImage | Frame, second: BatchImage | Frame) -> dict[str, Tensor]:
        """Match images that :meth:`encode` has encoded; the result is that of :meth:`forward`.

        The second look resamples both images and encodes them anew; what is saved is the first look's encoding of one
        image, some tenth of a forward.

        Raises:
            ValueError: the batches are of different sizes.
        """
        if len(first.image) != len(second.image):
            raise ValueError(f"image0 holds {len(first.image)} images and image1 {len(second.image)}: need as many")
        matches, more = self._match(first, second)
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
            **more,
        }

    def extract_features(
        self, image: Tensor, mask: Tensor | None = None, modality: str | Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Compute an image's features once, to be given to :meth:`forward` as ``features0`` or ``features1``.

        Args and errors as in :meth:`forward`.

        Returns:
            ``coarse`` (B, C, h, w) at 1/8, text-enhanced, ``fine`` (B, C2, 4h, 4w) at 1/2 and ``landcover``
            (B, K, h, w), h and w even; ``image`` (B, 1, H, W) grey and ``modality`` (B, 2), told or inferred; where
            there is nodata or a side is no multiple of 16, ``mask`` and ``cells`` (B, h, w), which cells may match.
            Plain tensors, which ``safetensors.torch.save_file`` writes and ``load_file`` reads. They belong to these
            weights and this text.
        """
        return to_tensors(self.encode(image, mask, modality))

    def forward(self, data: Mapping[str, Any]) -> dict[str, Tensor]:
        """Match the images of ``data``.

        Args:
            data: ``image0`` (B, 1|3, H0, W0) and ``image1`` (B, 1|3, H1, W1), floats in [0, 1], sides at least 32;
                optional ``mask0``, ``mask1`` (B, H, W) or (B, 1, H, W), 0 = nodata; optional ``modality0``,
                ``modality1``: "optical" or "sar", or a list of B of them; inferred from the image where missing.
                ``features0`` instead of ``image0``, ``features1`` instead of ``image1``: what :meth:`extract_features`
                returned, which knows its mask and modality.

        Returns:
            ``keypoints0``, ``keypoints1`` (N, 2) px; ``confidence`` (N,) in [0, 1], the predicted probability that the
            match is within 3 px; ``std`` (N,) px, the predicted one-sigma error per axis; ``batch_indexes`` (N,) long;
            ``lafs0``, ``lafs1`` (1, N, 2, 3), upright circles as large as a cell. All float32, or float64 where an
            image or the given features are. Where ``looks`` is what the weights were trained for, their calibration is
            applied to ``confidence`` and ``std``; else both are as the network states them.

        Raises:
            TypeError: a missing key or something else than a float tensor.
            ValueError: a shape or size that does not fit, an unknown modality, NaN or Inf, an image and its features;
                or images so large that the memory will not do.
        """
        dtype = float_type(data)
        found = self.match(self._take(data, "0"), self._take(data, "1"))
        return {k: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in found.items()}

    @property
    def _like(self) -> Tensor:
        """A parameter, for its device and float type."""
        return self.net.tafe.query.weight

    def _take(self, data: Mapping[str, Any], side: str) -> BatchImage | Frame:
        """Take an image and what is told of it, or its features, from the contract's dictionary."""
        return given_features(data, side, self._like) or read_image(data, side, self._like)

    def _encoded(self, given: BatchImage | Frame, words: bool = False) -> Frame:
        if isinstance(given, Frame):
            steering = self.net.steering
            return given if steering is None else given._replace(features=steering.applied(given.features))
        image, mask, modality = given
        if modality is None:
            modality = self.net.msfl.infer_modality(standardise(image, mask))
        return Frame(image, modality, mask, self.net.encode(image, modality, mask, words=words))

    def _match(self, given0: BatchImage | Frame, given1: BatchImage | Frame) -> tuple[Matches, dict[str, Any]]:
        """All matches of a batch, their confidence and std calibrated; and what else a subclass says of its pairs."""
        if not torch.compiler.is_compiling():
            height0, width0, height1, width1 = (*given0.image.shape[2:], *given1.image.shape[2:])
            masked = given0.mask is not None or given1.mask is not None
            check_memory(given0.image.device, (height0, width0), (height1, width1), len(given0.image), masked)
        first, second = self._encoded(given0), self._encoded(given1)
        turns, scales = (1, 1) if self.training else (self.turns, self.scales)
        found: Matches = self.net.match_frames(first, second, looks=self.looks, turns=turns, scales=scales)
        if self.looks != self._trained_looks:
            return found, {}
        assert first.modality is not None and second.modality is not None
        same = (first.modality.argmax(1) == second.modality.argmax(1))[found.batch]
        alike, cross = self.calibration.matches.same, self.calibration.matches.cross
        confidence = torch.where(same, alike.confidence(found.confidence), cross.confidence(found.confidence))
        std = torch.where(same, alike.std(found.std), cross.std(found.std))
        return found._replace(confidence=confidence, std=std), {}

    def _keep(self, matches: Matches, first: BatchImage | Frame, second: BatchImage | Frame) -> Tensor:
        """Indices of matches that are confident enough, on valid pixels of both images and within the budget."""
        keep = matches.confidence >= self.threshold
        for points, frame in ((matches.points0, first), (matches.points1, second)):
            (height, width), mask = frame.image.shape[2:], frame.mask
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
