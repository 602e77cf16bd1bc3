"""``python -m kornia_tar``."""

import sys

from kornia_tar.cli import main

sys.exit(main())
