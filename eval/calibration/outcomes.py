"""True and mismatched pairs through the registrar, each outcome kept as it comes.

A mismatched pair is one place's image0 and the image1 of another, half of the sorted set away, each as the level shows
it. Hundreds of them take an hour, so no pair is registered twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from eval.benchmark.pairs import LevelPairs, subsample
from eval.datasets import Dataset
from eval.peers import Image
from eval.peers.ours.tar import TAR
from kornia_tar import Registrar, RegistrarConfig, Registration
from kornia_tar.files import replacing
from kornia_tar.geometry import FloatArray, compose, corner_error, invert
from kornia_tar.registration.acceptance import Witnesses

#: Pairs of a set that show the same ground, and are not mismatched: the Registrar laid the infrared image of one on the
#: optical image of the other, street on street, with a probability of 1.00 and an estimated error of 0.4 px (d850b5b).
SAME_GROUND = {("srif-opt-ir", frozenset({"pair015", "pair035"}))}


@dataclass(frozen=True)
class Outcome:
    """One registration, as far as it counts here."""

    name: str  # of a mismatched pair "<one> and <other>"
    error: float | None  # px, mean corner error; None for a mismatched pair
    registered: bool
    estimate: float  # px, the registrar's own
    seconds: float
    gain: float = 0.0  # and so on: see ``kornia_tar.registration.acceptance.Witnesses``
    cells: int = 0
    witness_error: float = 0.0
    agreement: float = 0.0
    excess_gain: float = 0.0
    trimmed_excess: float = 0.0
    block_agreement: float = 0.0
    stretch: float = 1.0
    probability: float = 0.0
    digest: str = ""  # of the pairs that were asked, see ``protocol.Pair.digest``
    finer: float = 1.0

    @classmethod
    def of(cls, name: str, found: Registration, error: float | None, seconds: float, digest: str) -> Outcome:
        """Keep what counts of a registration."""
        seen = found.witnesses
        return cls(
            name, error, bool(found.registered), float(found.error_estimate), seconds, float(seen.gain), seen.cells,
            float(seen.error), float(seen.agreement), seen.excess_gain, seen.trimmed_excess, seen.block_agreement,
            seen.stretch, float(found.probability), digest, seen.finer,
        )  # fmt: skip

    @property
    def witnesses(self) -> Witnesses:
        """What the registrar had to go by."""
        return Witnesses(
            self.gain, self.cells, self.witness_error, self.agreement, self.excess_gain, self.trimmed_excess,
            self.block_agreement, self.stretch, self.finer,
        )  # fmt: skip


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
    tick: Callable[[int], None] = lambda _: None, side: int | None = None, align_all: bool = False,
) -> tuple[list[Outcome], list[Outcome]]:  # fmt: skip
    """Register ``true`` true pairs and ``mismatched`` mismatched ones of a set under a level, but for those kept.

    Args:
        dataset: the set.
        level: name of a level.
        true: number of true pairs, spread evenly over the set.
        mismatched: number of mismatched pairs, likewise.
        checkpoint: TAR's; None for the one that the package ships.
        folder: where outcomes are kept, in ``outcomes/<set>.<level>.json``.
        tick: told how many more pairs are done.
        side: px, cut the middle of both images to this side; None for the images as they are.
        align_all: align from hopeless poses, too, and ask nothing again, so that what is learnt from the outcomes
            holds by itself; kept in ``<set>.<level>.all.json``.

    Raises:
        ValueError: a set too small to hold other places; a file of outcomes that is none of ours.
        FileNotFoundError: a set without warps of the level; no such checkpoint.
    """
    names, source = dataset.names, LevelPairs.open(dataset, level)
    if len(names) < 4:
        raise ValueError(f"{dataset.name} has {len(names)} pairs; at least four are needed to form mismatched ones")
    peer = TAR(checkpoint)
    config = RegistrarConfig(model=source.model)
    if align_all:
        search, rules = replace(config.search, hopeless_agreement=0.0), replace(config.acceptance, ask_again=1.0)
        config = replace(config, search=search, acceptance=rules)
    registrar = Registrar(peer.net.fuse(), config)
    part = ("" if side is None else f".side{side}") + (".all" if align_all else "")
    path = folder / "outcomes" / f"{dataset.name}.{level}{part}.json"
    kept = Outcomes(path, f"{peer.settings} | warps {source.warps_hash}")

    def register(name0: str, name1: str) -> Outcome:
        name = name0 if name0 == name1 else f"{name0} and {name1}"
        pairs = [source.pair(one) for one in (name0, name1)]
        digest = "-".join(pair.digest for pair in pairs)
        outcome = kept.get(name, digest)
        if outcome is None:
            started = time.process_time()
            modality0, modality1 = pairs[0].hints.get("modality0"), pairs[1].hints.get("modality1")
            image0, to_image0 = _middle(pairs[0].image0, side)
            image1, to_image1 = _middle(pairs[1].image1, side)
            found = registrar(image0, image1, modality0=modality0, modality1=modality1)
            seconds = time.process_time() - started
            truth = compose(compose(to_image0, pairs[0].truth), invert(to_image1))
            error = corner_error(found.matrix, truth, image0.shape[:2]) if name0 == name1 else None
            outcome = Outcome.of(name, found, error, seconds, digest)
            kept.add(outcome)
        tick(1)
        return outcome

    half = len(names) // 2
    others = [(name, names[(names.index(name) + half) % len(names)]) for name in subsample(names, mismatched)]
    others = [pair for pair in others if (dataset.name, frozenset(pair)) not in SAME_GROUND]
    return [register(name, name) for name in subsample(names, true)], [register(*pair) for pair in others]


def _middle(image: Image, side: int | None) -> tuple[Image, FloatArray]:
    """Cut the middle of an image, and return the matrix from its pixels to the image's."""
    if side is None or side >= min(image.shape[:2]):
        return image, np.eye(3)
    top, left = ((length - side) // 2 for length in image.shape[:2])
    part = np.ascontiguousarray(image[top : top + side, left : left + side])
    return part, np.array([[1.0, 0, left], [0, 1, top], [0, 0, 1]])
