"""Makes math.woff, the letters and signs of the pages' formulas: browsers that have no font for mathematics (Android's)
would set x_u as "xu".

    python docs/fonts/make.py STIXTwoMath-Regular.ttf

The font is part of the package ziamath (0.13) on PyPI; fonttools, which comes with matplotlib, cuts it down.
"""

import sys
from pathlib import Path

from fontTools import subset

# ASCII, Greek and both in italics (of which h is the odd one out), and signs.
CHARACTERS = [
    *range(0x20, 0x7F), *range(0x3B1, 0x3CA), *range(0x1D434, 0x1D468), 0x210E, *range(0x1D6FC, 0x1D71C),
    *map(ord, "\N{NO-BREAK SPACE}·×−‖…∑∂∈≤≥"),
]  # fmt: skip


def make(source: str) -> None:
    kept = {"layout_features": [], "name_IDs": [0, 1, 2, 3, 4, 5, 6, 7, 13, 14]}  # no features; names, version, license
    options = subset.Options(hinting=False, flavor="woff", **kept)
    options.drop_tables += ["DSIG"]
    font = subset.load_font(source, options)
    font.recalcTimestamp = False
    cut = subset.Subsetter(options)
    cut.populate(unicodes=CHARACTERS)
    cut.subset(font)
    subset.save_font(font, Path(__file__).parent / "math.woff", options)


if __name__ == "__main__":
    make(sys.argv[1])
