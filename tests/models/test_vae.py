"""Pairs under Pyro's own estimators, against hand-written mathematics in float64."""

import copy
import math

import pyro
import pytest
import torch
from pairs import POSTERIORS, D, Z, binary, ssvae, vae
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, autoguide

from ppl_vae import VAE, estimators, likelihoods, nets, posteriors, priors

LOG_2PI = math.log(2 * math.pi)


def normal_log_density(z, loc, scale):
    return (-0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * LOG_2PI).sum(-1)


def noise(pair, x, seed=1):
    """The standard normal draws that an estimator makes of z at this seed."""
    torch.manual_seed(seed)
    site = poutine.trace(pair.guide).get_trace(x).nodes["z"]
    q = site["fn"].base_dist
    return ((site["value"] - q.loc) / q.scale).detach()


def hand_written(pair, x, eps, *, analytic_kl):
    """-ELBO of a VAE with standard prior and Bernoulli likelihood, written without Pyro."""
    loc, raw = pair.posterior.net(x).chunk(2, -1)
    scale = torch.log1p(raw.exp()) + 1e-4
    z = loc + scale * eps
    logits = pair.likelihood.net(z)
    log_likelihood = (x * logits - torch.log1p(logits.exp())).sum(-1)
    if analytic_kl:
        kl = 0.5 * (scale**2 + loc**2 - 1 - 2 * scale.log()).sum(-1)
    else:
        zero, one = torch.zeros(Z), torch.ones(Z)
        kl = normal_log_density(z, loc, scale) - normal_log_density(z, zero, one)
    return -(log_likelihood - kl).sum()


def gradients(pair, loss):
    parameters = dict(pair.named_parameters())
    return dict(zip(parameters, torch.autograd.grad(loss, parameters.values()), strict=True))


@pytest.mark.parametrize("batch", [1, 2, 7, 33])
@pytest.mark.parametrize(
    ("elbo", "analytic_kl"),
    [
        (Trace_ELBO(), False),
        (TraceMeanField_ELBO(), True),
        (estimators.ImportanceWeightedELBO(1), False),
    ],
)
def test_elbo_and_gradients_equal_the_hand_written_ones(elbo, analytic_kl, batch, float64):
    pair, x = vae(), binary(batch)
    expected = hand_written(pair, x, noise(pair, x), analytic_kl=analytic_kl)
    torch.manual_seed(1)
    assert elbo.loss(pair.model, pair.guide, x) == pytest.approx(expected.item(), rel=1e-12)
    torch.manual_seed(1)
    loss = elbo(pair.model, pair.guide)(x)
    torch.testing.assert_close(
        gradients(pair, loss), gradients(pair, expected), rtol=1e-10, atol=1e-10
    )


def test_monte_carlo_kl_is_unbiased(float64):
    pair, x = vae(), binary(5)
    samples = 20_000
    torch.manual_seed(2)
    q, p = pair.posterior(x), pair.prior()
    z = q.sample((samples,))
    kl = q.log_prob(z) - p.log_prob(z)
    loc, scale = q.base_dist.loc, q.base_dist.scale
    exact = 0.5 * (scale**2 + loc**2 - 1 - 2 * scale.log()).sum(-1)
    assert ((kl.mean(0) - exact).abs() < 5 * kl.std(0) / math.sqrt(samples)).all()


def test_mixture_elbo_equals_the_hand_written_one(float64):
    pair, x = vae("mixture"), binary()
    eps = noise(pair, x)
    loc, raw = pair.posterior.net(x).chunk(2, -1)
    scale = torch.log1p(raw.exp()) + 1e-4
    z = loc + scale * eps
    component_scale = torch.log1p(pair.prior.unconstrained_scale.exp()) + 1e-4
    components = normal_log_density(z.unsqueeze(1), pair.prior.loc, component_scale)
    log_prior = components.exp().mean(1).log()
    logits = pair.likelihood.net(z)
    log_likelihood = (x * logits - torch.log1p(logits.exp())).sum(-1)
    expected = -(log_likelihood + log_prior - normal_log_density(z, loc, scale)).sum()
    torch.manual_seed(1)
    loss = Trace_ELBO()(pair.model, pair.guide)(x)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(
        gradients(pair, loss), gradients(pair, expected), rtol=1e-9, atol=1e-9
    )


def test_training_improves_the_bound_with_short_last_batches():
    pair, x = vae("mixture"), binary(23)
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.03}), Trace_ELBO())
    epochs = [sum(svi.step(batch) for batch in x.split(10)) for _ in range(25)]
    assert sum(epochs[-5:]) < 0.95 * sum(epochs[:5])


