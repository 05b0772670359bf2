"""The name from before the rooms of `jals.app`: the module is `jals.app.run.runner`."""

import sys

from .run import runner

sys.modules[__name__] = runner
