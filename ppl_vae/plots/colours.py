"""Colours that stay apart under colour-vision deficiencies, and marks that stay apart in print."""

# The ten colours of Petroff (2021, arXiv 2107.02270), found by a survey under constraints on how
# far apart they lie for readers with deuteranomaly, protanomaly and tritanomaly; its two greys,
# which are lost on a density shaded in grey, are a dark blue and a dark red here.
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
# What is missing in an image: no grey value and no white.
MISSING = "#c9d7ee"
FAINT = "0.85"


def colour(index: int) -> str:
    """Return the colour of a category; they repeat after ten."""
    return PALETTE[index % len(PALETTE)]


def marker(index: int) -> str:
    """Return the mark of a category; they repeat after ten."""
    return MARKERS[index % len(MARKERS)]


def line(index: int) -> str:
    """Return the style of a category's line; colour and style together repeat after forty."""
    return LINES[index // len(PALETTE) % len(LINES)]
