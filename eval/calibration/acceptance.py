"""The registrar's one decision, fitted: how probable is it that a transform is right, given what speaks for it?

A logistic model of the witnesses (``kornia_tar.registration.acceptance.Witnesses``), fitted to true and mismatched
pairs of several kinds. Each kind (a set, and its crops) is judged by a fit that never saw it, as users' sensors have
not been seen either. What is stored is the fit to all kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.benchmark.provenance import provenance
from eval.calibration.outcomes import Outcome, measure
from eval.datasets import one_set
from eval.report.markdown import grid
from kornia_tar.files import write_json, write_text
from kornia_tar.network.calibration import LogisticFit, RegistrationFits
from kornia_tar.registration.acceptance import RIGHT, AcceptanceConfig, probability_right

WITHOUT_LOOK = ("excess_gain", "few_cells", "log_error", "log_stretch")
WITH_LOOK = ("agreement", *WITHOUT_LOOK)
PRIOR = 2 / 3  # of right transforms: most pairs that users bring are of one place, and 97 of 100 of those are found
NEAR = 40.0  # px; a transform between RIGHT and this is of the right place: it must not teach what chance looks like
PENALTY = 10.0  # scikit-learn's C, on standardised numbers: a few hundred pairs must not make it too sure


@dataclass(frozen=True)
class Plan:
    """How many pairs of one kind to register.

    Args:
        path: of a set.
        level: name of a level, or ``real``.
        true: how many true pairs, spread evenly over the set.
        mismatched: how many mismatched ones.
        side: px to which the middle of both images is cut; None for whole images.
    """

    path: str | Path
    level: str
    true: int
    mismatched: int
    side: int | None = None

    @property
    def pairs(self) -> int:
        """How many pairs in all."""
        return self.true + self.mismatched


@dataclass(frozen=True)
class Kind:
    """Outcomes of one kind of pairs."""

    name: str
    true: Sequence[Outcome]
    mismatched: Sequence[Outcome]

    @property
    def all(self) -> list[Outcome]:
        """Both."""
        return [*self.true, *self.mismatched]


def collect(
    plans: Sequence[Plan], checkpoint: Path | None, cache: Path, tick: Callable[[int], None] = lambda _: None
) -> list[Kind]:
    """Register the pairs of all plans, but for those kept.

    Args:
        plans: which pairs.
        checkpoint: TAR's; None for the one that the package ships.
        cache: folder where outcomes are kept.
        tick: told how many more pairs are done.

    Raises:
        ValueError: a path with several sets, a set too small for other places, a file of outcomes that is none of ours.
        FileNotFoundError: no such set or checkpoint, or a set without warps of its level.
    """
    kinds = []
    for plan in plans:
        dataset = one_set(plan.path)
        found = measure(
            dataset, plan.level, plan.true, plan.mismatched, checkpoint, cache, tick, plan.side, align_all=True
        )
        side = [] if plan.side is None else [str(plan.side)]
        kinds.append(Kind(" ".join([dataset.name, plan.level, *side]), *found))
    return kinds


def is_right(outcome: Outcome) -> bool:
    """Whether the transform is right to ``RIGHT`` px."""
    return outcome.error is not None and outcome.error < RIGHT


def _is_near(outcome: Outcome) -> bool:
    return outcome.error is not None and outcome.error < NEAR


def fit(kinds: Sequence[Kind]) -> RegistrationFits:
    """Fit both models, with and without the second look; each kind has the same weight, right ones ``PRIOR`` together.

    Transforms that are ``RIGHT`` to ``NEAR`` px off are left out here, and judged like all others: they are of the
    right place, and it is their estimated error that says how exact they are.

    Raises:
        ValueError: the kinds hold no right, or no wrong, transform.
    """
    return RegistrationFits(_fit(kinds, WITH_LOOK), _fit(kinds, WITHOUT_LOOK))


def _fit(kinds: Sequence[Kind], names: Sequence[str]) -> LogisticFit:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    telling = [[o for o in kind.all if is_right(o) or not _is_near(o)] for kind in kinds]
    outcomes = [(len(part), o) for part in telling for o in part]
    right = np.array([is_right(o) for _, o in outcomes])
    if not right.any() or right.all():
        raise ValueError("acceptance needs transforms that are right and some that are wrong: take more pairs")
    x = np.array([[o.witnesses.features().get(name, 0.0) for name in names] for _, o in outcomes])
    share = np.array([1 / count for count, _ in outcomes])
    share = np.where(right, PRIOR * share / share[right].sum(), (1 - PRIOR) * share / share[~right].sum()) * len(share)
    scaler = StandardScaler().fit(x, sample_weight=share)
    model = LogisticRegression(C=PENALTY).fit(scaler.transform(x), right, sample_weight=share)
    weights = model.coef_[0] / scaler.scale_
    bias = float(model.intercept_[0] - weights @ scaler.mean_)
    return LogisticFit(bias, {name: float(weight) for name, weight in zip(names, weights, strict=True)})


def judge(kinds: Sequence[Kind]) -> dict[str, NDArray[np.float64]]:
    """Return each kind's probabilities, true pairs first, by a fit to the other kinds."""
    found = {}
    for kind in kinds:
        fits = fit([other for other in kinds if _family(other) != _family(kind)])
        found[kind.name] = np.array([probability_right(o.witnesses, fits) for o in kind.all])
    return found


