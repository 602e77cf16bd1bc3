"""Phase correlation with rotation and scale: the Fourier-Mellin method (Reddy and Chatterji, IEEE TIP 1996)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from eval.peers.base import Image, Matches
from eval.peers.store import Store
from kornia_tar.raster import to_grey

Float = NDArray[np.float64]

LARGEST = 3.0  # scales beyond this, either way, are not believed
STEP = 8


class PhaseCorrelation:
    """One similarity for the whole image, handed over as a grid of matches.

    It correlates edges (gradient magnitudes), which the two modalities share more of than grey values. Rotation and
    scale come from the log-polar spectra, which are blind to shifts; rotation is known up to half a turn, so both are
    tried, and no rotation as well: the translation with the highest peak wins.
    """

    name = "phase correlation"
    parameters = 0
    one_transform = True
    settings = f"opencv {cv2.__version__}, edges, log-polar, grid of {STEP} px"

    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match; the confidence of all is the height of the correlation's peak, at most 1."""
        edges0, edges1 = _edges(image0), _edges(image1)
        angle, scale = _turn(edges0, edges1)
        candidates = [(0.0, 1.0)]
        if 1 / LARGEST < scale < LARGEST:
            candidates += [(angle, scale), (angle + np.pi, scale)]
        matrix, peak = max((_shift(edges0, edges1, *candidate) for candidate in candidates), key=lambda found: found[1])
        height, width = image0.shape[:2]
        grid = np.stack(np.meshgrid(np.arange(STEP // 2, width, STEP), np.arange(STEP // 2, height, STEP)), -1)
        points0 = grid.reshape(-1, 2).astype(np.float64)
        points1 = points0 @ matrix[:, :2].T + matrix[:, 2]
        confidence = np.full(len(points0), np.clip(peak, 0, 1), np.float32)
        found = Matches(points0.astype(np.float32), points1.astype(np.float32), confidence)
        return found.on_images(image0, image1)


def _edges(image: Image) -> Float:
    """Gradient magnitudes (H, W), zero mean, faded out towards the border."""
    grey = to_grey(image)
    smooth = cv2.GaussianBlur(grey.astype(np.float64), (0, 0), 1.0)
    edges = np.hypot(cv2.Scharr(smooth, cv2.CV_64F, 1, 0), cv2.Scharr(smooth, cv2.CV_64F, 0, 1))
    window = np.outer(np.hanning(edges.shape[0] + 2)[1:-1], np.hanning(edges.shape[1] + 2)[1:-1])
    return np.asarray((edges - edges.mean()) * window)


def _turn(edges0: Float, edges1: Float) -> tuple[float, float]:
    """Rotation (radians, up to half a turn) and scale of image1 against image0."""
    size = cv2.getOptimalDFTSize(max(*edges0.shape, *edges1.shape))
    polar = []
    for edges in (edges0, edges1):
        spectrum = np.fft.fftshift(np.abs(np.fft.fft2(edges, (size, size))))
        # The low frequencies hold most of the power and hardly any orientation.
        frequency = np.hypot(*np.meshgrid(*[np.fft.fftshift(np.fft.fftfreq(size))] * 2))
        weighed = np.log1p(spectrum) * np.minimum(frequency * 2, 1)
        radius = size / 2
        flags = cv2.INTER_LINEAR | cv2.WARP_POLAR_LOG
        polar.append(cv2.warpPolar(weighed, (size, 2 * size), (size // 2, size // 2), radius, flags))
    window = np.outer(np.ones(2 * size), np.hanning(size + 2)[1:-1])  # angles are periodic, radii are not
    (along, around), _ = cv2.phaseCorrelate(*[(p - p.mean()) * window for p in polar])
    # image1(A x) = image0(x) with A = scale * rotation moves a frequency f to A^-T f: turned, and divided by the scale.
    return around * np.pi / size, float(np.exp(-along * np.log(size / 2) / size))


def _shift(edges0: Float, edges1: Float, angle: float, scale: float) -> tuple[Float, float]:
    """Find the translation that goes with a rotation and scale; returns the matrix (2, 3) and its peak."""
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre0, centre1 = ((np.array(edges.shape[::-1]) - 1) / 2 for edges in (edges0, edges1))
    matrix = np.column_stack([linear, centre1 - linear @ centre0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    turned = cv2.warpAffine(edges1, matrix, edges0.shape[::-1], flags=flags)
    shift, peak = cv2.phaseCorrelate(edges0, np.asarray(turned, np.float64))
    matrix[:, 2] += linear @ shift
    return matrix, float(peak)


def create(store: Store) -> PhaseCorrelation:
    """Build it; it needs nothing."""
    return PhaseCorrelation()
