"""Trained pairs that come with the package: small, of the bundled digits, each with a card.

``zoo.names()`` lists them, ``zoo.load(name)`` returns one, ``zoo.card(name)`` says what it was
trained on, by which command, and what it reaches on the test scans. ``make zoo`` trains them again.

Example:
    >>> from ppl_vae import zoo
    >>> zoo.names()
    ['digits-cvae', 'digits-flow', 'digits-gmvae', 'digits-ssvae', 'digits-vae', 'digits-vampprior']
    >>> zoo.load("digits-gmvae").generate(3).shape
    torch.Size([3, 64])
"""

from ppl_vae.zoo.cards import NUMBERS, Card, card, evaluated
from ppl_vae.zoo.folder import folder, load, names

__all__ = ["NUMBERS", "Card", "card", "evaluated", "folder", "load", "names"]
