"""TAR inside hloc and pycolmap: confs, the matcher for ``hloc.matchers``, hloc's files without hloc, verification.

>>> import hloc_plugin
>>> hloc_plugin.register()  # doctest: +SKIP
>>> from hloc import match_dense  # doctest: +SKIP
>>> features, matches = match_dense.main(match_dense.confs["tar"], pairs, images, outputs)  # doctest: +SKIP
"""

from hloc_plugin.confs import confs
from hloc_plugin.registry import match_dense, register

__all__ = ["confs", "match_dense", "register"]
