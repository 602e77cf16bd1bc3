"""kornia-tar: text-assisted optical–SAR image matching and registration.

An independent implementation after the abstract and the published protocol of TAR (arXiv 2605.12064).
"""

from kornia_tar.matching.matcher import TARMatcher
from kornia_tar.network.net import TARConfig
from kornia_tar.registration import (
    AcceptanceConfig,
    AlignmentConfig,
    GuidedMatcher,
    Registrar,
    RegistrarConfig,
    Registration,
    RegistrationModel,
    SearchConfig,
    TransformLimits,
    register_files,
    register_georeferenced,
)
from kornia_tar.text import TextBank, TextPrior, available_text_priors, load_text_prior

__version__ = "0.1.0"
__all__ = [
    "AcceptanceConfig", "AlignmentConfig", "GuidedMatcher", "Registrar", "RegistrarConfig", "Registration",
    "RegistrationModel", "SearchConfig", "TARConfig", "TARMatcher", "TextBank", "TextPrior", "TransformLimits",
    "available_text_priors", "load_text_prior", "register_files", "register_georeferenced",
]  # fmt: skip
