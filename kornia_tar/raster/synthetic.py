"""A synthetic optical-SAR scene, drawn by this code from a seed; no real image stands behind it.

One map of the ground (what grows or stands where, and how high) is rendered twice: as an optical image with
sunlight, and as a radar image seen from the left with speckle, layover, double bounce and shadow. It resembles
Sentinel-1 and Sentinel-2 at 10 m or a little finer, enough to try a matcher on, not to train or to judge one.

Convention:
    Pixel centres at integers, x before y, origin top-left; the matrix maps the optical image0 to the SAR image1.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kornia_tar.geometry import warp_image

Array = NDArray[Any]
Roofs = list[tuple[Array, float]]  # corners (4, 2) of each building, and its brightness
FIELD, FOREST, WATER, ROAD, TOWN, ROOF = range(6)


@dataclass(frozen=True)
class Scene:
    """Two renderings of the same ground, aligned pixel to pixel."""

    optical: NDArray[np.uint8]  # (H, W, 3) RGB
    sar: NDArray[np.uint8]  # (H, W) decibels stretched to 0-255


@dataclass
class _Ground:
    cover: Array  # (H, W) one of FIELD ... ROOF
    crop: Array  # (H, W) number of the parcel, each with its own colour and roughness
    relief: Array  # (H, W) height of the bare ground, pixels
    hedge: Array  # (H, W) bool, rows of trees between parcels
    roofs: Roofs


def draw_scene(seed: int = 0, size: int = 512) -> Scene:
    """Draw a synthetic scene of ``size`` x ``size`` pixels; equal seeds give equal pixels."""
    ground = _lay_out(rng := np.random.default_rng(seed), size)
    return Scene(_render_optical(ground, rng), _render_sar(ground, rng))


def demo_pair(seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float64]]:
    """Optical image (512, 512, 3), SAR image (512, 512) and the true (3, 3) matrix from the first to the second.

    The SAR image is turned by 20-30 degrees either way, enlarged 1.15 times and shifted by up to 25 pixels.
    """
    rng = np.random.default_rng([seed, 1])
    size, margin = 512, 136
    scene = draw_scene(seed, size + 2 * margin)
    degrees, centre = rng.uniform(20, 30) * rng.choice([-1, 1]), ((size - 1) / 2,) * 2
    truth = np.vstack([cv2.getRotationMatrix2D(centre, degrees, 1.15), [0.0, 0, 1]])
    truth[:2, 2] += rng.uniform(-25, 25, 2)
    into_scene = np.linalg.inv(truth)
    into_scene[:2, 2] += margin
    sar = warp_image(scene.sar, into_scene, (size, size), interpolation=cv2.INTER_CUBIC)
    return scene.optical[margin:-margin, margin:-margin].copy(), sar, truth


def _lay_out(rng: np.random.Generator, size: int) -> _Ground:
    """Parcels between hedges, woods, a river, roads and villages, on gentle hills."""
    x, y = np.meshgrid(np.arange(size, dtype=np.float32), np.arange(size, dtype=np.float32))
    angle = rng.uniform(0, np.pi)
    bend = 9 * _noise(rng, size, 1.0, finest=6)
    u, v = x * np.cos(angle) + y * np.sin(angle) + bend, y * np.cos(angle) - x * np.sin(angle) + bend
    crop = np.zeros((size, size), np.int32)
    _split(rng, crop, np.ones_like(crop, bool), u, v, [u.min(), u.max(), v.min(), v.max()])
    edge = cv2.morphologyEx(crop.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0

    relief = 7 * _noise(rng, size, 1.5, finest=5)
    cover = np.full((size, size), FIELD, np.uint8)
    cover[_noise(rng, size, 1.1) + 0.06 * relief > 1.0] = FOREST
    hedge = edge & (_noise(rng, size, 1.5) > 0.2) & (cover == FIELD)

    t, across = (x / size, y) if rng.random() < 0.5 else (y / size, x)  # the river crosses the whole scene
    bends = [(0.1 * size, 1.3), (14, 5.3), (6, 11.0)]  # amplitude in pixels, waves over the scene
    middle = size * rng.uniform(0.3, 0.7) + sum(a * np.sin(2 * np.pi * (f * t + rng.random())) for a, f in bends)
    bank = np.abs(across - middle)
    cover[bank < 16 + 8 * _noise(rng, size, 1.0)] = FOREST

    villages = rng.uniform(0.1, 0.9, (6, 2)) * size
    reach = rng.uniform(22, 60, 6)
    roofs: Roofs = []
    for centre, radius in zip(villages, reach, strict=True):
        inside = np.hypot(x - centre[0], y - centre[1]) / radius + 0.45 * _noise(rng, size, 0.8) < 1
        cover[inside & (bank > 14)] = TOWN
        roofs += _build(rng, centre, radius, angle + rng.uniform(-0.3, 0.3), inside & (bank > 14))
    cover[bank < 5.5 + 1.5 * _noise(rng, size, 0.8)] = WATER

    roads = np.zeros((size, size), np.uint8)
    town = villages[np.argmax(reach)]
    west, east, north, south = rng.uniform(0.1, 0.9, (4, 2)) * size * [[0, 1], [0, 1], [1, 0], [1, 0]]
    east[0] = south[1] = size
    chain = [west, *villages[np.argsort(villages[:, 0])], east]
    for a, b in [*pairwise(chain), (north, town), (town, south)]:
        s = np.linspace(0, 1, 40)[:, None]
        curve = a + s * (b - a) + 2 * s * (1 - s) * rng.normal(0, 0.05 * size, 2)
        cv2.polylines(roads, [_fixed_point(curve)], False, 1, int(rng.integers(2, 4)), cv2.LINE_8, 4)
    cover[roads > 0] = ROAD
    for corners, _ in roofs:
        _fill(cover, corners, ROOF)
    return _Ground(cover, crop, relief, hedge, roofs)


def _render_optical(ground: _Ground, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Colours by cover, texture at several scales, sun from the upper left, shadows of houses and woods."""
    palette = np.array([[104, 112, 78], [122, 112, 90], [90, 100, 70], [140, 126, 102], [82, 96, 64], [110, 96, 80]])
    count = ground.crop.max() + 1
    colours = palette[rng.integers(0, len(palette), count)] + rng.normal(0, 7, (count, 1))
    image = 1.1 * (colours + rng.normal(0, 2.5, (count, 3)))[ground.crop]
    fine, coarse = (_noise(rng, len(image), coarseness)[..., None] for coarseness in (0.1, 1.0))
    image += 3 * fine + 5 * coarse
    image[ground.hedge] = (52, 66, 42)
    covers = {FOREST: (10, 44, 62, 40), WATER: (1, 42, 62, 70), ROAD: (4, 158, 150, 138), TOWN: (14, 112, 112, 94)}
    for cover, (rough, *colour) in covers.items():
        where = ground.cover == cover
        image[where] = (np.array(colour) + rough * fine + 4 * coarse)[where]
    for corners, brightness in ground.roofs:
        _fill(image, corners + 1, (46, 48, 50))
        _fill(image, corners, np.array([188, 172, 158]) * brightness)
    image *= 1 + 0.5 * sum(np.gradient(ground.relief))[..., None]
    return cv2.GaussianBlur(np.rint(image.clip(0, 255)).astype(np.uint8), (0, 0), 0.6)


