"""What takes long to import, or may not be installed, is imported by what needs it."""

import subprocess
import sys

HEAVY = (
    "torchvision", "open_clip", "timm", "huggingface_hub", "kornia_tar.text.clip", "pycolmap", "hloc", "rasterio",
    "matplotlib",
)  # fmt: skip
CODE = """
import sys
import kornia_tar.raster, kornia_tar.text as text
from kornia_tar.cli.main import build_parser
text.available_text_priors()
text.load_text_prior("random")
build_parser().format_help()
print(*(name for name in sys.argv[1:] if name in sys.modules))
"""


def test_import_is_light():
    done = subprocess.run([sys.executable, "-c", CODE, *HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
