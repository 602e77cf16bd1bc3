"""Text: what is on the ground, in words, as features that guide the matching.

`load_text_prior` finds a provider by name, `embed_classes` turns names into a `TextBank`, and a bank can be saved,
loaded and cut down. No text encoder and no network is touched by importing this.
"""

from .bank import BankPrior, TextBank
from .descriptors import (
    DESCRIPTORS,
    LANDCOVER_NAMES,
    NAMES,
    OPTICAL_TEMPLATES,
    SAR_TEMPLATES,
    SCENE_NAMES,
    TEMPLATES,
    Descriptor,
    prompts,
    templates_for,
)
from .groups import GROUPS, find_words
from .prior import TextPrior, available_text_priors, choose_bank, embed_classes, load_text_prior
from .vectors import LearnedPrior, NonePrior, RandomPrior

__all__ = [
    "DESCRIPTORS",
    "GROUPS",
    "LANDCOVER_NAMES",
    "NAMES",
    "OPTICAL_TEMPLATES",
    "SAR_TEMPLATES",
    "SCENE_NAMES",
    "TEMPLATES",
    "BankPrior",
    "Descriptor",
    "LearnedPrior",
    "NonePrior",
    "RandomPrior",
    "TextBank",
    "TextPrior",
    "available_text_priors",
    "choose_bank",
    "embed_classes",
    "find_words",
    "load_text_prior",
    "prompts",
    "templates_for",
]
