"""Masks on distributions, ``fn.mask(m)``, count as masks on sites do: E_q [m_p log p - m_q log q].

Right values are sums written by hand with torch's densities and closed forms, entry by entry.
"""

import pyro
import pytest
import torch
from evaluated import Programs, unchecked
from pyro import distributions as dist
from pyro.distributions.torch_distribution import ExpandedDistribution
from pyro.infer import Trace_ELBO
from torch import nn
from torch.distributions import kl_divergence

from ppl_vae import evaluation
from ppl_vae.estimators import AnalyticKLELBO, ImportanceWeightedELBO, KLWeight

pytestmark = unchecked
B, D = 4, 3
ROWS = torch.tensor([True, False, True, True])
OTHER_ROWS = torch.tensor([True, True, False, True])
CELLS = torch.tensor([[1, 0, 1], [1, 1, 1], [0, 0, 1], [0, 0, 0]]).bool()
OTHER_CELLS = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 1]]).bool()
EVERY = torch.ones(B, D, dtype=torch.bool)

# name -> a masked version of an elementwise distribution, and what it leaves of the elements
MASKS = {
    "none": (lambda d: d.to_event(1), EVERY),
    "rows": (lambda d: d.to_event(1).mask(ROWS), ROWS[:, None] & EVERY),
    "other rows": (lambda d: d.to_event(1).mask(OTHER_ROWS), OTHER_ROWS[:, None] & EVERY),
    "one scalar": (lambda d: d.to_event(1).mask(torch.tensor(False)), ~EVERY),
    "true": (lambda d: d.to_event(1).mask(True), EVERY),
    "false": (lambda d: d.to_event(1).mask(False), ~EVERY),
    "twice": (
        lambda d: d.to_event(1).mask(ROWS).mask(OTHER_ROWS),
        (ROWS & OTHER_ROWS)[:, None] & EVERY,
    ),
    "rows, before the event": (lambda d: d.mask(ROWS[:, None]).to_event(1), ROWS[:, None] & EVERY),
    "false, before the event": (lambda d: d.mask(False).to_event(1), ~EVERY),
    "expanded": (
        lambda d: ExpandedDistribution(d.to_event(1).mask(ROWS), d.batch_shape[:-1]),
        ROWS[:, None] & EVERY,
    ),
    "cells": (lambda d: d.mask(CELLS).to_event(1), CELLS),
    "other cells": (lambda d: d.mask(OTHER_CELLS).to_event(1), OTHER_CELLS),
    "cells and rows": (
        lambda d: d.mask(CELLS).to_event(1).mask(OTHER_ROWS),
        CELLS & OTHER_ROWS[:, None],
    ),
    "cells twice": (lambda d: d.mask(CELLS).mask(OTHER_CELLS).to_event(1), CELLS & OTHER_CELLS),
}
WITHIN = ("cells", "other cells", "cells and rows", "cells twice")


class Masked:
    """z ~ N(loc_p, 1), x ~ N(z, 1) and q = N(loc_q, scale), each of them masked."""

    def __init__(self, p="none", q="none", x="none"):
        self.names = p, q, x
        g = torch.Generator().manual_seed(1)
        self.x = torch.randn(B, D, generator=g)
        model, guide = nn.Module(), nn.Module()
        model.loc = nn.Parameter(torch.randn(B, D, generator=g))
        guide.loc = nn.Parameter(torch.randn(B, D, generator=g))
        guide.log_scale = nn.Parameter(0.3 * torch.randn(B, D, generator=g))
        self.model, self.guide = model, guide
        model.forward = self._model
        guide.forward = self._guide

    @property
    def prior(self):
        return dist.Normal(self.model.loc, 1.0)

    @property
    def posterior(self):
        return dist.Normal(self.guide.loc, self.guide.log_scale.exp())

    @property
    def left(self):
        return [MASKS[name][1] for name in self.names]

    def _model(self, x):
        with pyro.plate("data", B):
            z = pyro.sample("z", MASKS[self.names[0]][0](self.prior))
            pyro.sample("x", MASKS[self.names[2]][0](dist.Normal(z, 1.0)), obs=x)

    def _guide(self, x):
        with pyro.plate("data", B):
            pyro.sample("z", MASKS[self.names[1]][0](self.posterior))

    def elbo(self, z):
        """The ELBO of all data: the likelihood at given draws (K, B, D), the KL in closed form."""
        m_p, m_q, m_x = self.left
        q, p = self.posterior, self.prior
        kl, entropy = kl_divergence(q, p), q.entropy()
        # E_q [m_q log q - m_p log p], element by element
        kl = m_p * (kl + entropy) - m_q * entropy
        expected = dist.Normal(z, 1.0).log_prob(self.x).mean(0)
        return (m_x * expected - kl).sum()

    def log_w(self, z):
        """Log weights of given draws, shape (K, B)."""
        m_p, m_q, m_x = self.left
        terms = m_p * self.prior.log_prob(z) - m_q * self.posterior.log_prob(z)
        return (terms + m_x * dist.Normal(z, 1.0).log_prob(self.x)).sum(-1)

    def gradient(self, value):
        parameters = [self.model.loc, self.guide.loc, self.guide.log_scale]
        return torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)


