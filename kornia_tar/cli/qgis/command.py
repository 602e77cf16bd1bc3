"""``kornia-tar qgis``: put the QGIS plugin into a profile, or take it out."""

from __future__ import annotations

import argparse
import configparser
import os
import secrets
import shutil
import sys
import sysconfig
from pathlib import Path

from kornia_tar import __version__
from kornia_tar.cli.command import AddCommand
from kornia_tar.cli.options import add_overwrite
from kornia_tar.files import output_folder, write_json

PLUGIN = Path(__file__).with_name("kornia_tar_qgis")  # its name is the plugin's in QGIS, too
IN_PROFILE = "python/plugins"  # where its plugins lie
ACTIONS = ("install", "uninstall")


def add(command: AddCommand) -> None:
    """Add the subcommand."""
    parser = command(
        "qgis", _do, "install the QGIS plugin, whose algorithms call this command",
        "kornia-tar qgis install\n  kornia-tar qgis install --profile work --overwrite\n  kornia-tar qgis uninstall",
    )  # fmt: skip
    parser.add_argument("action", choices=ACTIONS, help="put the plugin into the profile, or remove it")
    parser.add_argument("--profile", default="default", help="QGIS profile (default: default)")
    parser.add_argument("--folder", type=Path, help="folder of QGIS plugins that is there, where it is not a profile's")
    parser.add_argument("--command", type=Path, dest="program", metavar="PATH", help="kornia-tar that QGIS calls "
                        "(default: the one beside this Python)")  # fmt: skip
    add_overwrite(parser)


def _do(a: argparse.Namespace) -> int:
    plugins = plugins_folder(a.profile) if a.folder is None else a.folder
    if a.action == "uninstall":
        print(f"removed {uninstall(plugins)}")
        return 0
    if a.folder is not None:
        check_plugins(a.folder)
    place = install(plugins, installed_command() if a.program is None else a.program, overwrite=a.overwrite)
    print(f"installed {place}; in QGIS tick kornia-tar in Plugins > Manage and Install Plugins > Installed")
    return 0


def plugins_folder(profile: str) -> Path:
    """Return the folder of a QGIS profile's plugins, whether or not it is there.

    Raises:
        ValueError: a profile that is not there, unless it is QGIS's own first one.
    """
    home = Path.home()
    if custom := os.environ.get("QGIS_CUSTOM_CONFIG_PATH"):  # QGIS's own variable
        data = Path(custom)
    elif sys.platform == "win32":
        data = Path(os.environ.get("APPDATA", home / "AppData/Roaming")) / "QGIS/QGIS3"
    elif sys.platform == "darwin":
        data = home / "Library/Application Support/QGIS/QGIS3"
    else:
        data = Path(os.environ.get("XDG_DATA_HOME", home / ".local/share")) / "QGIS/QGIS3"
    profiles = data / "profiles"
    if Path(profile).name != profile or profile in ("", ".", ".."):
        raise ValueError(f"{profile!r} is no name of a profile; --folder takes a path")
    if profile != "default" and not (profiles / profile).is_dir():
        known = sorted(path.name for path in profiles.iterdir() if path.is_dir()) if profiles.is_dir() else []
        raise ValueError(f"{profiles}: has no profile {profile!r}, but {', '.join(known) or 'none'}; or give --folder")
    return profiles / profile / IN_PROFILE


def check_plugins(folder: Path) -> None:
    """Refuse a folder that is not there, unless it is that of a QGIS profile, which QGIS makes when it needs it.

    Raises:
        ValueError: as of a mistyped one.
    """
    whole = folder.absolute()
    own = whole.match(f"profiles/*/{IN_PROFILE}") and whole.parents[1].is_dir()
    if not folder.exists() and not own:
        raise ValueError(f"{folder}: no such folder; make it, or give PROFILE/{IN_PROFILE} of a QGIS profile")


def installed_command() -> Path:
    """Return the absolute path of the command ``kornia-tar`` of this Python.

    Raises:
        ValueError: there is none, as where the package was not installed by pip.
    """
    scripts = Path(sysconfig.get_path("scripts"))
    found = shutil.which("kornia-tar", path=str(scripts))
    if found is None:
        raise ValueError(f"{scripts}: holds no kornia-tar; install the package with pip, or give --command")
    return Path(found).absolute()


def install(plugins: Path, program: Path, *, overwrite: bool = False) -> Path:
    """Copy the plugin into a folder of plugins, whole or not at all, and record the command that it calls.

    Args:
        plugins: the folder; made when missing.
        program: the command, as QGIS will call it.
        overwrite: whether an earlier plugin of ours may be replaced; nothing else ever is.

    Returns:
        where it lies.

    Raises:
        ValueError: something else is there already, the command cannot be run, or the folder cannot be written.
    """
    program, place = program.absolute(), plugins / PLUGIN.name
    if not os.access(program, os.X_OK) or program.is_dir():
        raise ValueError(f"{program}: is no command that can be run")
    if os.path.lexists(place):
        _check_ours(place)
        if not overwrite:
            raise ValueError(f"{place}: is there already; give --overwrite to replace it")
    aside = output_folder(plugins) / f".{PLUGIN.name}.{secrets.token_hex(4)}.tmp"
    old = aside.with_suffix(".old")
    try:
        shutil.copytree(PLUGIN, aside, ignore=shutil.ignore_patterns("__pycache__"))
        write_json(aside / "installed.json", {"command": program, "kornia_tar": __version__})
        if os.path.lexists(place):
            place.rename(old)
        aside.rename(place)
    except OSError as error:
        if os.path.lexists(old) and not os.path.lexists(place):
            old.rename(place)
        raise ValueError(f"{place}: cannot be written ({error.strerror or error})") from error
    finally:
        _remove(aside)
        _remove(old)
    return place


def uninstall(plugins: Path) -> Path:
    """Remove our plugin from a folder of plugins; returns where it lay.

    Raises:
        ValueError: it is not there, or is not ours.
    """
    place = plugins / PLUGIN.name
    if not os.path.lexists(place):
        raise ValueError(f"{place}: is not there; --profile or --folder names another place")
    _check_ours(place)
    _remove(place)
    if os.path.lexists(place):
        raise ValueError(f"{place}: cannot be removed; is QGIS running?")
    return place


def _check_ours(place: Path) -> None:
    metadata = configparser.ConfigParser(interpolation=None)
    try:
        metadata.read(place / "metadata.txt", "utf-8")
        ours = metadata.get("general", "name", fallback="") == "kornia-tar"
    except (configparser.Error, UnicodeDecodeError):
        ours = False
    if not ours:
        raise ValueError(f"{place}: is not the plugin of kornia-tar; it is neither replaced nor removed")


def _remove(place: Path) -> None:
    """Remove a folder, or the link to one, if it is there."""
    if place.is_symlink():
        place.unlink()
    else:
        shutil.rmtree(place, ignore_errors=True)
