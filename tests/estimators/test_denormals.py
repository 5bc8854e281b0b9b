"""What is too small to count is exactly zero: no gradient drowns in denormal numbers."""

import math

import pyro
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ppl_vae import VAE, SemiSupervisedVAE, estimators, likelihoods, nets, posteriors, priors
from ppl_vae.estimators import densities
from ppl_vae.estimators.objective import Objective
from ppl_vae.estimators.power_means import negligible

D, Z, CLASSES, BATCH = 20, 3, 10, 30
TINY = torch.finfo(torch.float32).tiny
iw = estimators.ImportanceWeightedELBO


class Products(TorchDispatchMode):
    """Notes the matrix products that meet denormal numbers, and how many there are."""

    def __init__(self):
        super().__init__()
        self.seen, self.denormal = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm):
            self.seen += 1
            for operand in args:
                size = operand.abs()
                if ((size > 0) & (size < TINY)).any():
                    self.denormal.append(tuple(operand.shape))
        return func(*args, **(kwargs or {}))


def late(gap):
    """Return a pair whose classifier gives each label e^-gap times what the last one has."""
    torch.manual_seed(0)
    pair = SemiSupervisedVAE(
        prior=priors.StandardNormal(Z),
        classifier=nets.MLP(D, CLASSES, hidden=(8,)),
        posterior=posteriors.DiagonalNormal(nets.MLP(D + CLASSES, 2 * Z, hidden=(8,))),
        likelihood=likelihoods.Bernoulli(nets.MLP(Z + CLASSES, D, hidden=(8,))),
        num_classes=CLASSES,
    )
    last = [m for m in pair.classifier.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.copy_(-gap * torch.arange(float(CLASSES)))
    return pair


def data():
    return (torch.rand(BATCH, D, generator=torch.Generator().manual_seed(0)) > 0.5).float()


def gradients(pair, estimator, x):
    torch.manual_seed(1)
    pair.zero_grad()
    with Products() as products:
        loss = estimator.differentiable_loss(pair.model, pair.guide, x)
        loss.backward()
    return loss.detach(), [p.grad.clone() for p in pair.parameters()], products


@pytest.mark.parametrize(
    "estimator",
    [estimators.AnalyticKLELBO(), iw(1), iw(5), iw(5, "dreg"), iw(5, "stl"), iw(5, "wake")],
    ids=["analytic", "elbo", "iwae", "dreg", "stl", "wake"],
)
def test_a_confident_classifier_has_no_denormal_gradients(estimator):
    pair, x = late(gap=10.5), data()
    q_y = pair.classify(x)
    assert ((q_y > 0) & (q_y < TINY)).any(), "the case is not what it is meant to be"
    loss, slopes, products = gradients(pair, estimator, x)
    assert products.seen > 10
    # The classifier's own last layer sees the probabilities themselves; it has ten columns.
    assert [shape for shape in products.denormal if CLASSES not in shape] == []
    assert loss.isfinite()
    assert all(slope.isfinite().all() for slope in slopes)


def test_negligible_labels_have_a_gradient_of_exactly_zero():
    pair, x = late(gap=10.5), data()
    found = []

    def note(module, inputs, output):
        if output.dim() == 2:
            return  # the first look
        output.register_hook(lambda slope: found.append(slope.reshape(CLASSES, BATCH, -1)))

    pair.posterior.net.register_forward_hook(note)
    estimators.AnalyticKLELBO().differentiable_loss(pair.model, pair.guide, x).backward()
    (slope,) = found
    counts = pair.classify(x).mT >= negligible(torch.float32)
    assert 2 <= counts[:, 0].sum() < CLASSES
    assert (slope[~counts] == 0).all()
    assert (slope[counts] != 0).any(-1).all()


@pytest.mark.parametrize("gap", [4.5, 10.5])
@pytest.mark.usefixtures("float64")
def test_negligible_terms_are_below_rounding(gap, monkeypatch):
    results = []
    for weight in (0.0, negligible(torch.float32)):
        monkeypatch.setattr(densities, "negligible", lambda dtype, weight=weight: weight)
        pair = late(gap).double()
        results.append(gradients(pair, estimators.AnalyticKLELBO(), data().double())[:2])
    (exact, exact_slopes), (loss, slopes) = results
    eps = torch.finfo(torch.float32).eps
    assert abs(loss - exact) <= eps * abs(exact)
    for got, expected in zip(slopes, exact_slopes, strict=True):
        assert (got - expected).abs().max() <= eps * expected.abs().max()
    assert any(not torch.equal(*both) for both in zip(slopes, exact_slopes, strict=True))


@pytest.mark.parametrize("objective", [Objective(), Objective(2), Objective(alpha=0.5)])
def test_negligible_particles_have_a_gradient_of_exactly_zero(objective):
    log_w = torch.tensor([-500.0, -501.0, -520.0, -560.0, -590.0, -600.0], requires_grad=True)
    log_w = log_w[torch.tensor([0, 3, 4, 1, 2, 5])].unsqueeze(-1)
    log_w.retain_grad()
    bound = objective.bound(log_w, -2).sum()
    bound.backward()
    counts = objective.coefficients(log_w, -2)
    torch.testing.assert_close(counts, log_w.grad)
    for slope in (log_w.grad, counts):
        assert (slope == 0).any()
        assert ((slope == 0) | (slope > negligible(torch.float32) / 4)).all()
    exact = objective.bound(log_w.detach().double(), -2).sum()
    torch.testing.assert_close(bound.detach().double(), exact, rtol=1e-7, atol=0)


def test_zero_and_nan_weights_stay_so():
    for value in (-math.inf, math.nan):
        log_w = torch.tensor([value, value if math.isinf(value) else 1.0]).unsqueeze(-1)
        bound = Objective().bound(log_w, -2)
        assert torch.equal(bound.isnan(), torch.full((1, 1), math.isnan(value)))
        assert not bound.isfinite().any()


def test_a_nan_classifier_gives_nan():
    pair = late(1.0)
    with torch.no_grad():
        pair.classifier.net.layers[-1].bias[3] = math.nan
    with pyro.validation_enabled(False):
        elbo = estimators.AnalyticKLELBO(max_plate_nesting=1)
        loss = elbo.differentiable_loss(pair.model, pair.guide, data())
    assert loss.isnan()


def test_distant_particles_have_no_denormal_gradients():
    torch.manual_seed(0)
    pair = VAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(nets.MLP(D, 2 * Z, hidden=(8,))),
        likelihood=likelihoods.Bernoulli(nets.MLP(Z, D, hidden=(8,))),
    )
    with torch.no_grad():
        pair.likelihood.net.layers[-1].weight.mul_(30)
    x = data()
    log_w = iw(50).log_weights(pair.model, pair.guide, x).log_w.detach()
    assert (log_w.amax(0) - log_w.amin(0) > 90).any(), "the case is not what it is meant to be"
    for gradient in ("iwae", "dreg"):
        _, _, products = gradients(pair, iw(50, gradient), x)
        assert products.denormal == []