@pytest.mark.parametrize("pair", [vae, ssvae], ids=["vae", "ssvae"])
def test_replacing_the_prior_shares_everything_else(pair):
    first = pair()
    second = first.replace(prior=priors.GaussianMixture(Z, components=5))
    assert isinstance(second.prior, priors.GaussianMixture)
    assert isinstance(first.prior, priors.StandardNormal)
    assert second.posterior is first.posterior
    assert second.likelihood is first.likelihood
    svi = SVI(
        second.model,
        second.guide,
        pyro.optim.Adam({"lr": 0.01}),
        TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
    )
    weights = [p.clone() for p in first.parameters()]
    svi.step(binary())
    assert not any(torch.equal(p, w) for p, w in zip(first.parameters(), weights, strict=True))


@pytest.mark.parametrize("pair", [vae, ssvae], ids=["vae", "ssvae"])
def test_generation_samples_the_prior_that_was_trained(pair):
    # A prior far from the origin, and a decoder that shows where z is.
    class Show(torch.nn.Module):
        def forward(self, z):
            return z[..., :1].expand(*z.shape[:-1], D)

    prior = priors.GaussianMixture(Z, components=2)
    with torch.no_grad():
        prior.loc.fill_(50.0)
    shown = pair().replace(likelihood=likelihoods.Normal(Show(), 0.1), prior=prior)
    x = shown.generate(200)
    assert x.shape == (200, D)
    assert abs(x.mean().item() - 50) < 1
    assert shown.generate(20, mean=True).std(1).max() < 1e-4


def test_encode_and_reconstruct():
    pair, x = vae(), binary()
    torch.testing.assert_close(pair.encode(x), pair.posterior(x).mean)
    torch.manual_seed(3)
    z = pair.posterior(x).sample()
    torch.manual_seed(3)
    torch.testing.assert_close(pair.reconstruct(x), torch.sigmoid(pair.likelihood.net(z)))


def test_image_shaped_data():
    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(16, 2 * Z)

        def forward(self, x):
            return self.linear(x.flatten(-3))

    class Decoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(Z, 16)

        def forward(self, z):
            return self.linear(z).unflatten(-1, (1, 4, 4))

    pair = VAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(Encoder()),
        likelihood=likelihoods.Bernoulli(Decoder(), event_dim=3),
    )
    x = torch.rand(5, 1, 4, 4).bernoulli()
    for elbo in (Trace_ELBO(), estimators.ImportanceWeightedELBO(4)):
        assert math.isfinite(elbo.loss(pair.model, pair.guide, x))
    assert pair.generate(3).shape == (3, 1, 4, 4)


@pytest.mark.parametrize("name", POSTERIORS)
def test_pairs_can_be_copied_and_saved(name, tmp_path):
    pair, x = vae("mixture", name), binary()
    Trace_ELBO().loss(pair.model, pair.guide, x)
    twin = copy.deepcopy(pair)
    torch.save(pair.state_dict(), tmp_path / "pair.pt")
    fresh = vae("mixture", name)
    fresh.load_state_dict(torch.load(tmp_path / "pair.pt", weights_only=True))
    torch.manual_seed(5)
    expected = Trace_ELBO().loss(pair.model, pair.guide, x)
    for other in (twin, fresh):
        torch.manual_seed(5)
        assert Trace_ELBO().loss(other.model, other.guide, x) == expected


def test_construction_leaves_random_state_and_modes_alone():
    class Noise(torch.nn.Module):
        """Draws in evaluation mode too."""

        def forward(self, x):
            return x + torch.randn_like(x)

    encoder = torch.nn.Sequential(
        torch.nn.Linear(D, 2 * Z), torch.nn.BatchNorm1d(2 * Z), torch.nn.Dropout(), Noise()
    )
    state = torch.get_rng_state()
    parts = vae().parts()
    torch.set_rng_state(state)
    pair = VAE(**{**parts, "posterior": posteriors.DiagonalNormal(nets.KeepLeading(encoder, 1))})
    assert torch.equal(torch.get_rng_state(), state)
    assert all(m.training for m in pair.modules())
    assert encoder[1].num_batches_tracked == 0


def test_autoguides_and_users_own_guides_keep_working():
    pair, x = vae(), binary()
    for auto in (autoguide.AutoNormal, autoguide.AutoDelta):
        guide = auto(pair.model)
        values = []
        for estimator in (
            Trace_ELBO(),
            estimators.ImportanceWeightedELBO(1, max_plate_nesting=1),
            estimators.AnalyticKLELBO(monte_carlo=True, max_plate_nesting=1),
        ):
            svi = SVI(pair.model, guide, pyro.optim.SGD({"lr": 0.0}), estimator)
            svi.step(x)  # makes the guide's own sites
            torch.manual_seed(1)
            values.append(svi.step(x))
        assert values == pytest.approx([values[0]] * 3, rel=1e-5)

    def own_guide(x):
        loc = pyro.param("loc", torch.zeros(Z))
        with pyro.plate("data", len(x)):
            pyro.sample("z", pyro.distributions.Normal(loc, 1.0).to_event(1))

    svi = SVI(pair.model, own_guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    assert math.isfinite(svi.step(x))
