"""``python -m kornia_tar``."""

import sys

from kornia_tar.cli.main import main

sys.exit(main())
