"""Averages of weights: two networks that were trained on from the same one often have a better one between them.

After Wortsman et al., "Model soups" and "Robust fine-tuning of zero-shot models" (2022): what fine-tuning gains on its
own data and what the weights before it can do elsewhere are both kept.
"""

from __future__ import annotations

from pathlib import Path

from kornia_tar.network.checkpoint import load_checkpoint, resolve_weights, save_checkpoint


def average_checkpoints(first: str | Path, second: str | Path, share: float, out: Path) -> None:
    """Write the weighted mean of two checkpoints of one configuration; fits are left out, for they hold no longer.

    Args:
        first: a checkpoint, or the name of shipped weights; its provenance is kept.
        second: one of the same configuration, trained on from the first or from what the first was.
        share: of the second, in [0, 1].
        out: the checkpoint to write.

    Raises:
        ValueError: a share beyond [0, 1], or networks that differ in their configuration.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; need one in [0, 1]")
    (net, info), (other, other_info) = (load_checkpoint(resolve_weights(name)) for name in (first, second))
    if net.config != other.config:
        raise ValueError(f"{first} and {second} are networks of two configurations: their weights have no mean")
    theirs = other.state_dict()
    mean = {
        name: (1 - share) * own + share * theirs[name] if own.is_floating_point() else own
        for name, own in net.state_dict().items()
    }
    net.load_state_dict(mean)
    kept = {key: value for key, value in info.items() if key != "calibration"}
    save_checkpoint(out, net, kept | {"average": {"with": other_info, "share": share}})
