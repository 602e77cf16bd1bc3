"""The few building blocks that MSFL, TAFE and CFDM share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Padding = Literal["zeros", "reflect", "replicate", "circular"]  # beyond the border, in torch.nn.Conv2d's words
NODATA = -1e4  # logit of what must not be matched; finite in every float type
KEYS = 2048  # tokens that answer one by one; of more, four neighbours answer as one, nearer to training's numbers


class RepConv(nn.Module):
    """3×3 convolution with 1×1 and identity branches, BatchNorm and ReLU; one plain 3×3 convolution after :meth:`fuse`.

    RepVGG (arXiv 2101.03697) runs its branches side by side, each with a norm of its own. Here the branches share one
    norm, so their *kernels* are summed before the convolution: training costs one convolution instead of three, and
    fusing only folds the norm in (our choice; QARepVGG reports that norms after the sum train as well).

    Shapes: (B, C, H, W) → (B, C, H, W).

    Args:
        channels: C.
        padding: beyond the border.
    """

    identity: Tensor

    def __init__(self, channels: int, padding: Padding = "zeros") -> None:
        super().__init__()
        self.padding = padding
        self.kernel3 = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.kernel1 = nn.Parameter(torch.empty(channels, channels, 1, 1))
        self.register_buffer("identity", nn.init.dirac_(torch.empty(channels, channels, 3, 3)), persistent=False)
        self.norm: nn.BatchNorm2d | None = nn.BatchNorm2d(channels)
        self.fused: nn.Conv2d | None = None
        nn.init.kaiming_normal_(self.kernel3, nonlinearity="relu")
        nn.init.kaiming_normal_(self.kernel1, nonlinearity="relu")

    def kernel(self) -> Tensor:
        """The sum of the three branches as one (C, C, 3, 3) kernel."""
        return self.kernel3 + F.pad(self.kernel1, (1, 1, 1, 1)) + self.identity

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalise, rectify."""
        if self.fused is not None:
            return F.relu(self.fused(x), inplace=True)  # its gradient needs what comes out alone
        assert self.norm is not None
        if self.padding == "zeros":
            return F.relu(self.norm(F.conv2d(x, self.kernel(), padding=1)))
        return F.relu(self.norm(F.conv2d(F.pad(x, (1, 1, 1, 1), mode=self.padding), self.kernel())))

    def fuse(self) -> None:
        """Replace the branches by one convolution with the same output in eval mode; not reversible."""
        if self.fused is not None:
            return
        self.fused = fold_norm(self.kernel(), None, self.norm, 1, self.padding)
        self.norm = None
        del self.kernel3, self.kernel1, self.identity


class Down(nn.Module):
    """Halve the resolution: 4×4 convolution with stride 2, BatchNorm, ReLU.

    An even kernel keeps the grid centred: output pixel ``k`` looks at the input around ``2k + 0.5``, the middle of the
    2×2 block that it stands for, so a coarse cell's feature belongs to the cell's exact centre at every scale.

    Shapes: (B, C_in, H, W) → (B, C_out, H/2, W/2).
    """

    def __init__(self, c_in: int, c_out: int, padding: Padding = "zeros") -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 4, stride=2, padding=1, bias=False, padding_mode=padding)
        self.norm: nn.BatchNorm2d | None = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalise, rectify."""
        x = self.conv(x)
        return F.relu(x, inplace=True) if self.norm is None else F.relu(self.norm(x))

    def fuse(self) -> None:
        """Fold the norm into the convolution."""
        if self.norm is not None:
            self.conv = fold_norm(self.conv.weight, self.conv.bias, self.norm, 2, self.conv.padding_mode)
            self.norm = None


def run_plain(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Run layers one after the other."""
    for layer in layers:
        x = layer(x)
    return x


