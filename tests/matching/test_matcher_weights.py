"""The shipped weights: what they are, and that a known shift comes back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import ERROR_SCALE, SHIPPED, needs_weights
from safetensors import safe_open

from kornia_tar import TARMatcher
from kornia_tar.raster.synthetic import draw_scene


@needs_weights
def test_shipped_weights_are_small_and_tell_where_they_come_from():
    assert SHIPPED.stat().st_size <= 16 * 2**20
    with safe_open(SHIPPED, framework="pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys() if file.get_tensor(name).is_floating_point()}  # noqa: SIM118
    assert kinds == {torch.float16}
    assert list(SHIPPED.parent.glob("*.md")), "a model card stands beside the weights"
    matcher = TARMatcher("optical-sar")
    assert matcher.text_names and matcher.net.tafe.tokens.abs().sum() > 0
    assert {"encoder", "names", "templates"} <= set(matcher.info["text"])
    assert {"step", "minutes", "train", "pairs"} <= set(matcher.info)


def half_pixel_crops(image: np.ndarray, side: int, shift: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Two crops of one image at half its resolution, ``shift`` (x, y) full-resolution pixels apart."""
    x, y = shift
    crops = (image[: 2 * side, : 2 * side], image[y : y + 2 * side, x : x + 2 * side])
    return tuple(F.avg_pool2d(torch.from_numpy(c.copy())[None, None].float() / 255, 2) for c in crops)  # type: ignore[return-value]


def check_shift(matcher: TARMatcher, image: np.ndarray, modality: str) -> None:
    """3.5 px in x and in y come back within 0.2 px."""
    first, second = half_pixel_crops(image[:, :], 160, (7, 7))
    out = matcher({"image0": first, "image1": second, "modality0": modality, "modality1": modality})
    found = (out["keypoints1"] - out["keypoints0"]).median(0).values
    assert len(out["confidence"]) > 50
    torch.testing.assert_close(found, torch.tensor([-3.5, -3.5]), atol=0.2, rtol=0)


@needs_weights
@torch.no_grad()
@pytest.mark.parametrize("modality", ["optical", "sar"])
def test_a_known_shift_comes_back_on_a_drawn_scene(modality):
    scene = draw_scene(3, 384)
    check_shift(TARMatcher(), scene.optical[:, :, 1] if modality == "optical" else scene.sar, modality)


@needs_weights
@torch.no_grad()
def test_a_known_shift_comes_back_on_a_real_image():
    cv2 = pytest.importorskip("cv2")
    files = sorted((ERROR_SCALE / "data" / "bench" / "srif-opt-sar").glob("*.optical.*"))
    if not files:
        pytest.skip("no ../shared/data/bench/srif-opt-sar")
    matcher = TARMatcher()
    for file in files[:3]:
        image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        if min(image.shape) < 328:
            image = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        check_shift(matcher, image, "optical")
