"""The Processing provider, and its one setting: which command is called."""

from __future__ import annotations

from qgis.core import QgsProcessingProvider, QgsSettings

from .algorithms import ApplyAlgorithm, LandCoverAlgorithm, RegisterAlgorithm
from .process import find_command

SETTING = "KORNIA_TAR_COMMAND"  # in Settings > Options > Processing > Providers > kornia-tar


class Provider(QgsProcessingProvider):
    """kornia-tar's algorithms."""

    def id(self):
        """Return what algorithms are called by: kornia_tar:register."""
        return "kornia_tar"

    def name(self):
        """Return what people read."""
        return "kornia-tar"

    def longName(self):
        """Return what people read where there is room."""
        return "kornia-tar: optical-SAR registration"

    def load(self):
        """Add the setting, where QGIS has a place for it, and the algorithms."""
        try:
            from processing.core.ProcessingConfig import ProcessingConfig, Setting
        except ImportError:  # qgis_process without QGIS's own algorithms
            pass
        else:
            told = "Command kornia-tar (empty: as 'kornia-tar qgis install' recorded it)"
            ProcessingConfig.addSetting(Setting(self.name(), SETTING, told, "", valuetype=Setting.FILE))
            ProcessingConfig.readSettings()
        self.refreshAlgorithms()
        return True

    def unload(self):
        """Take the setting away."""
        try:
            from processing.core.ProcessingConfig import ProcessingConfig
        except ImportError:
            return
        ProcessingConfig.removeSetting(SETTING)

    def loadAlgorithms(self):
        """Add the algorithms."""
        for algorithm in (RegisterAlgorithm, ApplyAlgorithm, LandCoverAlgorithm):
            self.addAlgorithm(algorithm(installed_command))


def installed_command():
    """Return the command's absolute path: the setting's, or the one that was recorded.

    Raises:
        ValueError: there is none, in one line that says what to do.
    """
    return find_command(QgsSettings().value(f"Processing/Configuration/{SETTING}", "") or "")
