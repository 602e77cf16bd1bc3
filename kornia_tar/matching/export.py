"""FixedMatcher: the matcher for two images of stated sizes, as a graph of fixed shapes, and its files.

A list of matches is as long as there are matches, which few runtimes know how to say. Here every cell answers, those
that do not match with no weight, and the K most confident matches come out with a flag each. It is the same network,
called by the same functions: only the lists between the looks are padded.

Pairs are matched as they are, without quarter turns and shrunk copies: they follow ±45° and a relative scale of 1.6.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from kornia_tar.conventions import CELL, MIN_SIDE
from kornia_tar.matching.matcher import TARMatcher
from kornia_tar.network.calibration import PairScalings
from kornia_tar.network.cfdm import Cells, dual_softmax
from kornia_tar.network.frames import Frame
from kornia_tar.network.msfl import standardise
from kornia_tar.network.net import assemble, modality_weights
from kornia_tar.network.pyramid import sizes as pyramid_sizes
from kornia_tar.network.second_look import answers

Precision = Literal["float32", "float16"]
INPUTS = ("image0", "image1")
OUTPUTS = ("keypoints0", "keypoints1", "confidence", "std", "valid")
OPSET = 20
SUFFIXES = (".onnx", ".pt2")
LARGE, FLOAT16_MOST = 1024, 65504.0  # numbers of a constant worth storing in half precision; its largest number


class FixedMatcher(nn.Module):
    """Match one pair of images of fixed sizes into K matches.

    Args:
        matcher: whose weights, looks, threshold and calibration are taken; it is not changed.
        modality0: "optical", "sar", or None to infer it in the graph.
        modality1: likewise.
        matches: K; fewer where the images have fewer cells.

    Raises:
        ValueError: a matcher that words steer.
    """

    def __init__(
        self,
        matcher: TARMatcher,
        modality0: str | None = "optical",
        modality1: str | None = "sar",
        matches: int = 1024,
    ) -> None:
        super().__init__()
        if matcher.net.steering is not None:
            raise ValueError("a matcher that words steer cannot be exported; leave out ignore and prefer")
        if matches < 1:
            raise ValueError(f"matches must be at least 1, got {matches}")
        self.net = copy.deepcopy(matcher.net).fuse().eval().float().cpu()
        self.looks, self.threshold, self.matches = matcher.looks, matcher.threshold, matches
        fits = matcher.calibration.matches
        calibrated = matcher.looks == (1 if matcher.net.second_look is None else 2)
        self._fits = fits if calibrated else PairScalings()
        self._told = tuple(None if name is None else modality_weights([name]) for name in (modality0, modality1))

    def forward(self, image0: Tensor, image1: Tensor) -> dict[str, Tensor]:
        """Match.

        Args:
            image0: (1, 1, H0, W0) float32 grey in [0, 1], every pixel valid.
            image1: (1, 1, H1, W1) likewise.

        Returns:
            the K most confident matches, in descending order: ``keypoints0`` and ``keypoints1`` (K, 2) px, pixel
            centres at integers, x before y; ``confidence`` (K,) in [0, 1] and ``std`` (K,) px, calibrated as the
            matcher's; ``valid`` (K,) bool, whether there is such a match, which the matcher would have returned.
        """
        first, second = (self._encoded(image, told) for image, told in zip((image0, image1), self._told, strict=True))
        points0, points1, confidence, std, counts = self._first_look(first, second)
        for _ in range(self.looks - 1):
            points0, points1, confidence, std, counts = self._look_again(
                first, second, points0, points1, confidence * counts
            )
        return self._best(first, second, points0, points1, confidence, std, counts)

    def _encoded(self, image: Tensor, told: Tensor | None) -> Frame:
        modality = self.net.msfl.infer_modality(standardise(image)) if told is None else told.to(image.device)
        return Frame(image, modality, None, self.net.encode(image, modality))

    def _first_look(self, first: Frame, second: Frame) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Each cell of image0 with the one that it chooses; it counts where that one chooses it, too."""
        a, b = first.features, second.features
        coarse = self.net.compare(a, b)
        log_p = dual_softmax(coarse.scores(), masked=coarse.masked)
        best, to1 = log_p.max(dim=2)  # (1, N)
        number = torch.arange(best.shape[1], device=best.device)
        counts = log_p.argmax(dim=1).gather(1, to1) == number
        cells = Cells(torch.zeros_like(number), number, to1[0], best[0])
        in0, in1 = self.net.cfdm.refine(cells, coarse, a.fine, b.fine)
        found = assemble(cells, in0, in1, a.coarse.shape[3], b.coarse.shape[3])
        if a.mask is not None:
            counts = counts & a.mask.flatten(1)
        if b.mask is not None:
            counts = counts & b.mask.flatten(1).gather(1, to1)
        return found.points0[None], found.points1[None], found.confidence[None], found.std[None], counts

    def _look_again(
        self, first: Frame, second: Frame, points0: Tensor, points1: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Every cell of both images, after a warp by the field of what was found."""
        ahead, back = self.net.fit_padded(first, second, points0, points1, weight)
        in1, in0 = self.net.see(first, second, ahead), self.net.see(second, first, back)
        (own0, there1, sure0, std0), (own1, there0, sure1, std1) = answers(in1, ahead), answers(in0, back)
        return (
            torch.cat([own0, there0], 1), torch.cat([there1, own1], 1), torch.cat([sure0, sure1], 1),
            torch.cat([std0, std1], 1), torch.cat([in1.valid.flatten(1), in0.valid.flatten(1)], 1),
        )  # fmt: skip

    def _best(
        self, first: Frame, second: Frame, points0: Tensor, points1: Tensor, confidence: Tensor, std: Tensor,
        counts: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        assert first.modality is not None and second.modality is not None
        alike = (first.modality.argmax(1) == second.modality.argmax(1))[:, None]
        same, cross = self._fits.same, self._fits.cross
        confidence = torch.where(alike, same.confidence(confidence), cross.confidence(confidence))
        std = torch.where(alike, same.std(std), cross.std(std))
        valid = counts & (confidence >= self.threshold)
        for points, frame in ((points0, first), (points1, second)):
            inside = (points >= -0.5) & (points < points.new_tensor(frame.image.shape[:1:-1]) - 0.5)
            valid = valid & inside.all(-1)
        confidence, order = (confidence * valid)[0].topk(min(self.matches, confidence.shape[1]))
        best = points0[0, order], points1[0, order], confidence, std[0, order], valid[0, order]
        return dict(zip(OUTPUTS, best, strict=True))


def check_export(path: Path, size0: tuple[int, int], size1: tuple[int, int], precision: Precision) -> None:
    """Refuse what :func:`write_exported` cannot write; args as there.

    Raises:
        ValueError: sizes too small, or so large that all cells cannot be compared at once; another suffix.
        ImportError: ONNX's libraries are absent.
    """
    for size, name in ((size0, "image0"), (size1, "image1")):
        if min(size) < MIN_SIDE:
            raise ValueError(f"{name} is {size[1]}x{size[0]} pixels; each side needs at least {MIN_SIDE}")
    if len(pyramid_sizes((1, 1, *size0), (1, 1, *size1))) > 1:
        side = CELL * 64
        raise ValueError(
            f"{size0[1]}x{size0[0]} and {size1[1]}x{size1[0]} pixels are too many for a fixed graph: export no more "
            f"than two of {side}x{side}, and match larger images in parts or shrunk"
        )
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: the suffix must be one of {', '.join(SUFFIXES)}")
    if path.suffix == ".pt2" and precision != "float32":
        raise ValueError(f"{path}: {precision} is for .onnx alone")
    lacking = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if path.suffix == ".onnx" and lacking:
        raise ImportError(f'{path}: needs {", ".join(lacking)}; install with: pip install "kornia-tar[onnx]"')


def write_exported(
    path: Path, fixed: FixedMatcher, size0: tuple[int, int], size1: tuple[int, int], precision: Precision = "float32"
) -> None:
    """Write a matcher for images of stated sizes: ``.onnx`` for ONNX, ``.pt2`` for ``torch.export.load``.

    Args:
        path: of the file; replaced where it is there, and whole or not there at all.
        fixed: the matcher.
        size0: (H, W) of image0.
        size1: (H, W) of image1.
        precision: of the weights in an ONNX file; "float16" makes a file of half the size, which computes in float32,
            as pixel coordinates need.

    Raises:
        ValueError, ImportError: see :func:`check_export`.
    """
    check_export(path, size0, size1, precision)
    images = tuple(torch.rand(1, 1, *size) for size in (size0, size1))
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        made = Path(folder) / f"made{path.suffix}"
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, on their own future
            program = torch.export.export(fixed, images, strict=False)
            if path.suffix == ".pt2":
                torch.export.save(program, made)
            else:
                _write_onnx(made, program, precision)
        made.replace(path)


def _write_onnx(path: Path, program: torch.export.ExportedProgram, precision: Precision) -> None:
    import onnx
    import onnxruntime

    whole = path.with_name("whole.onnx")
    torch.onnx.export(
        program, (), whole, input_names=list(INPUTS), output_names=list(OUTPUTS), opset_version=OPSET, dynamo=True,
        external_data=False, verbose=False, optimize=False,  # onnxscript's own takes minutes
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # ONNX's operators alone
    options.optimized_model_filepath, options.log_severity_level = str(path), 3
    onnxruntime.InferenceSession(whole, options, providers=["CPUExecutionProvider"])
    model = onnx.load(path)
    if precision == "float16":
        _halve_weights(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)


class Parity(NamedTuple):
    """What a written file says of a pair, beside what the matcher says."""

    matches: int  # valid ones of the file
    expected: int  # of the matcher
    farthest: float  # px, of either's matches from the other's nearest, in either image; 0 of none and none


def compare(path: Path, fixed: FixedMatcher, image0: Tensor, image1: Tensor) -> Parity:
    """Compare what a written file says of a pair with what the matcher says.

    Args:
        path: of :func:`write_exported`.
        fixed: from which it was written.
        image0: as in :meth:`FixedMatcher.forward`.
        image1: likewise.

    Returns:
        how many matches there are, and how far they lie apart at most.
    """
    with torch.no_grad():
        expected = fixed(image0, image1)
        if path.suffix == ".pt2":
            found = torch.export.load(path).module()(image0, image1)
        else:
            import onnxruntime

            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            given = {name: image.numpy() for name, image in zip(INPUTS, (image0, image1), strict=True)}
            found = dict(zip(OUTPUTS, map(torch.from_numpy, session.run(OUTPUTS, given)), strict=True))
    pairs = [torch.cat([out["keypoints0"], out["keypoints1"]], 1)[out["valid"]] for out in (found, expected)]
    counts = len(pairs[0]), len(pairs[1])
    if not all(counts):
        return Parity(*counts, 0.0 if counts[0] == counts[1] else torch.inf)
    apart = torch.cdist(pairs[0], pairs[1], p=torch.inf)
    return Parity(*counts, float(torch.maximum(apart.amin(0).max(), apart.amin(1).max())))


def _halve_weights(model: Any) -> None:
    """Store an ONNX model's larger constants in half precision, each cast to float32 where it is used."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for stored in model.graph.initializer:
        values = numpy_helper.to_array(stored)
        if stored.data_type != TensorProto.FLOAT or values.size < LARGE or abs(values).max() > FLOAT16_MOST:
            continue
        name = stored.name
        stored.CopyFrom(numpy_helper.from_array(values.astype("float16"), f"{name}.half"))
        casts.append(helper.make_node("Cast", [stored.name], [name], to=TensorProto.FLOAT))
    for node in reversed(casts):
        model.graph.node.insert(0, node)
