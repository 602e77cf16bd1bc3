"""What the text says: names of land cover and of scenes, and the sentences they are put into.

The paper (arXiv 2605.12064) enhances visual features with "text semantic" features of a frozen RemoteCLIP; its list of
descriptors is not published. This list is our own choice. A name is here when it separates from its neighbours in an
optical picture **and** in a radar one at 1-10 m per pixel: by colour and texture there, by roughness, moisture,
double bounce or layover here. Both renderings are written beside each name, so that the list can be argued with.

Names are plain nouns without an article, so that they fit every template, and they follow the spelling of the common
remote-sensing data sets (AID, NWPU-RESISC45, WHU-RS19) where those have the class.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Modality = Literal["optical", "sar"]


@dataclass(frozen=True)
class Descriptor:
    """One name, and how the thing it names looks in each modality.

    Attributes:
        name: The words that go into a template, e.g. ``"river"``.
        kind: ``"landcover"`` covers ground (a texture), ``"scene"`` is an object or an arrangement (a shape).
        optical: What marks it in an optical image.
        sar: What marks it in a SAR amplitude image.
    """

    name: str
    kind: Literal["landcover", "scene"]
    optical: str
    sar: str


def _landcover(name: str, optical: str, sar: str) -> Descriptor:
    return Descriptor(name, "landcover", optical, sar)


def _scene(name: str, optical: str, sar: str) -> Descriptor:
    return Descriptor(name, "scene", optical, sar)


DESCRIPTORS: tuple[Descriptor, ...] = (
    # Water and its edges: the strongest boundary the two modalities share.
    _landcover("water", "dark or blue, smooth", "black, specular"),
    _scene("river", "long winding ribbon", "black winding ribbon with bright banks"),
    _scene("lake", "closed smooth patch", "closed black patch"),
    _scene("fish pond", "grid of small dark cells", "black cells between bright dikes"),
    _scene("canal", "straight narrow ribbon", "straight black line"),
    _landcover("wetland", "mottled green and brown", "patchy, bright where stems stand in water"),
    _landcover("mudflat", "brown, smooth, braided", "dark grey, braided"),
    _scene("beach", "bright strip along water", "dark strip beside breaking waves"),
    _scene("coastline", "long edge, land against sea", "long edge, textured against dark"),
    _scene("island", "land enclosed by water", "texture enclosed by black"),
    _scene("dam", "straight wall across water", "bright line that ends a black patch"),
    # Vegetation and soil: texture, and parcels with straight borders.
    _landcover("forest", "dark green, rough canopy", "evenly bright volume scattering, shadowed edge"),
    _landcover("orchard", "dots in rows", "regular bright grain"),
    _landcover("grassland", "even green", "even dark grey"),
    _landcover("shrubland", "sparse dark tufts", "medium grey, coarse speckle"),
    _landcover("cropland", "parcels of differing colour", "parcels of differing grey"),
    _landcover("rice paddy", "small flooded parcels", "dark when flooded, bright when grown"),
    _landcover("greenhouse", "bright parallel roofs", "bright parallel stripes"),
    _landcover("bare land", "bright or brown, little texture", "dark to medium grey by roughness"),
    _landcover("desert", "bright, dunes", "very dark, faint dune pattern"),
    _landcover("snow", "white", "dark when wet, grey when dry"),
    # Relief: shading by the sun there, layover and shadow here.
    _scene("mountain", "shaded slopes", "bright foreslopes, black shadows"),
    _scene("valley", "line between slopes", "line where layover turns into shadow"),
    _scene("terraced field", "contour lines of fields", "contour-like bright lines"),
    _scene("quarry", "bright stepped pit", "bright steps and shadow"),
    # Built-up: double bounce at walls makes it the brightest thing in radar.
    _scene("building", "roof with shadow", "bright corner lines, layover, shadow"),
    _landcover("dense residential area", "many small roofs, narrow streets", "bright, dense point pattern"),
    _landcover("sparse residential area", "single roofs among green", "single bright points on grey"),
    _scene("village", "cluster of roofs among fields", "bright cluster among dark parcels"),
    _landcover("commercial area", "tall blocks, long shadows", "strong layover, very bright corners"),
    _landcover("industrial area", "large flat roofs, yards", "large bright frames, dark roofs"),
    _scene("storage tank", "bright discs with shadow", "bright rings or pairs of points"),
    _scene("parking lot", "flat, rows of cars", "dark with regular bright points"),
    _scene("stadium", "oval with a green field", "bright oval ring"),
    _scene("solar power station", "dark parallel panels", "striped, bright where panels face the radar"),
    # Transport: long lines, smooth and dark in radar unless something stands on them.
    _scene("road", "grey or bright line", "dark line with bright borders"),
    _scene("highway interchange", "curved crossing ramps", "dark crossing curves"),
    _scene("railway", "thin line, gravel", "thin bright line"),
    _scene("bridge", "bright bar across water", "one to three bright bars across black"),
    _scene("airport runway", "long grey bar with markings", "long black bar"),
    _scene("harbor", "piers and ships at the water", "bright piers and points on black"),
)
"""The library, grouped by what makes a thing recognisable; 41 names."""

NAMES: tuple[str, ...] = tuple(d.name for d in DESCRIPTORS)
LANDCOVER_NAMES: tuple[str, ...] = tuple(d.name for d in DESCRIPTORS if d.kind == "landcover")
SCENE_NAMES: tuple[str, ...] = tuple(d.name for d in DESCRIPTORS if d.kind == "scene")

OPTICAL_TEMPLATES: tuple[str, ...] = (
    "an optical satellite image of {}",
    "an aerial photo of {}",
    "a satellite photo of {} seen from above",
    "a remote sensing image of {}",
)
SAR_TEMPLATES: tuple[str, ...] = (
    "a SAR image of {}",
    "a synthetic aperture radar image of {}",
    "a grey radar satellite image of {} with speckle",
)
TEMPLATES: tuple[str, ...] = OPTICAL_TEMPLATES + SAR_TEMPLATES
"""Both modalities. One feature per name has to serve both images, hence the mean over all of these."""


def templates_for(modality: Modality) -> tuple[str, ...]:
    """Return the templates of one modality, ``"optical"`` or ``"sar"``.

    Raises:
        ValueError: ``modality`` is neither.
    """
    try:
        return {"optical": OPTICAL_TEMPLATES, "sar": SAR_TEMPLATES}[modality]
    except KeyError:
        raise ValueError(f"unknown modality {modality!r}: use 'optical' or 'sar'") from None


def prompts(names: Sequence[str], templates: Sequence[str] = TEMPLATES) -> tuple[str, ...]:
    """Put every name into every template.

    Args:
        names: K names.
        templates: T templates, each with exactly one ``{}``.

    Returns:
        K*T prompts, name by name: all templates of the first name, then of the second, and so on.

    Raises:
        TypeError: A bare string was given where a sequence of strings is needed.
        ValueError: A string is empty, or a template does not hold exactly one ``{}``.
    """
    names = check_texts(names, "names")
    templates = check_texts(templates, "templates")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"template {template!r} must hold exactly one {{}}, the place of the name")
    # str.replace, not str.format: other braces in a template are just text.
    return tuple(template.replace("{}", name) for name in names for template in templates)


def check_texts(texts: Iterable[str], what: str) -> tuple[str, ...]:
    """Return ``texts`` as a tuple of non-empty strings; ``what`` names the argument in errors.

    Raises:
        TypeError: One bare string, or something that is not a string inside.
        ValueError: An empty string inside.
    """
    if isinstance(texts, str):
        raise TypeError(f"{what} must be a sequence of strings, got the one string {texts!r}: put it in a list")
    texts = tuple(texts)
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{what} must be strings, got {type(text).__name__}")
        if not text.strip():
            raise ValueError(f"{what} holds an empty string")
    return texts
