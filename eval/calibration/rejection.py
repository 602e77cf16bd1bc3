"""How often the registrar trusts what it must not: images of different places, and what its checks cost on true pairs.

A mismatched pair is one place's image0 and the image1 of another, half of the sorted set away, each as the level shows
it. Hundreds of them take an hour: every outcome is kept as it comes, and no pair is registered twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from eval.benchmark.pairs import LevelPairs, subsample
from eval.benchmark.provenance import provenance
from eval.datasets import Dataset
from eval.peers.ours.tar import TAR
from eval.report.markdown import grid
from kornia_tar import Registrar, RegistrarConfig
from kornia_tar.files import replacing, write_json, write_text
from kornia_tar.geometry import corner_error

RIGHT = 5.0  # px of the mean corner error


@dataclass(frozen=True)
class Outcome:
    """One registration, as far as it counts here."""

    name: str  # of a mismatched pair "<one> and <other>"
    error: float | None  # px, mean corner error; None for a mismatched pair
    registered: bool
    log_likelihood_gain: float  # nats per cell
    estimate: float  # px, the registrar's own
    seconds: float
    digest: str = ""  # of the pairs that were asked, see ``protocol.Pair.digest``


class Outcomes:
    """Outcomes by name, in a JSON file that is replaced as a whole with each that is added.

    Args:
        path: the file; made by the first outcome.
        key: all that outcomes depend on beside the images. A file with another key is started anew.

    Raises:
        ValueError: the file is none of ours.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self._known: dict[str, Outcome] = {}
        if not path.is_file():
            return
        try:
            content = json.loads(path.read_text("utf-8"))
            if content["key"] == key:
                self._known = {entry["name"]: Outcome(**entry) for entry in content["outcomes"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a file of outcomes ({error}); delete it and run again") from error

    def get(self, name: str, digest: str) -> Outcome | None:
        """Return what is known of a pair, or None; what was said of other images or another truth is not."""
        known = self._known.get(name)
        return known if known is not None and known.digest == digest else None

    def add(self, outcome: Outcome) -> None:
        """Add what a registration gave; it is on disk when this returns."""
        self._known[outcome.name] = outcome
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Not write_json: an error or estimate may be infinite, and must come back as it was.
        content = {"key": self._key, "outcomes": [asdict(known) for known in self._known.values()]}
        with replacing(self._path) as temporary:
            temporary.write_text(json.dumps(content), "utf-8")


def measure(
    dataset: Dataset, level: str, true: int, mismatched: int, checkpoint: Path | None, folder: Path,
    tick: Callable[[int], None] = lambda _: None,
) -> tuple[list[Outcome], list[Outcome]]:  # fmt: skip
    """Register ``true`` true pairs and ``mismatched`` mismatched ones of a set under a level, but for those kept.

    Args:
        dataset: the set.
        level: name of a level.
        true: number of true pairs, spread evenly over the set.
        mismatched: number of mismatched pairs, likewise.
        checkpoint: TAR's; None for the one that the package ships.
        folder: where outcomes are kept, in ``rejection/<set>.<level>.json``.
        tick: told how many more pairs are done.

    Raises:
        ValueError: a set too small to hold other places; a file of outcomes that is none of ours.
        FileNotFoundError: a set without warps of the level; no such checkpoint.
    """
    names, source = dataset.names, LevelPairs.open(dataset, level)
    if len(names) < 4:
        raise ValueError(f"{dataset.name} has {len(names)} pairs; at least four are needed to form mismatched ones")
    peer = TAR(checkpoint)
    registrar = Registrar(peer.net.fuse(), RegistrarConfig(model=source.model))
    path = folder / "rejection" / f"{dataset.name}.{level}.json"
    kept = Outcomes(path, f"{peer.settings} | warps {source.warps_hash}")

    def register(name0: str, name1: str) -> Outcome:
        name = name0 if name0 == name1 else f"{name0} and {name1}"
        pairs = [source.pair(one) for one in (name0, name1)]
        digest = "-".join(pair.digest for pair in pairs)
        outcome = kept.get(name, digest)
        if outcome is None:
            started = time.perf_counter()
            modality0, modality1 = pairs[0].hints.get("modality0"), pairs[1].hints.get("modality1")
            found = registrar(pairs[0].image0, pairs[1].image1, modality0=modality0, modality1=modality1)
            seconds = time.perf_counter() - started
            shape = pairs[0].image0.shape[:2]
            error = corner_error(found.matrix, pairs[0].truth, shape) if name0 == name1 else None
            outcome = Outcome(
                name,
                error,
                bool(found.registered),
                float(found.log_likelihood_gain),
                float(found.error_estimate),
                seconds,
                digest,
            )
            kept.add(outcome)
        tick(1)
        return outcome

    half = len(names) // 2
    others = [(name, names[(names.index(name) + half) % len(names)]) for name in subsample(names, mismatched)]
    return [register(name, name) for name in subsample(names, true)], [register(*pair) for pair in others]


def summary(true: Sequence[Outcome], mismatched: Sequence[Outcome]) -> dict[str, float]:
    """The figures, shares in percent."""
    errors = np.array([np.inf if o.error is None else o.error for o in true])
    kept = np.array([o.registered for o in true])
    estimates = np.array([o.estimate for o in true])
    ratio = errors[kept] / estimates[kept] if kept.any() else np.array([np.nan])
    return {
        "true pairs": len(true),
        "SR@3": 100 * float((errors < 3).mean()),
        "SR@5": 100 * float((errors < RIGHT).mean()),
        "SR@3 registered": 100 * float((kept & (errors < 3)).mean()),
        "SR@5 registered": 100 * float((kept & (errors < RIGHT)).mean()),
        "registered but 10 px off or more": 100 * float((kept & (errors >= 10)).mean()),
        "true error over estimate, median": float(np.median(ratio)),
        "error within twice the estimate": 100 * float((ratio < 2).mean()),
        "mismatched pairs": len(mismatched),
        "mismatched registered": 100 * float(np.mean([o.registered for o in mismatched])),
        "seconds, true": float(np.median([o.seconds for o in true])),
        "seconds, mismatched": float(np.median([o.seconds for o in mismatched])),
    }


def write(folder: Path, dataset: str, level: str, true: Sequence[Outcome], mismatched: Sequence[Outcome]) -> Path:
    """Write ``<set>.<level>.rejection.json`` and ``.md``; returns the latter's path."""
    figures = summary(true, mismatched)
    rows = {"true": [asdict(o) for o in true], "mismatched": [asdict(o) for o in mismatched]}
    content = {"figures": figures, "made": provenance(), **rows}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{dataset}.{level}.rejection.json", content)
    lines = [
        f"## Rejection, {dataset}, level {level}", "",
        "The Registrar's own transform on true pairs, all and those that it accepts, and on mismatched ones.", "",
        *grid(("figure", "value"), ([name, f"{value:.4g}"] for name, value in figures.items())),
    ]  # fmt: skip
    return write_text(folder / f"{dataset}.{level}.rejection.md", "\n".join(lines) + "\n")
