"""Word groups: what ``--ignore water`` means, as a table to read and to argue with.

A group is named by what a user would say; its words are those of the common data sets and of our library
(``descriptors.py``), of which a text may have some. A word may be in several groups.
"""

from __future__ import annotations

from collections.abc import Sequence

GROUPS: dict[str, tuple[str, ...]] = {
    "water": ("water", "river", "pond", "lake", "sea", "canal", "fish pond", "flood", "flooded area", "port", "harbor"),
    "flood": ("flood", "flooded area", "water", "river", "pond", "lake"),
    "vegetation": ("forest", "meadow", "park", "farmland", "grassland", "cropland", "orchard", "shrubland", "chaparral",
                   "regular farmland", "rectangular farmland", "circular farmland", "terrace"),
    "fields": ("farmland", "cropland", "meadow", "grassland", "rice paddy", "regular farmland", "rectangular farmland",
               "circular farmland", "terraced field"),
    "built-up": ("residential", "commercial", "industrial", "building", "dense residential", "medium residential",
                 "sparse residential", "dense residential area", "sparse residential area", "industrial area",
                 "commercial area", "village", "storage tank", "storagetank", "stadium"),
    "transport": ("road", "bridge", "viaduct", "railway station", "airport", "parking", "port", "railway", "overpass",
                  "trainstation", "highway interchange", "airport runway", "parking lot", "harbor", "intersection",
                  "crossroads", "roundabout"),
    "road": ("road", "viaduct", "bridge", "overpass", "highway interchange", "intersection", "crossroads",
             "roundabout"),
    "bare": ("desert", "beach", "bare land", "mountain", "quarry", "mudflat"),
}  # fmt: skip


def find_words(asked: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Find the words of a text that are asked for, by their names or by a group's.

    Args:
        asked: words and groups.
        names: the text's words.

    Returns:
        those of ``names``, in their order; none where none is asked for.

    Raises:
        ValueError: what is no word of the text and no group, or a group of which the text has no word.

    Example:
        >>> find_words(["water", "forest"], ["airport", "forest", "pond", "river"])
        ('forest', 'pond', 'river')
    """
    found: set[str] = set()
    for word in asked:
        members = {word, *GROUPS.get(word, ())} & set(names)
        if not members:
            what = f"the text has no word of the group {word!r}" if word in GROUPS else f"the text has no {word!r}"
            raise ValueError(f"{what}: its words are {', '.join(names) or 'none'}; groups are {', '.join(GROUPS)}")
        found |= members
    return tuple(name for name in names if name in found)