def _family(kind: Kind) -> str:
    """Crops and levels of a set show the same ground, so they are left out together."""
    return kind.name.split()[0]


def figures(kind: Kind, probability: NDArray[np.float64], least: float) -> dict[str, Any]:
    """What a kind's users meet when at least ``least`` is asked for, after all checks; shares in percent."""
    errors = np.array([np.inf if o.error is None else o.error for o in kind.true])
    rules = AcceptanceConfig(min_probability=least)
    accepted = np.array([
        not rules.refusal(np.eye(3), (1, 1), float(p), o.witnesses) for p, o in zip(probability, kind.all, strict=True)
    ])  # fmt: skip
    kept = accepted[: len(kind.true)]
    right = errors < RIGHT
    met = [o for o, good in zip(kind.true, right & kept, strict=True) if good]
    ratios = np.array([o.error / o.estimate for o in met if o.error is not None])
    return {
        "true": len(kind.true),
        "found": 100 * float(right.mean()) if len(kind.true) else float("nan"),
        "found and accepted": 100 * float((right & kept).mean()) if len(kind.true) else float("nan"),
        "wrong but accepted": int((kept & (errors >= RIGHT)).sum()),
        "true over estimated": float(np.median(ratios)) if len(ratios) else float("nan"),
        "within twice": 100 * float((ratios < 2).mean()) if len(ratios) else float("nan"),
        "mismatched": len(kind.mismatched),
        "mismatched accepted": int(accepted[len(kind.true) :].sum()),
        "highest mismatched": float(probability[len(kind.true) :].max()) if kind.mismatched else float("nan"),
    }


def reliability(kinds: Sequence[Kind], probability: Mapping[str, NDArray[np.float64]]) -> list[tuple[str, int, float]]:
    """How often a stated probability came true: (range, transforms, share right), over all kinds."""
    stated = np.concatenate([probability[kind.name] for kind in kinds])
    right = np.concatenate([[is_right(o) for o in kind.all] for kind in kinds])
    edges = (0.0, 0.05, 0.3, 0.7, 0.9, 0.97, 1.0001)
    rows = []
    for low, high in pairwise(edges):
        inside = (stated >= low) & (stated < high)
        share = float(right[inside].mean()) if inside.any() else float("nan")
        rows.append((f"{low:g}–{min(high, 1):g}", int(inside.sum()), share))
    return rows


def write(folder: Path, kinds: Sequence[Kind], least: float) -> Path:
    """Write ``acceptance.md`` and ``.json``; returns the former's path."""
    probability, fits, made = judge(kinds), fit(kinds), provenance()
    rows = {kind.name: figures(kind, probability[kind.name], least) for kind in kinds}
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = {kind.name: [asdict(o) for o in kind.all] for kind in kinds}
    write_json(folder / "acceptance.json", {"fit": asdict(fits), "rows": rows, "outcomes": outcomes, "made": made})
    number = lambda value, digits=1: "–" if value != value else f"{value:.{digits}f}"  # noqa: E731
    lines = [
        "## Acceptance", "",
        f"The Registrar's own transforms, accepted from a probability of {least:g} on that the mean corner error is "
        f"below {RIGHT:g} px. Each row is judged by a fit that saw nothing of its set. True over "
        "estimated error: median of what is right and accepted; a truth that is off by some pixels shows there.", "",
        *grid(("pairs", "true", "found, %", "found and accepted, %", "wrong but accepted", "true over estimated error",
               "within twice, %", "mismatched", "accepted", "highest probability"),
              ([name, str(row["true"]), number(row["found"]), number(row["found and accepted"]),
                str(row["wrong but accepted"]), number(row["true over estimated"], 2), number(row["within twice"]),
                str(row["mismatched"]), str(row["mismatched accepted"]),
                "–" if row["highest mismatched"] != row["highest mismatched"] else f"{row['highest mismatched']:.3f}"]
               for name, row in rows.items())), "",
        "How often what is stated comes true, over all rows:", "",
        *grid(("stated probability", "transforms", "right"),
              ([span, str(count), "–" if share != share else f"{share:.3f}"]
               for span, count, share in reliability(kinds, probability))), "",
        f"The fit to all rows, in logits: {fits.with_look}; without a second look: {fits.without_look}.", "",
        f"`{made['command']}` · commit {made['commit']} · {made['date']}",
    ]  # fmt: skip
    return write_text(folder / "acceptance.md", "\n".join(lines) + "\n")
