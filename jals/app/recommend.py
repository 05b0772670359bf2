"""The name from before the rooms of `jals.app`: the module is `jals.app.commands.recommend`."""

import sys

from .commands import recommend

sys.modules[__name__] = recommend
