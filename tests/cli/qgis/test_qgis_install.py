"""``kornia-tar qgis``: the plugin goes into a profile, whole, and out again; and it is one that QGIS can load."""

from __future__ import annotations

import ast
import configparser
import json
import shutil
import sys
from pathlib import Path
from typing import get_args

import pytest

from kornia_tar import __version__
from kornia_tar.cli.main import build_parser, main
from kornia_tar.cli.options import MODALITY_CHOICES
from kornia_tar.cli.qgis import command
from kornia_tar.outputs.registered import GridChoice, Resampling
from kornia_tar.registration import RegistrationModel

NAME = "kornia_tar_qgis"
FILES = sorted(command.PLUGIN.glob("*.py"))


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A user's folder without QGIS."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("QGIS_CUSTOM_CONFIG_PATH", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data/QGIS/QGIS3/profiles"


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_goes_into_the_profile_with_the_commands_path_and_out_again(home, program, capsys):
    assert main(["qgis", "install", "--command", str(program)]) == 0
    plugins = home / "default/python/plugins"
    assert contents(plugins) == [NAME]
    assert contents(plugins / NAME) == sorted(["installed.json", "metadata.txt", *(path.name for path in FILES)])
    told = json.loads((plugins / NAME / "installed.json").read_text())
    assert told == {"command": str(program), "kornia_tar": __version__}
    assert str(plugins / NAME) in capsys.readouterr().out

    assert main(["qgis", "install", "--command", str(program)]) == 1
    assert "is there already; give --overwrite" in capsys.readouterr().err
    (plugins / NAME / "stale.py").touch()
    assert main(["qgis", "install", "--command", str(program), "--overwrite"]) == 0
    assert "stale.py" not in contents(plugins / NAME) and contents(plugins) == [NAME]

    assert main(["qgis", "uninstall"]) == 0
    assert contents(plugins) == []
    assert main(["qgis", "uninstall"]) == 1
    assert "is not there" in capsys.readouterr().err


def test_another_profile_or_folder_must_be_there(home, program, tmp_path, capsys):
    (home / "work").mkdir(parents=True)
    assert main(["qgis", "install", "--command", str(program), "--profile", "work"]) == 0
    assert (home / "work/python/plugins" / NAME / "metadata.txt").is_file()
    for profile, error in (("play", "has no profile 'play', but work"), ("../work", "is no name of a profile")):
        assert main(["qgis", "install", "--profile", profile]) == 1
        assert error in capsys.readouterr().err
    command = ["qgis", "install", "--command", str(program), "--folder"]
    for folder in (tmp_path / "a folder", home / "play/python/plugins"):
        assert main([*command, str(folder)]) == 1 and not folder.exists()
        told = f"{folder}: no such folder; make it, or give PROFILE/python/plugins of a QGIS profile\n"
        assert capsys.readouterr().err == f"kornia-tar qgis: {told}"
    flatpak = tmp_path / "flatpak/profiles/default"  # a profile that never had a plugin
    for folder, there in ((tmp_path / "a folder", tmp_path / "a folder"), (flatpak / "python/plugins", flatpak)):
        there.mkdir(parents=True)
        assert main([*command, str(folder)]) == 0 and contents(folder) == [NAME]


def test_what_is_not_ours_is_neither_replaced_nor_removed(home, program, tmp_path, capsys):
    theirs = tmp_path / "plugins" / NAME
    theirs.mkdir(parents=True)
    (theirs / "metadata.txt").write_text("[general]\nname=another\n")
    for action in ("install", "uninstall"):
        words = ["qgis", action, "--folder", str(theirs.parent), "--command", str(program), "--overwrite"]
        assert main(words) == 1
        assert "is not the plugin of kornia-tar" in capsys.readouterr().err
    assert contents(theirs) == ["metadata.txt"] and contents(theirs.parent) == [NAME]


def test_a_link_to_the_plugin_goes_and_what_it_leads_to_stays(home, tmp_path):
    shutil.copytree(command.PLUGIN, tmp_path / "checkout")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / NAME).symlink_to(tmp_path / "checkout")
    assert command.uninstall(tmp_path / "plugins") == tmp_path / "plugins" / NAME
    assert contents(tmp_path / "plugins") == [] and (tmp_path / "checkout/metadata.txt").is_file()


def test_a_copy_that_fails_leaves_the_earlier_plugin(home, program, tmp_path, monkeypatch):
    place = command.install(tmp_path, program)

    def full(*_args: object, **_options: object) -> None:
        (tmp_path / "half").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command.shutil, "copytree", full)
    with pytest.raises(ValueError, match="cannot be written \\(No space left"):
        command.install(tmp_path, program, overwrite=True)
    assert (place / "installed.json").is_file() and contents(tmp_path) == ["half", NAME]


def test_what_qgis_calls_must_be_a_command(home, tmp_path, capsys):
    assert main(["qgis", "install", "--command", str(tmp_path / "none"), "--folder", str(tmp_path)]) == 1
    assert "none: is no command that can be run" in capsys.readouterr().err
    assert contents(tmp_path) == []


def test_the_plugin_imports_the_standard_library_and_qgis_alone():
    assert len(FILES) >= 5
    for path in FILES:
        tree = ast.parse(path.read_text("utf-8"), feature_version=(3, 9))
        found = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).split(".")[0])
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 1, f"{path.name} imports beyond its folder"
        foreign = found - set(sys.stdlib_module_names)
        assert foreign <= {"qgis", "processing"}, path.name  # processing is QGIS's own
        assert path.name != "process.py" or not foreign


def test_its_metadata_is_what_qgis_asks_for():
    metadata = configparser.ConfigParser(interpolation=None)
    metadata.read(command.PLUGIN / "metadata.txt", "utf-8")
    told = metadata["general"]
    assert told["version"] == __version__ and told["hasProcessingProvider"] == "yes"
    assert {"name", "description", "about", "qgisMinimumVersion", "author", "email"} <= set(map(str, told)) | {
        key for key in ("qgisMinimumVersion",) if told.get(key)
    }


def test_every_option_that_an_algorithm_gives_is_one_of_the_command():
    tree = ast.parse((command.PLUGIN / "algorithms.py").read_text("utf-8"))
    lists = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert set(lists["MODELS"]) == set(get_args(RegistrationModel))
    assert set(lists["RESAMPLINGS"]) == set(get_args(Resampling)) and set(lists["GRIDS"]) == set(get_args(GridChoice))
    assert set(lists["MODALITIES"]) == set(MODALITY_CHOICES)
    known = {
        name: sub._option_string_actions
        for action in build_parser()._actions
        if isinstance(action.choices, dict)
        for name, sub in action.choices.items()
    }
    seen = {}
    for cls in (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name != "CommandAlgorithm"):
        names = next(ast.literal_eval(n.value) for n in cls.body if isinstance(n, ast.Assign))
        calls = [n for n in ast.walk(cls) if isinstance(n, ast.Call) and ast.unparse(n.func) == "words"]
        options = [key.value for call in calls for key in call.args[2].keys if key is not None]
        assert [option for option in options if f"--{option}" not in known[names[0]]] == []
        seen[names[0]] = len(options)
    assert set(seen) == {"register", "apply", "landcover"} and min(seen.values()) >= 5
    assert "--modality0" in known["register"] and "--nodata1" in known["landcover"]
