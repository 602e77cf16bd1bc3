"""Mutual information (Viola and Wells, IJCV 1997; Mattes et al., IEEE TMI 2003) maximised by elastix."""

from __future__ import annotations

from importlib.metadata import version

import cv2
import numpy as np
import torch

from eval.peers.base import Image, Matches
from eval.peers.classical import _grid as grid
from eval.peers.store import Store, need
from kornia_tar.raster import to_grey

INSTALL = "pip install -c constraints.txt itk-elastix"
RESOLUTIONS = 4


class Elastix:
    """elastix's own affine parameters: Mattes mutual information, four resolutions, adaptive gradient descent.

    It starts from no movement and finds one affine transform, handed over as a grid of matches. Its physical
    coordinates are pixels with centres at integers where the spacing is 1 and the origin 0, as here. Where it gives up,
    because too few samples fall on the other image, there are no matches. Apache-2.0.
    """

    name = "elastix, mutual information"
    parameters = 0
    one_transform = True

    def __init__(self) -> None:
        try:
            import itk

            self._defaults = itk.ParameterObject.New().GetDefaultParameterMap("affine", RESOLUTIONS)
        except (ImportError, AttributeError) as error:  # the second: itk without its elastix
            raise need("itk-elastix", INSTALL) from error
        self._itk = itk
        changed = {"AutomaticTransformInitialization": "false", "WriteResultImage": "false", "RandomSeed": "0"}
        for key, value in changed.items():
            self._defaults[key] = (value,)
        self.settings = (
            f"itk-elastix {version('itk-elastix')}, affine, {RESOLUTIONS} resolutions, from identity, grid of"
            f" {grid.STEP} px"
        )

    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match; the confidence of all is the mutual information of the grey values, at least 0."""
        fixed, moving = (_grey(image) for image in (image0, image1))
        parameters = self._itk.ParameterObject.New()
        parameters.AddParameterMap(self._defaults)
        try:
            _, found = self._itk.elastix_registration_method(
                *(self._itk.image_from_array(image) for image in (fixed, moving)),
                parameter_object=parameters, log_to_console=False, number_of_threads=torch.get_num_threads(),
            )  # fmt: skip
        except RuntimeError:
            return grid.none()
        told = found.GetParameterMap(0)
        values, centre = (np.array(told[key], float) for key in ("TransformParameters", "CenterOfRotationPoint"))
        linear = values[:4].reshape(2, 2)
        matrix = np.column_stack([linear, centre + values[4:] - linear @ centre])  # it turns about a centre
        return grid.matches(matrix, _information(fixed, moving, matrix), image0, image1)


def _grey(image: Image) -> np.ndarray:
    return np.ascontiguousarray(to_grey(image), np.float32)


def _information(fixed: np.ndarray, moving: np.ndarray, matrix: np.ndarray, bins: int = 32) -> float:
    """Return the mutual information, in nats, of the grey values where a matrix lays one image on the other."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = fixed.shape[1::-1]
    moved = cv2.warpAffine(moving, matrix, size, flags=flags)
    inside = cv2.warpAffine(np.ones_like(moving), matrix, size, flags=flags) > 0.99
    if inside.sum() < bins**2:  # too little ground in common to tell anything
        return 0.0
    joint, _, _ = np.histogram2d(fixed[inside], moved[inside], bins, ((0, 256), (0, 256)))
    joint /= joint.sum()
    product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    plain = float((joint[seen] * np.log(joint[seen] / product[seen])).sum())
    return max(0.0, plain - (bins - 1) ** 2 / (2 * float(inside.sum())))  # what unrelated values have (Miller, 1955)


def create(store: Store) -> Elastix:
    """Build it; it needs no weights."""
    return Elastix()