def run_with_edges(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Run :class:`RepConv` and :class:`Down` as if what lies beyond the border went on as the border is.

    They fill with zeros, which a few layers later tell every feature how far the border is. Here each sees its input
    with its outermost pixels repeated, and what it says of them is cut off.

    Args:
        layers: in their order.
        x: (B, C, H, W).

    Returns:
        what :func:`run_plain` returns, where the zeros do not reach.
    """
    for layer in layers:
        cut = 1 if isinstance(layer, Down) else 2
        x = layer(F.pad(x, (2, 2, 2, 2), mode="replicate"))[:, :, cut:-cut, cut:-cut]
    return x


@torch.no_grad()
def fold_norm(
    kernel: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d | None, stride: int, padding: Padding
) -> nn.Conv2d:
    """The convolution that equals ``kernel`` followed by ``norm`` with its running statistics."""
    assert norm is not None and norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[-1], stride, 1, padding_mode=padding)
    conv = conv.to(kernel.device, kernel.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    conv.weight.copy_(kernel * scale[:, None, None, None])
    conv.bias.copy_(norm.bias + scale * ((0 if bias is None else bias) - norm.running_mean))  # type: ignore[union-attr]
    return conv


class Attention(nn.Module):
    """Pre-norm multi-head attention and MLP, each added through a per-channel gate that starts closed.

    Training lets convolutional features learn first; then ``CFDM.open_gates`` opens the gates a
    little, a nudge instead of a shock.

    Args:
        dim: width ``d`` of the tokens.
        heads: number of heads ``h``; ``d / h`` must be a multiple of 4 for the 2-D rotary code.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim)
        self.gate = nn.Parameter(torch.zeros(dim))
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.mlp_gate = nn.Parameter(torch.zeros(dim))

    def forward(
        self, x: Tensor, source: Tensor, grid: tuple[int, int], rope: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Let ``x`` look at ``source`` (itself, or the other image).

        Args:
            x: (B, N, d) tokens that ask.
            source: (B, M, d) tokens that answer; more than ``KEYS`` answer by fours.
            grid: rows and columns of ``source``.
            rope: (N, d/h) rotary angles of ``x`` and ``source``; for self-attention only.
            mask: (B, M) additive logits, 0 for usable tokens and strongly negative for nodata.

        Returns:
            (B, N, d).
        """
        B, N, d = x.shape
        split = (B, -1, self.heads, d // self.heads)
        y = self.norm(source)
        q = self.query(self.norm(x)).view(split).transpose(1, 2)  # (B, h, N, d/h)
        k, v = (t.view(split).transpose(1, 2) for t in self.key_value(y).chunk(2, dim=-1))  # (B, h, M, d/h)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        if source.shape[1] > KEYS:
            k, v, mask = by_fours(k, v, mask, grid)
        logits = None if mask is None else mask[:, None, None, :].to(q.dtype)
        message = F.scaled_dot_product_attention(q, k, v, attn_mask=logits).transpose(1, 2).reshape(B, N, d)
        x = x + self.gate * self.out(message)
        return x + self.mlp_gate * self.mlp(x)


def by_fours(k: Tensor, v: Tensor, mask: Tensor | None, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Average the keys and values of 2×2 neighbours, of those that are usable.

    An average has the say of as many tokens as it is made of: attention to four equal tokens, and to their average, is
    the same.

    Args:
        k: (B, h, M, D) keys, row by row.
        v: (B, h, M, D) values.
        mask: (B, M) additive logits, 0 for usable tokens and strongly negative for others; or None.
        grid: rows and columns, M in all; where they are odd, the last ones are averaged by twos.

    Returns:
        Keys and values (B, h, M', D) of a grid of half the size, and their logits (B, M'), None where all count alike.
    """
    if mask is None and not (grid[0] % 2 or grid[1] % 2):
        return _average(k, grid), _average(v, grid), None
    usable = k.new_ones(len(k), 1, k.shape[2], 1) if mask is None else (mask > NODATA / 2).to(k.dtype)[:, None, :, None]
    share = _average(usable, grid)
    k, v = (_average(t * usable, grid) / share.clamp_min(0.25) for t in (k, v))
    return k, v, torch.where(share > 0, share.clamp_min(0.25).log(), NODATA)[:, 0, :, 0]


def _average(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Average 2×2 neighbours of a grid of tokens (B, h, M, D), with zeros beyond it."""
    size, heads = tokens.shape[:2]
    maps = tokens.reshape(size * heads, *grid, -1)
    maps = F.pad(maps, (0, 0, 0, grid[1] % 2, 0, grid[0] % 2))
    maps = maps.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).mean((2, 4))
    return maps.view(size, heads, -1, tokens.shape[3])


def rotary_angles(grid: tuple[int, int], dim: int, device: torch.device) -> Tensor:
    """Angles of the 2-D rotary position code: first half of the pairs turns with x, second half with y.

    Args:
        grid: rows and columns of the tokens.
        dim: width of one head, a multiple of 4.
        device: where the angles are made.

    Returns:
        (H·W, dim) float32, radians; entries ``2m`` and ``2m + 1`` are equal.
    """
    height, width = grid
    frequency = 100.0 ** (-torch.arange(0, dim // 4, device=device, dtype=torch.float32) / (dim // 4))
    y, x = torch.meshgrid(
        torch.arange(height, device=device, dtype=torch.float32),
        torch.arange(width, device=device, dtype=torch.float32),
        indexing="ij",
    )
    angles = torch.cat([x.flatten()[:, None] * frequency, y.flatten()[:, None] * frequency], dim=-1)
    return angles.repeat_interleave(2, dim=-1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the channel pairs of ``x`` (…, N, D) by ``angles`` (N, D): RoPE, arXiv 2104.09864."""
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = torch.stack((-odd, even), dim=-1).flatten(-2)
    return x * angles.cos().to(x.dtype) + turned * angles.sin().to(x.dtype)
