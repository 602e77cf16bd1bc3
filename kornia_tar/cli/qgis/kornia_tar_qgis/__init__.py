"""QGIS plugin: Processing algorithms that call the installed command ``kornia-tar``.

It runs inside QGIS's Python (3.9 or newer), without kornia-tar's packages: the standard library and QGIS alone.
"""


def classFactory(iface):
    """Return the plugin; ``iface`` is None where QGIS has no window."""
    from .plugin import Plugin

    return Plugin()
