"""``python -m eval study NAME``: one file a study."""

from __future__ import annotations

from eval.commands.options import AddParser
from eval.studies.commands import (
    chips,
    estimators,
    graphics,
    initialisation,
    label_noise,
    landcover,
    loftr,
    mismatched,
    negatives,
    relief,
    teacher,
    truth,
)
from eval.studies.commands.text import ablation, starts, steering, substitution

# As --help lists them.
STUDIES = (
    ablation, substitution, landcover, steering, starts, negatives, graphics, chips, mismatched, label_noise,
    initialisation, truth, estimators, relief, teacher, loftr,
)  # fmt: skip


def add(add_parser: AddParser) -> None:
    """Add the subcommand ``study``, with a subcommand of its own for each study."""
    parser = add_parser("study", help="a one-off question; its answer stands in eval/results")
    studies = parser.add_subparsers(required=True, metavar="name")
    for study in STUDIES:
        study.add(studies.add_parser)
