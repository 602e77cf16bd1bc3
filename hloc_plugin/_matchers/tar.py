"""TAR as a matcher of hloc. Lies on the path of ``hloc.matchers``; see :func:`hloc_plugin.register`."""

from hloc_plugin.model import DEFAULTS, load_matcher, match

from ..utils.base_model import BaseModel


class TAR(BaseModel):
    """Text-assisted dense matcher; pixel centres at integers, symmetric in the two images."""

    default_conf = DEFAULTS
    required_inputs = ("image0", "image1")

    def _init(self, conf):
        self.net = load_matcher(conf)

    def _forward(self, data):
        return match(self.net, data, self.conf)
