"""What a teacher asks of MSFL: of optical images alone, and nothing where it is said already."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import texture

from eval.studies.teacher import DESCRIPTOR, SIZE, Lesson, TaughtNet, write
from eval.studies.text.single_pass import FIGURES
from kornia_tar.training.augment import Deformation, make_batch
from kornia_tar.training.data import Pairs
from kornia_tar.training.losses import LossWeights, step_loss


@pytest.fixture(scope="module")
def batch():
    sar = torch.from_numpy(np.stack([texture(seed) for seed in (0, 1)]))[:, None]
    pairs = Pairs(
        sar.expand(-1, 3, -1, -1).contiguous(), sar, ("a", "b"), torch.ones(2), torch.full((2,), -1),
        torch.ones(2, dtype=torch.bool),
    )  # fmt: skip
    return make_batch(pairs, torch.arange(2), 64, Deformation(), torch.Generator().manual_seed(0))


def test_the_lesson_is_the_cosine_to_what_the_teacher_says_of_optical_images(batch):
    torch.manual_seed(0)
    net, seen = TaughtNet(SIZE).train(), []

    def teacher(image: torch.Tensor) -> torch.Tensor:
        seen.append(image)
        said = torch.zeros(len(image), DESCRIPTOR, *(side // 8 for side in image.shape[2:]))
        said[:, 3] = 2.0
        return said

    torch.nn.init.zeros_(net.lesson.weight)
    torch.nn.init.zeros_(net.lesson.bias)
    net.lesson.bias.data[3] = 5.0
    ask = lambda loss: loss(net, batch, None, LossWeights(), 4, torch.Generator().manual_seed(1))  # noqa: E731
    total, log = ask(Lesson(teacher))
    assert float(log["lesson"]) == pytest.approx(0, abs=1e-5)
    optical = torch.cat([batch.modality0, batch.modality1])[:, 0] == 1
    assert 0 < len(seen[0]) == int(optical.sum())
    net.lesson.bias.data[3:5] = torch.tensor([0.0, 5.0])
    total, log = ask(Lesson(teacher))
    assert float(log["lesson"]) == pytest.approx(1)
    assert float((total - ask(step_loss)[0]).detach()) == pytest.approx(1, abs=0.05)
    total.backward()
    assert net.lesson.weight.grad.abs().sum() > 0


def test_the_table_names_both(tmp_path):
    figures = {"val, tar": dict.fromkeys(FIGURES, 1.5)}
    text = write([("alone", 0, figures), ("taught", 0, figures)], "title", tmp_path / "t.md").read_text()
    assert text.count("| 1.50") == 2 * len(FIGURES) and "taught by XFeat" in text
