"""What QGIS starts and stops: the provider of the algorithms."""

from __future__ import annotations

from qgis.core import QgsApplication

from .provider import Provider


class Plugin:
    """The plugin: a Processing provider, and nothing else."""

    def __init__(self):
        self.provider = None

    def initProcessing(self):
        """Add the provider; qgis_process calls this, and nothing more."""
        self.provider = Provider()
        QgsApplication.processingRegistry().addProvider(self.provider)

    def initGui(self):
        """Add the provider in QGIS with a window."""
        self.initProcessing()

    def unload(self):
        """Take the provider away."""
        if self.provider is not None:
            QgsApplication.processingRegistry().removeProvider(self.provider)
            self.provider = None