def _pairs():
    for name in MASKS:
        yield name, "none", "none"
        yield "none", name, "none"
        yield name, name, "none"
        yield "none", "none", name
    yield from [("rows", "other rows", "cells"), ("cells", "other cells", "rows")]
    yield from [("cells", "rows", "none"), ("false", "cells", "other rows")]


PAIRS = list(_pairs())


def _slow(masks):
    return pytest.param(masks, marks=pytest.mark.slow)


@pytest.mark.parametrize("masks", PAIRS)
def test_the_closed_form_sees_every_mask(float64, masks):
    case, k = Masked(*masks), 5
    torch.manual_seed(3)
    loss = AnalyticKLELBO(k, max_plate_nesting=1)(case.model, case.guide)(case.x)
    torch.manual_seed(3)
    q = case.posterior
    exact = -case.elbo(q.loc + q.scale * torch.randn(k, B, D))
    torch.testing.assert_close(loss, exact)
    for ours, right in zip(case.gradient(loss), case.gradient(exact), strict=True):
        torch.testing.assert_close(ours, right)


@pytest.mark.parametrize("masks", PAIRS)
@pytest.mark.parametrize("gradient", ["iwae", pytest.param("stl", marks=pytest.mark.slow), "dreg"])
def test_weights_and_gradients_are_those_by_hand(float64, masks, gradient):
    case, k = Masked(*masks), 5
    estimator = ImportanceWeightedELBO(k, gradient, max_plate_nesting=1)
    if gradient == "dreg" and masks[1] in WITHIN:
        with pytest.raises(NotImplementedError, match="'z'"):
            estimator(case.model, case.guide)(case.x)
        return
    torch.manual_seed(3)
    loss = estimator(case.model, case.guide)(case.x)
    torch.manual_seed(3)
    noise = torch.randn(k, B, D)
    q = case.posterior
    z = q.loc + q.scale * noise
    log_w = case.log_w(z)
    bound = (log_w.logsumexp(0) - torch.tensor(float(k)).log()).sum()
    torch.testing.assert_close(loss, -bound)
    found = case.gradient(loss)
    if gradient == "iwae":
        exact = case.gradient(-bound)
    else:
        # The path derivative of each weight, counted by ν, or by ν - m_q ν (1 - ν).
        nu = log_w.softmax(0).detach()
        m_q = case.left[1][:, 0]
        counts = nu if gradient == "stl" else nu - m_q * nu * (1 - nu)
        fixed = Masked(*masks)
        fixed.guide.requires_grad_(False)
        of_path = (counts * fixed.log_w(z)).sum()
        path = case.gradient(-of_path)
        exact = [case.gradient(-bound)[0], *path[1:]]
    for ours, right in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, right)


# Its gradient was compared by hand for every pair: here masks of the same name, and the mixed ones.
@pytest.mark.parametrize(
    "masks",
    [
        m if "none" not in m or m[0] in ("rows", "false") or m[2] == "cells" else _slow(m)
        for m in PAIRS
        if m[1] not in WITHIN and (m[0] == m[1] or "none" not in m)
    ],
)
def test_dreg_has_the_mean_of_iwae(float64, masks):
    case = Masked(*masks)
    rows = {}
    for gradient in ("iwae", "dreg"):
        torch.manual_seed(0)
        estimator = ImportanceWeightedELBO(3, gradient, num_groups=1500, max_plate_nesting=1)
        loss = [estimator(case.model, case.guide)(case.x) for _ in range(8)]
        found = [torch.cat([g.flatten() for g in case.gradient(each)[1:]]) for each in loss]
        rows[gradient] = torch.stack(found)
    one, other = rows["iwae"], rows["dreg"]
    error = ((one.var(0) + other.var(0)) / len(one)).sqrt() + 1e-12
    assert ((one.mean(0) - other.mean(0)).abs() < 6 * error).all()


