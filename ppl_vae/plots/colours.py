"""Colours that colour-blind readers can tell apart, and marks that can be told apart in print."""

# The ten colours of Petroff (2021, arXiv 2107.02270), with the two greys, which are lost on a
# density shaded in grey, replaced by a dark blue and a dark red.
PALETTE = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#1b1b70",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#5a0a12",
    "#92dadd",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
LINES = ("-", "--", "-.", ":")
HATCHES = ("", "//", "..", "xx")
# Missing pixels: neither grey nor white.
MISSING = "#c9d7ee"
FAINT = "0.85"


def colour(index: int) -> str:
    """Return the colour of a category; colours repeat after ten."""
    return PALETTE[index % len(PALETTE)]


def marker(index: int) -> str:
    """Return the marker of a category; markers repeat after ten."""
    return MARKERS[index % len(MARKERS)]


def hatch(index: int) -> str:
    """Return the hatch of a stacked term; hatches repeat after four."""
    return HATCHES[index % len(HATCHES)]


def line(index: int) -> str:
    """Return the line style of a category; with the colour, it repeats after forty."""
    return LINES[index // len(PALETTE) % len(LINES)]
