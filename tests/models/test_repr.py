"""How pairs and their parts are shown: as Python source, and as a table in notebooks."""

import xml.etree.ElementTree as ElementTree

import pytest
import torch
from pairs import vae
from torch import nn

from ppl_vae import VAE, likelihoods, nets, posteriors, priors
from tests.models.test_numpy_arrays import PAIRS


def table(module):
    """Return the rows of a module's HTML table, which is well-formed."""
    root = ElementTree.fromstring(module._repr_html_())
    return [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")]


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_is_a_table_of_its_parts_with_their_numbers_of_parameters(name):
    pair = PAIRS[name]()
    _, *rows, (total, _, number) = table(pair)
    assert total == "total"
    assert number == f"{sum(p.numel() for p in pair.parameters()):,}"
    assert repr(pair).startswith(type(pair).__name__ + "(")
    names = {name.partition("[")[0] for name, *_ in rows}
    expected = {"first", "second"} if name == "stacked" else set(pair.parts())
    assert names == expected


def test_parameters_that_parts_share_are_counted_once():
    pair = vae("vamp")
    rows = {name: number for name, _, number in table(pair)}
    shared = sum(p.numel() for p in pair.posterior.parameters())
    assert int(rows["prior"]) + int(rows["likelihood"]) == int(rows["total"])
    assert int(rows["posterior"]) == shared


def test_parts_and_networks_are_tables_too():
    assert ["in_features", "4", ""] in table(nets.MLP(4, 2))
    assert ["latent_dim", "3", ""] in table(priors.StandardNormal(3))
    assert table(posteriors.DiagonalNormal(nets.MLP(4, 2)))[1][0] == "net"


def test_source_is_escaped():
    class Tag(nn.Module):
        def __init__(self, forgotten):
            super().__init__()

        def extra_repr(self):
            return "<b>&</b>"

        def forward(self, x):
            return x

    assert any("<b>&</b>" in row[1] for row in table(posteriors.DiagonalNormal(Tag(1))))


def test_a_class_that_does_not_keep_its_arguments_is_shown_as_its_repr():
    class Forgets(VAE):
        def __init__(self, width):
            super().__init__(
                prior=priors.StandardNormal(2),
                posterior=posteriors.DiagonalNormal(nn.Linear(width, 4)),
                likelihood=likelihoods.Bernoulli(nn.Linear(2, width)),
            )

    assert Forgets(3)._repr_html_().startswith("<pre>")


@pytest.mark.parametrize("name", PAIRS)
def test_sample_is_generate(name):
    pair = PAIRS[name]()
    n = torch.arange(3) if name == "conditional" else 3
    torch.manual_seed(0)
    generated = pair.generate(n, mean=True)
    torch.manual_seed(0)
    assert torch.equal(pair.sample(n, mean=True), generated)


@pytest.mark.parametrize("name", PAIRS)
def test_decode_takes_what_encode_returns(name):
    pair = PAIRS[name]()
    x = torch.rand(3, *pair.observation.event_shape).round()
    labels = (torch.arange(3) % 3,) if name in ("ssvae", "conditional", "stacked") else ()
    z = pair.encode(x, *labels)
    decoded = pair.decode(z, *labels)
    assert decoded.shape == x.shape
    arrays = tuple(t.numpy() for t in z) if isinstance(z, tuple) else z.numpy()
    assert torch.equal(pair.decode(arrays, *labels), decoded)


def test_decode_of_layers_needs_all_of_them(as_users_see_it):
    pair = PAIRS["hierarchical"]()
    z = pair.encode(torch.zeros(3, *pair.observation.event_shape))
    for wrong in (z[0], z[:1], [*z, z[0]]):
        with pytest.raises(ValueError, match="decode: latents must be the 2 tensors that encode"):
            pair.decode(wrong)