@pytest.mark.parametrize("masks", PAIRS)
def test_one_particle_is_trace_elbo(float64, masks):
    case = Masked(*masks)
    torch.manual_seed(2)
    pyros = Trace_ELBO()(case.model, case.guide)(case.x)
    torch.manual_seed(2)
    ours = ImportanceWeightedELBO(1, max_plate_nesting=1)(case.model, case.guide)(case.x)
    torch.testing.assert_close(ours, pyros)
    for one, other in zip(case.gradient(ours), case.gradient(pyros), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("masks", [("rows", "rows", "none"), ("other rows", "rows", "rows")])
def test_a_mask_on_the_distribution_equals_one_on_the_site(float64, masks):
    case = Masked(*masks)
    rows = {"rows": ROWS, "other rows": OTHER_ROWS, "none": torch.ones(B, dtype=torch.bool)}
    m_p, m_q, m_x = (rows[name] for name in masks)

    def model(x):
        with pyro.plate("data", B):
            with pyro.poutine.mask(mask=m_p):
                z = pyro.sample("z", case.prior.to_event(1))
            with pyro.poutine.mask(mask=m_x):
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", B), pyro.poutine.mask(mask=m_q):
            pyro.sample("z", case.posterior.to_event(1))

    for beta in (1.0, 0.3):
        for estimator in (AnalyticKLELBO(), ImportanceWeightedELBO(4, "dreg")):
            values = []
            for pair in ((case.model, case.guide), (model, guide)):
                torch.manual_seed(5)
                weighted = [KLWeight(beta)(program) for program in pair]
                loss = estimator.differentiable_loss(*weighted, case.x)
                gradient = [g.flatten() for g in case.gradient(loss)]
                values.append(torch.cat([loss.detach()[None], *gradient]))
            torch.testing.assert_close(*values)


def test_free_bits_need_whole_dimensions():
    case = Masked("rows", "rows")
    AnalyticKLELBO(free_bits=0.1)(case.model, case.guide)(case.x)
    for masks in (("cells", "cells"), ("rows", "other rows"), ("none", "cells")):
        case = Masked(*masks)
        with pytest.raises(NotImplementedError, match="at site 'z'"):
            AnalyticKLELBO(free_bits=0.1)(case.model, case.guide)(case.x)


def test_elementwise_masks_need_a_product():
    covariance = torch.eye(D)

    def program(fn):
        def run(x):
            with pyro.plate("data", B):
                pyro.sample("z", fn)

        return run

    elements = dist.Normal(torch.zeros(B, D), 1.0).mask(CELLS).to_event(1)
    joint = dist.MultivariateNormal(torch.zeros(B, D), covariance)
    moved = dist.TransformedDistribution(
        dist.Normal(torch.zeros(B), 1.0).mask(ROWS), [dist.transforms.AffineTransform(0.0, 2.0)]
    )
    for q, p, word in (
        (joint, elements, "not a product"),
        (elements, joint, "not a product"),
        (moved, moved, "a mask on a part"),
    ):
        with pytest.raises(NotImplementedError, match=f"at site 'z'.*{word}"):
            AnalyticKLELBO()(program(p), program(q))(torch.zeros(B))


LOGITS = torch.tensor([0.5, -0.3, 0.1])
MEANS = torch.tensor([-1.0, 0.0, 2.0])


@pytest.mark.parametrize("where", ["guide", "model"])
@pytest.mark.parametrize("rows", [ROWS, torch.tensor(True), torch.tensor(False), True, False])
def test_masks_on_enumerated_sites(float64, where, rows):
    """Finite sums: q(y) stays what y is averaged over, its entropy counts where it is unmasked."""
    mark = {"enumerate": "parallel"}
    x = torch.tensor([0.1, -0.4, 1.5, 2.0])
    q_y = torch.tensor([0.2, 0.3, 0.5])

    def model(x):
        with pyro.plate("data", B):
            fn = dist.Categorical(logits=LOGITS).mask(rows)
            y = pyro.sample("y", fn, infer=mark if where == "model" else {})
            pyro.sample("x", dist.Normal(MEANS[y], 1.0), obs=x)

    def guide(x):
        if where == "guide":
            with pyro.plate("data", B):
                pyro.sample("y", dist.Categorical(q_y).mask(rows), infer=mark)

    pair = Programs(model, guide)
    likelihood = dist.Normal(MEANS, 1.0).log_prob(x[:, None])
    log_prior = LOGITS.log_softmax(-1)
    counts = torch.as_tensor(rows).expand(B)[:, None]
    if where == "guide":
        exact = (q_y * (likelihood + counts * (log_prior - q_y.log()))).sum(-1)
    else:  # a masked prior is summed over as it is
        exact = (likelihood + log_prior).logsumexp(-1)
    for k in (1, 3):
        value = ImportanceWeightedELBO(k).per_datum(pair.model, pair.guide, x)
        torch.testing.assert_close(value, exact)


def test_deterministic_sites_outside_the_plate_are_ignored():
    def model(x):
        pyro.deterministic("note", torch.tensor(float("nan")))
        with pyro.plate("data", B):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    def guide(x):
        with pyro.plate("data", B):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    torch.testing.assert_close(
        ImportanceWeightedELBO(3).per_datum(model, guide, torch.zeros(B)), torch.zeros(B)
    )


def test_a_fully_masked_draw_needs_its_gradient():
    """b ~ q(b) has no log q in the weight, but what follows is an expectation over it."""
    logit = torch.tensor(0.3, requires_grad=True)

    def model(x):
        with pyro.plate("data", B):
            b = pyro.sample("b", dist.Bernoulli(0.5).mask(False))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", B):
            pyro.sample("b", dist.Bernoulli(logits=logit).mask(False))

    with pytest.raises(NotImplementedError, match="site 'b' of the guide"):
        ImportanceWeightedELBO(2)(model, guide)(torch.zeros(B))


def test_evaluation_ignores_masks_on_distributions(float64):
    """KL(q ‖ p) of masked sites is split as that of the same sites without masks."""

    def pair(mask):
        def model(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1).mask(mask(x)))

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x, 0.5).mask(mask(x)[:, None]).to_event(1))

        return Programs(model, guide)

    x = torch.randn(6, 2)
    plain, masked = (
        evaluation.kl_decomposition(pair(mask), x, num_samples=5)
        for mask in (lambda x: x[:, 0] > -99, lambda x: x[:, 0] > 0)
    )
    assert plain == masked


