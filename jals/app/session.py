"""The name from before the rooms of `jals.app`: the module is `jals.app.run.session`."""

import sys

from .run import session

sys.modules[__name__] = session
