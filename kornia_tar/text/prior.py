"""Where text features come from: one small protocol, found by name.

Another package adds a provider by declaring an entry point, and it is then known here by its name::

    [project.entry-points."kornia_tar.text_priors"]
    mine = "my_package.text:MyPrior"
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from .bank import BankPrior, TextBank
from .descriptors import NAMES, TEMPLATES, check_texts
from .descriptors import prompts as make_prompts

GROUP = "kornia_tar.text_priors"

# The same as in pyproject.toml, so that a checkout which was never installed knows them too.
_BUILT_IN = {
    "remoteclip": "kornia_tar.text.clip:RemoteCLIPPrior",
    "open_clip": "kornia_tar.text.clip:OpenCLIPPrior",
    "bank": "kornia_tar.text.bank:BankPrior",
    "none": "kornia_tar.text.vectors:NonePrior",
    "random": "kornia_tar.text.vectors:RandomPrior",
    "learned": "kornia_tar.text.vectors:LearnedPrior",
}


@runtime_checkable
class TextPrior(Protocol):
    """Turns prompts into features.

    A provider may also have ``info``, a mapping of strings that says where its features come from (``encoder``,
    ``activation``, ``checkpoint``, ``sha256``, ...); a checkpoint trained with it records them. And it may have
    ``learned = True``, which asks the model to make its vectors parameters.

    Attributes:
        name: A short name, e.g. ``"remoteclip"``.
        dim: Length of one feature; 0 means no text.
    """

    name: str
    dim: int

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return features (P, dim) of P prompts: float32, rows of unit norm."""
        ...


def _registry() -> dict[str, EntryPoint]:
    found = {point.name: point for point in entry_points(group=GROUP)}
    # Ours last: no other package takes over a built-in name.
    return found | {name: EntryPoint(name, value, GROUP) for name, value in _BUILT_IN.items()}


def available_text_priors() -> tuple[str, ...]:
    """Return the names `load_text_prior` knows, the built-in ones and those of other installed packages."""
    return tuple(sorted(_registry()))


def load_text_prior(name: str, **options: Any) -> TextPrior:
    """Make the text prior of that name.

    Args:
        name: ``"remoteclip"``, ``"open_clip"``, ``"bank"``, ``"none"``, ``"random"``, ``"learned"`` or the entry point
            of another package in the group ``kornia_tar.text_priors``.
        **options: Arguments of that provider, e.g. ``path=`` of a bank, ``checkpoint=`` of RemoteCLIP.

    Raises:
        ValueError: Unknown name; the line lists the known ones. Or a value the provider refuses.
        TypeError: An option is missing or unknown, or the provider does not keep to `TextPrior`.
        ImportError: The provider needs a package that is not installed.

    Example:
        >>> load_text_prior("random", dim=4).encode(["a river"]).shape
        torch.Size([1, 4])
    """
    registry = _registry()
    if name not in registry:
        raise ValueError(f"unknown text prior {name!r}: known are {', '.join(sorted(registry))}")
    factory = registry[name].load()
    signature = inspect.signature(factory)
    try:
        signature.bind(**options)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "no options"
        raise TypeError(f"text prior {name!r}: {error}; it takes {takes}") from None
    prior = factory(**options)
    if not isinstance(prior, TextPrior):
        raise TypeError(f"text prior {name!r}: {registry[name].value} has no name, dim and encode")
    return prior


def embed_classes(prior: TextPrior, names: Sequence[str] = NAMES, templates: Sequence[str] | None = None) -> TextBank:
    """Compute one feature per name: the mean over its prompts, brought back to unit norm.

    Averaging over templates before normalising again is the prompt ensemble of CLIP (Radford et al., ICML 2021, 3.1.4).

    Args:
        prior: Any text prior with features. A `BankPrior` holds finished means: its rows are taken as they are.
        names: K class names.
        templates: T sentences with one ``{}``; ``None`` takes those of both modalities.

    Returns:
        A bank (K, dim) that knows its encoder, names and templates.

    Raises:
        ValueError: The prior has no features (``dim`` 0), returns something else than unit rows (P, dim), or is a bank
            that lacks a name or is asked for templates.
    """
    if prior.dim == 0:
        raise ValueError(f"text prior {prior.name!r} has no features to embed names with")
    if isinstance(prior, BankPrior):
        if templates is not None:
            raise ValueError("a text bank already contains averaged templates: pass names only")
        return prior.bank.subset(names)

    names = check_texts(names, "names")
    templates = check_texts(TEMPLATES if templates is None else templates, "templates")
    if not names or not templates:
        raise ValueError("at least one name and one template are needed")
    features = prior.encode(make_prompts(names, templates))
    expected = (len(names) * len(templates), prior.dim)
    if features.shape != expected or not torch.allclose(features.norm(dim=1), torch.ones(len(features)), atol=1e-3):
        raise ValueError(f"text prior {prior.name!r} must return {expected} unit rows, got {tuple(features.shape)}")
    means = features.unflatten(0, (len(names), len(templates))).mean(dim=1)  # (K, D)
    encoder = getattr(prior, "info", {}).get("encoder", prior.name)
    return TextBank(names, F.normalize(means, dim=1), encoder, templates)


def choose_bank(
    prior: str | TextPrior | TextBank,
    trained: Mapping[str, Any],
    *,
    names: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    strict: bool = True,
    **options: Any,
) -> TextBank | None:
    """Make the bank that is to steer weights which were trained with another text, or with none.

    Args:
        prior: a provider's name, a provider, or a bank.
        trained: what the weights were trained with: ``encoder``, ``names``, ``templates``; empty where without text.
        names: class names; by default the bank's, or those of ``trained``.
        templates: sentences with ``{}``; by default those of ``trained``.
        strict: require the encoder of ``trained``. Features of another have the right shape but mean nothing.
        **options: of the provider, where it is named.

    Returns:
        the bank; None where the prior is no text.

    Raises:
        TypeError: options beside something else than a provider's name.
        ValueError: an unknown provider or name; another encoder while ``strict``.
    """
    if isinstance(prior, str):
        prior = load_text_prior(prior, **options)
    elif options:
        raise TypeError(f"options {sorted(options)} only go with a provider's name")
    if isinstance(prior, TextBank):
        bank = prior.subset(names) if names is not None else prior
    elif prior.dim == 0:
        return None
    elif isinstance(prior, BankPrior):  # its rows are finished: they take no templates
        bank = embed_classes(prior, names or prior.bank.names, templates)
    else:
        chosen = names or trained.get("names") or NAMES
        bank = embed_classes(prior, chosen, templates or trained.get("templates") or None)
    encoder = trained.get("encoder")
    if strict and encoder is not None and bank.encoder != encoder:
        raise ValueError(
            f"these weights read text features of {encoder!r}, and those of {bank.encoder!r} mean nothing to them: "
            f"give features of {encoder!r}, or train weights with the others"
        )
    return bank