def _render_sar(ground: _Ground, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Backscatter in decibels by cover, slopes and walls facing the sensor on the left, speckle."""
    size = len(ground.cover)
    decibels = rng.normal(-14, 2.2, ground.crop.max() + 1)[ground.crop] + 0.8 * _noise(rng, size, 0.8)
    decibels[ground.hedge] = -8
    covers = {FOREST: (-10.5, 1.5), WATER: (-22, 0.3), ROAD: (-18.5, 0.3), TOWN: (-9, 3), ROOF: (-7, 2)}
    texture = _noise(rng, size, 0.3)
    for cover, (level, rough) in covers.items():
        where = ground.cover == cover
        decibels[where] = (level + rough * texture)[where]
    decibels += 18 * np.gradient(ground.relief)[1]  # a slope that rises to the right faces the sensor
    woods = cv2.GaussianBlur((ground.cover == FOREST).astype(np.float32), (0, 0), 1.0)
    decibels += 12 * np.gradient(woods)[1]  # so does the left edge of a wood; its right edge casts a shadow

    power = 10 ** (decibels / 10)
    for corners, brightness in ground.roofs:
        near_to_far = corners[np.argsort(corners[:, 0])]
        left, right, height = near_to_far[:2], near_to_far[2:], np.array([0.5 + 1.5 * brightness, 0])
        _fill(power, np.vstack([right, right[::-1] + height]), 10**-2.1)  # shadow behind
        _fill(power, np.vstack([left, left[::-1] - height]), 10**-0.4)  # layover, towards the sensor
        double_bounce = float(10 ** (0.2 + 0.6 * brightness))
        cv2.polylines(power, [_fixed_point(left)], False, double_bounce, 1, cv2.LINE_8, 4)
    power = cv2.GaussianBlur(power * rng.gamma(2, 1 / 2, power.shape), (0, 0), 0.7)
    decibels = 10 * np.log10(power)
    low, high = np.percentile(decibels, (1, 99))
    return np.rint(((decibels - low) / (high - low)).clip(0, 1) * 255).astype(np.uint8)


def _split(rng: np.random.Generator, crop: Array, region: Array, u: Array, v: Array, box: list[float]) -> None:
    """Cut a box of (u, v) in two until its parts are parcels, numbered in ``crop``."""
    axis = 0 if box[1] - box[0] > box[3] - box[2] else 2
    length = box[axis + 1] - box[axis]
    if length < rng.uniform(22, 75) or not region.any():
        crop[region] = crop.max() + 1
        return
    cut = box[axis] + length * rng.uniform(0.3, 0.7)
    first = (u, v)[axis // 2] < cut
    low, high = box.copy(), box.copy()
    low[axis + 1] = high[axis] = cut
    _split(rng, crop, region & first, u, v, low)
    _split(rng, crop, region & ~first, u, v, high)


def _build(rng: np.random.Generator, centre: Array, radius: float, angle: float, inside: Array) -> Roofs:
    """Houses in rows along streets, and a few halls."""
    axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    roofs = []
    for a in np.arange(-radius * 1.3, radius * 1.3, 7):
        for b in np.arange(-radius * 1.3, radius * 1.3, 9):
            hall = rng.random() < 0.05
            half = rng.uniform(4, 8, 2) if hall else rng.uniform(1, 2.3, 2)
            middle = centre + (np.array([a, b]) + rng.uniform(-1.5, 1.5, 2)) @ axes
            column, row = np.rint(middle).astype(int).clip(0, len(inside) - 1)
            if inside[row, column] and rng.random() < 0.8:
                box = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
                roofs.append((middle + box @ axes, rng.uniform(0.9, 1.3) if hall else rng.uniform(0.5, 1.05)))
    return roofs


def _noise(rng: np.random.Generator, size: int, coarseness: float, finest: int = 2) -> Array:
    """Noise of unit variance in octaves of 2**finest ... 128 pixels, each ``1 + coarseness`` times the finer one."""
    out = np.zeros((size, size), np.float32)
    for octave in range(finest, 8):
        cells = rng.normal(0, 1, (size // 2**octave + 3,) * 2).astype(np.float32)
        zoom = cv2.resize(cells, None, fx=2**octave, fy=2**octave, interpolation=cv2.INTER_CUBIC)
        out += zoom[:size, :size] * (1 + coarseness) ** octave
    return (out - out.mean()) / out.std()


def _fill(image: Array, corners: Array, value: Any) -> None:
    cv2.fillConvexPoly(image, _fixed_point(corners), np.ravel(value).astype(float).tolist(), cv2.LINE_8, 4)


def _fixed_point(points: Array) -> Array:
    """What OpenCV draws with ``shift=4``: sixteenths of a pixel."""
    return np.rint(points * 16).astype(np.int32)