class MaskedBits:
    """z of two bits with the second masked within its event, x ~ N(z W, 1)."""

    def __init__(self, mask=(True, False)):
        self.mask = torch.tensor(mask)
        self.prior, self.posterior = torch.tensor([0.3, -0.6]), torch.tensor([-0.2, 0.5])
        self.posterior.requires_grad_()
        self.weight, self.x = torch.tensor([[1.0, -0.5], [0.4, 0.8]]), torch.tensor([0.7, -0.4])

    def bits(self, logits, n):
        return dist.Bernoulli(logits=logits.expand(n, 2)).mask(self.mask).to_event(1)

    def model(self, n):
        with pyro.plate("data", n):
            z = pyro.sample("z", self.bits(self.prior, n))
            x = self.x.expand(n, 2)
            pyro.sample("x", dist.Normal(z @ self.weight, 1.0).to_event(1), obs=x)

    def guide(self, n):
        with pyro.plate("data", n):
            pyro.sample("z", self.bits(self.posterior, n))

    def exact(self):
        z = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 2)
        q, p = (dist.Bernoulli(logits=a).log_prob(z) for a in (self.posterior, self.prior))
        log_w = dist.Normal(z @ self.weight, 1.0).log_prob(self.x).sum(-1)
        log_w = log_w + (self.mask * (p - q)).sum(-1)
        return torch.autograd.grad((q.sum(-1).exp() * log_w).sum(), self.posterior)[0]


@pytest.mark.parametrize(
    "estimator",
    [
        *(ImportanceWeightedELBO(2, g, alpha=1) for g in ("loo", "vimco", "disarm")),
        *(AnalyticKLELBO(2, gradient=g) for g in ("loo", "disarm")),
    ],
    ids=["loo", "vimco", "disarm", "analytic loo", "analytic disarm"],
)
def test_scores_are_those_of_the_draws_within_masked_events_too(float64, estimator):
    case, n, rows = MaskedBits(), 4000, []
    for _ in range(8):
        loss = estimator.differentiable_loss(case.model, case.guide, n)
        rows.append(-torch.autograd.grad(loss, case.posterior)[0] / n)
    found = torch.stack(rows)
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - case.exact()).abs() < 5 * error).all()


def test_a_mask_that_hides_what_is_drawn_from_has_no_score(float64):
    logits = torch.zeros(B, 2, requires_grad=True)

    def mixture():
        parts = dist.Poisson(torch.ones(B, 2)).mask(torch.tensor([True, False]))
        return pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(logits=logits), parts))

    def guide(x):
        with pyro.plate("data", B):
            mixture()

    def model(x):
        with pyro.plate("data", B):
            pyro.sample("x", dist.Normal(mixture(), 1.0), obs=x)

    with pytest.raises(NotImplementedError, match="'z' of the guide has a mask on a part"):
        ImportanceWeightedELBO(2, "loo").differentiable_loss(model, guide, torch.zeros(B))
