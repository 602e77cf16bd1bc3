"""Two images in, one trustworthy transform out, or an honest refusal: search, alignment, acceptance."""

from kornia_tar.registration.acceptance import AcceptanceConfig, TransformLimits, VerificationConfig
from kornia_tar.registration.config import AlignmentConfig, RegistrarConfig, RegistrationModel, SearchConfig
from kornia_tar.registration.files import register_files
from kornia_tar.registration.georeferenced.prior import register_georeferenced
from kornia_tar.registration.guided import GuidedMatcher
from kornia_tar.registration.registrar import Registrar
from kornia_tar.registration.result import Registration, Search

__all__ = [
    "AcceptanceConfig", "AlignmentConfig", "GuidedMatcher", "Registrar", "RegistrarConfig", "Registration",
    "RegistrationModel", "Search", "SearchConfig", "TransformLimits", "VerificationConfig", "register_files",
    "register_georeferenced",
]  # fmt: skip
