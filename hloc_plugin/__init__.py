"""TAR inside hloc and pycolmap: confs, the matcher for ``hloc.matchers``, hloc's files without hloc, verification.

>>> import hloc_plugin
>>> features, matches = hloc_plugin.match_dense(hloc_plugin.confs["tar"], pairs, images, outputs)  # doctest: +SKIP

Or ``hloc_plugin.register()``, and then ``hloc.match_dense.main`` with one of its confs, in a pipeline of yours.
"""

from hloc_plugin.confs import confs
from hloc_plugin.registry import match_dense, register

__all__ = ["confs", "match_dense", "register"]
