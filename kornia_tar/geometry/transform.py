"""Transform: what leads from image0's pixels to image1's, a matrix and, where one is not enough, a smooth field."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kornia_tar.geometry.fit import fit_least_squares
from kornia_tar.geometry.least_squares import MINIMAL_POINTS, TransformModel
from kornia_tar.geometry.matrix import FloatArray, as_matrix, compose, invert, transform_points

MAX_NODES = 2**20  # of a field that is read
NEWTON_STEPS = 8

PointMap = Callable[[FloatArray], FloatArray]  # (N, 2) px → (N, 2) px


@dataclass(frozen=True)
class DisplacementField:
    """What a smooth map adds to a matrix: vectors at the nodes of a raster, bilinear between them, constant outside.

    Attributes:
        origin: (x, y) px of image0, where node (0, 0) lies.
        spacing: (along x, along y) px of image0 between nodes.
        shift: (R, C, 2) px of image1, (x, y) to add.
    """

    origin: tuple[float, float]
    spacing: tuple[float, float]
    shift: FloatArray

    def __post_init__(self) -> None:
        shift = np.asarray(self.shift, np.float64)
        if shift.ndim != 3 or shift.shape[2] != 2 or min(shift.shape) < 1 or not np.isfinite(shift).all():
            raise ValueError(f"a field's shifts have the shape {shift.shape}; they must be (R, C, 2), all finite")
        if not min(self.spacing) > 0 or not np.isfinite([*self.origin, *self.spacing]).all():
            raise ValueError(f"a field's origin is {self.origin} and its spacing {self.spacing} px: need spacing > 0")
        object.__setattr__(self, "shift", shift)

    @classmethod
    def over(cls, size: tuple[int, int], spacing: float, shift: PointMap) -> DisplacementField:
        """Sample a function of points on a raster that covers an image.

        Args:
            size: (H, W) of image0.
            spacing: px, at most, between nodes; the outer ones lie on the image's outer pixels.
            shift: (N, 2) px of image0 → (N, 2) px of image1 to add there.
        """
        rows, columns = (max(2, int(np.ceil((length - 1) / spacing)) + 1) for length in size)
        steps = (size[1] - 1) / (columns - 1), (size[0] - 1) / (rows - 1)
        y, x = np.mgrid[:rows, :columns]
        nodes = np.stack([x.ravel() * steps[0], y.ravel() * steps[1]], 1)
        return cls((0.0, 0.0), steps, np.asarray(shift(nodes)).reshape(rows, columns, 2))

    def __call__(self, points: ArrayLike) -> FloatArray:
        """Return the shifts (N, 2) at points (N, 2) px of image0."""
        at = (np.asarray(points, np.float64).reshape(-1, 2) - self.origin) / self.spacing
        last = np.array(self.shift.shape[1::-1]) - 1
        at = np.nan_to_num(at, nan=0.0, posinf=0.0, neginf=0.0).clip(0, last)
        low = np.minimum(np.floor(at).astype(int), np.maximum(last - 1, 0))
        high, part = np.minimum(low + 1, last), at - low
        v, (x, y) = self.shift, part.T[..., None]
        top = v[low[:, 1], low[:, 0]] * (1 - x) + v[low[:, 1], high[:, 0]] * x
        bottom = v[high[:, 1], low[:, 0]] * (1 - x) + v[high[:, 1], high[:, 0]] * x
        return top * (1 - y) + bottom * y


@dataclass(frozen=True)
class Transform:
    """image0's pixels → image1's: ``T(x) = matrix · x + field(x)``.

    Attributes:
        matrix: (3, 3).
        field: what is added; None where the matrix is all.

    Example:
        >>> shift = Transform(np.array([[1.0, 0, 5], [0, 1, -2], [0, 0, 1]]))
        >>> shift(np.array([[10.0, 10.0]])).tolist()
        [[15.0, 8.0]]
    """

    matrix: FloatArray
    field: DisplacementField | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", as_matrix(self.matrix))

    @classmethod
    def of(
        cls, points: PointMap, size: tuple[int, int], spacing: float = 16.0, model: TransformModel = "affine",
        tolerance: float = 0.01,
    ) -> Transform:  # fmt: skip
        """Describe any smooth map by the matrix that fits it best and a field of what is left.

        Args:
            points: the map, (N, 2) px of image0 → (N, 2) px of image1, finite over image0.
            size: (H, W) of image0.
            spacing: px between nodes.
            model: of the matrix.
            tolerance: px of image1; where the matrix alone comes as close at every node, there is no field.

        Raises:
            ValueError: a map that is not finite over image0, or that no matrix fits.
        """
        nodes = DisplacementField.over(size, spacing, lambda at: at).shift.reshape(-1, 2)
        there = points(nodes)
        if not np.isfinite(there).all():
            raise ValueError("the map is not defined all over image0")
        matrix = fit_least_squares(nodes, there, model) if len(nodes) >= MINIMAL_POINTS[model] else None
        if matrix is None:
            raise ValueError(f"no {model} transform fits the map: it is degenerate")
        if np.linalg.norm(transform_points(matrix, nodes) - there, axis=1).max() <= tolerance:
            return cls(matrix)
        return cls(matrix, DisplacementField.over(size, spacing, lambda at: points(at) - transform_points(matrix, at)))

    def __call__(self, points: ArrayLike) -> FloatArray:
        """Map points (N, 2) px of image0; behind a homography's horizon they become inf."""
        there = transform_points(self.matrix, points)
        return there if self.field is None else there + self.field(points)

    def after(self, matrix: ArrayLike, size: tuple[int, int]) -> Transform:
        """Apply a matrix first: ``x → T(matrix · x)``, over an image0 of ``size`` (H, W)."""
        joined = compose(matrix, self.matrix)
        if self.field is None:
            return Transform(joined)
        first, field = as_matrix(matrix), self.field
        shift = DisplacementField.over(size, min(field.spacing), lambda x: field(transform_points(first, x)))
        return Transform(joined, shift)

    def then_back(self, other: Transform, size: tuple[int, int]) -> Transform:
        """Go to image1 by this and back by another: ``x → other⁻¹(T(x))``, over an image0 of ``size`` (H, W)."""
        joined = compose(self.matrix, invert(other.matrix))
        if self.field is None and other.field is None:
            return Transform(joined)
        spacing = min(min(field.spacing) for field in (self.field, other.field) if field is not None)
        rest = lambda x: other.inverse_points(self(x)) - transform_points(joined, x)  # noqa: E731
        return Transform(joined, DisplacementField.over(size, spacing, rest))

    def inverse_points(self, points: ArrayLike) -> FloatArray:
        """Map points (N, 2) px of image1 back to image0, by Newton steps with the matrix; exact where no field is."""
        goal = np.asarray(points, np.float64).reshape(-1, 2)
        back = invert(self.matrix)
        found = transform_points(back, goal)
        if self.field is not None:
            for _ in range(NEWTON_STEPS):
                found = transform_points(back, goal - self.field(found))
        return found

    def inverse(self, size1: tuple[int, int]) -> Transform:
        """Return image1 → image0, over an image1 of ``size1`` (H, W)."""
        back = invert(self.matrix)
        if self.field is None:
            return Transform(back)
        rest = lambda x: self.inverse_points(x) - transform_points(back, x)  # noqa: E731
        return Transform(back, DisplacementField.over(size1, min(self.field.spacing), rest))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; inverse of :meth:`from_dict`."""
        plain: dict[str, Any] = {"matrix": self.matrix.tolist()}
        if self.field is not None:
            plain["field"] = {"origin": list(self.field.origin), "spacing": list(self.field.spacing),
                              "shift": self.field.shift.round(4).tolist()}  # fmt: skip
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Transform:
        """Read what :meth:`to_dict` gives.

        Raises:
            ValueError: something is missing, not finite, or too large.
        """
        try:
            matrix, field = np.asarray(values["matrix"], np.float64), values.get("field")
            if not np.isfinite(matrix).all() or abs(np.linalg.det(as_matrix(matrix))) < 1e-12:
                raise ValueError("its matrix is not finite or has no inverse")
            if field is None:
                return cls(matrix)
            shift = np.asarray(field["shift"], np.float64)
            if shift.size > 2 * MAX_NODES:
                raise ValueError(f"its field has {shift.size // 2} nodes, more than {MAX_NODES}")
            origin, spacing = ((float(field[key][0]), float(field[key][1])) for key in ("origin", "spacing"))
            return cls(matrix, DisplacementField(origin, spacing, shift))
        except (KeyError, TypeError, IndexError, AttributeError, np.linalg.LinAlgError) as error:
            raise ValueError(f"not a transform: {type(error).__name__} {error}") from None

    def maps(self, rows: slice, columns: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Map a block of image0's pixels into image1: x and y, (H, W) float32 each, as ``cv2.remap`` takes them."""
        y, x = np.mgrid[rows, columns]
        there = self(np.stack([x.ravel(), y.ravel()], 1)).reshape(*x.shape, 2)
        there = np.where(np.isfinite(there), there, -1e6).astype(np.float32)
        return np.ascontiguousarray(there[..., 0]), np.ascontiguousarray(there[..., 1])
