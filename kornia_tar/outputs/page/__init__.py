"""A registration as one self-contained HTML page."""

from kornia_tar.outputs.page.build import build_page

__all__ = ["build_page"]
