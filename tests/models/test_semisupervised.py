"""The semi-supervised pair: enumeration against an explicit sum over labels, in float64."""

import copy
import math

import pyro
import pytest
import torch
from pairs import C, D, Z, binary, ssvae
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from torch.nn import functional as F

from ppl_vae import SemiSupervisedVAE, columns, estimators, likelihoods, nets, posteriors, priors

Y = torch.tensor([0, 1, 2, 0, -1, -1, -1])
ALL = torch.tensor([0, 1, 2, 0, 1, 2, 2])
ESTIMATORS = {
    "enum": lambda: TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
    "iw": lambda: estimators.ImportanceWeightedELBO(1),
}


def normal(z, loc, scale):
    return (-0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def draws(pair, x, y):
    """The noise of z for every label, ``(C, B, Z)``, or ``(B, Z)`` where all labels are known."""
    guide = pyro.poutine.enum(pair.guide, first_available_dim=-2)
    torch.manual_seed(1)
    site = poutine.trace(guide).get_trace(x, y).nodes["z"]
    q = site["fn"].base_dist
    return ((site["value"] - q.loc) / q.scale).detach()


def log_weight(pair, x, label, eps):
    """log p(y) p(z) p(x|z,y) - log q(z|x,y) at each datum's given label, without Pyro."""
    one_hot = F.one_hot(label, C).to(x.dtype)
    loc, raw = pair.posterior.net(torch.cat([x, one_hot], -1)).chunk(2, -1)
    scale = torch.log1p(raw.exp()) + 1e-4
    z = loc + scale * eps
    logits = pair.likelihood.net(torch.cat([z, one_hot], -1))
    log_likelihood = (x * logits - torch.log1p(logits.exp())).sum(-1)
    log_prior = normal(z, torch.zeros(Z), torch.ones(Z)) - math.log(C)
    return log_likelihood + log_prior - normal(z, loc, scale)


def hand_written(pair, x, y, eps, alpha):
    """Minus the bound of Kingma et al. 2014, by an explicit loop over data and labels."""
    log_q = torch.log_softmax(pair.classifier.net(x), -1)
    weights = [log_weight(pair, x, torch.full((len(x),), c), e) for c, e in enumerate(eps)]
    total = torch.zeros(())
    for b in range(len(x)):
        if y is not None and y[b] >= 0:
            total = total + weights[int(y[b])][b] + alpha * log_q[b, y[b]]
        else:
            q = log_q[b].exp()
            # E_q [log w] plus the categorical KL against the uniform p(y), log C - H(q): the
            # uniform log p(y) is inside log w
            total = total + sum(q[c] * (weights[c][b] - log_q[b, c]) for c in range(C))
    return -total


def gradients(pair, loss):
    parameters = dict(pair.named_parameters())
    found = torch.autograd.grad(loss, parameters.values(), allow_unused=True)
    return {
        n: torch.zeros_like(p) if g is None else g
        for (n, p), g in zip(parameters.items(), found, strict=True)
    }


@pytest.mark.parametrize("alpha", [0.0, 0.7, 50.0])
@pytest.mark.parametrize("labels", ["none", "some", "all"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_bound_and_gradients_equal_an_explicit_sum_over_labels(estimator, labels, alpha, float64):
    pair, x = ssvae(alpha=alpha), binary(7)
    y = {"none": None, "some": Y, "all": ALL}[labels]
    eps = draws(pair, x, y)
    eps = eps if eps.dim() == 3 else eps.expand(C, -1, -1)
    expected = hand_written(pair, x, y, eps, alpha)
    torch.manual_seed(1)
    loss = ESTIMATORS[estimator]()(pair.model, pair.guide)(x, y)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(
        gradients(pair, loss), gradients(pair, expected), rtol=1e-9, atol=1e-9
    )


def test_categorical_kl_of_the_label(float64):
    # With a decoder and a posterior that ignore y, the labels cost exactly KL(q(y|x) || uniform).
    pair, x = ssvae(), binary(5)
    with torch.no_grad():
        pair.posterior.net.layers[0].weight[:, D:] = 0
        pair.likelihood.net.layers[0].weight[:, Z:] = 0
    torch.manual_seed(1)
    loss = ESTIMATORS["enum"]().loss(pair.model, pair.guide, x)
    eps = draws(pair, x, None)
    log_q = torch.log_softmax(pair.classifier.net(x), -1)
    q = log_q.exp()
    kl = (q * (log_q + math.log(C))).sum(-1)
    of_z = sum(
        q[:, c] * (log_weight(pair, x, torch.full((5,), c), eps[c]) + math.log(C)) for c in range(C)
    )
    assert loss == pytest.approx((kl - of_z).sum().item(), rel=1e-12)


@pytest.mark.parametrize("particles", [1, 5])
def test_labels_some_observed_is_the_sum_of_both_cases(particles, float64):
    # Means over many draws of a mixed batch and of its two parts agree within 5 standard errors.
    pair, x = ssvae(alpha=3.0), binary(7)
    estimator = estimators.ImportanceWeightedELBO(particles)

    def losses(*args):
        many = [arg.repeat(200, *[1] * (arg.dim() - 1)) for arg in args]
        values = [estimator.loss(pair.model, pair.guide, *many) / 200 for _ in range(10)]
        return torch.tensor(values)

    mixed = losses(x, Y)
    apart = losses(x[:4], Y[:4]) + losses(x[4:])
    error = math.sqrt((mixed.var() + apart.var()) / len(mixed))
    assert abs(mixed.mean() - apart.mean()) < 5 * error


def test_labels_are_evidence_even_for_a_guide_without_y(float64):
    # y enumerated in the model alone: labelled data must condition on their label.
    pair, x = ssvae(), binary(7)
    q = pyro.distributions.Normal(torch.zeros(Z), torch.ones(Z)).to_event(1)

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", q)

    torch.manual_seed(1)
    z = q.sample((7,))
    log_joint = torch.stack(
        [
            pair.likelihood(z, F.one_hot(torch.full((7,), c), C).to(x.dtype)).log_prob(x)
            + pair.prior().log_prob(z)
            - math.log(C)
            for c in range(C)
        ]
    )
    label = torch.where(Y < 0, 0, Y)
    expected = torch.where(
        Y < 0, log_joint.logsumexp(0), log_joint.gather(0, label.unsqueeze(0)).squeeze(0)
    ) - q.log_prob(z)
    for estimator in ESTIMATORS.values():
        torch.manual_seed(1)
        loss = estimator().loss(pair.model, guide, x, Y)
        assert loss == pytest.approx(-expected.sum().item(), rel=1e-12)


@pytest.mark.parametrize("labels", [None, "some", "all"])
@pytest.mark.parametrize("prior", ["mixture", "vamp", "normal given y"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_parameter_moves_with_labels(prior, estimator, labels):
    pair, x = ssvae(prior, alpha=2.0), binary()
    y = None if labels is None else torch.tensor([0, 1, 2, 0, 1, 2, 2])
    if labels == "some":
        y[::2] = -1
    before = copy.deepcopy(dict(pair.named_parameters()))
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), ESTIMATORS[estimator]())
    assert all(math.isfinite(svi.step(x, y)) for _ in range(3))
    assert not [n for n, p in pair.named_parameters() if torch.equal(p, before[n])]


def test_float32_labels_contribute_no_nan():
    pair, x = ssvae(alpha=1.0), binary(7)
    for estimator in (*ESTIMATORS.values(), lambda: estimators.ImportanceWeightedELBO(4)):
        loss = estimator()(pair.model, pair.guide)(x, Y)
        loss.backward()
        assert math.isfinite(loss.item())
        assert all(torch.isfinite(p.grad).all() for p in pair.parameters() if p.grad is not None)


def test_unlabelled_is_the_same_as_no_labels():
    pair, x = ssvae(alpha=1.0), binary(7)
    values = []
    for y in (None, torch.full((7,), -1)):
        torch.manual_seed(1)
        values.append(ESTIMATORS["enum"]().loss(pair.model, pair.guide, x, y))
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_the_classification_term_trains_the_classifier():
    pair, x = ssvae(alpha=100.0), binary(7)
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.1}), ESTIMATORS["enum"]())
    for _ in range(30):
        svi.step(x, Y)
    assert (pair.classify(x).argmax(-1)[:4] == Y[:4]).all()


def test_the_classification_term_scores_what_classify_returns_for_rows_with_missing_cells():
    table = [columns.Normal(mean=10.0, std=2.0), columns.Normal(mean=-5.0, std=1.0)]
    inputs = columns.num_features(table)
    (outputs,) = likelihoods.Columns.net_shape(columns=table)
    pair = SemiSupervisedVAE(
        prior=priors.StandardNormal(2),
        classifier=columns.Encoder(nets.MLP(inputs, C), table),
        posterior=posteriors.DiagonalNormal(columns.Encoder(nets.MLP(inputs + C, 4), table)),
        likelihood=likelihoods.Columns(nets.MLP(2 + C, outputs), table),
        num_classes=C,
        classification_weight=1.0,
    )
    x, mask = torch.randn(7, 2), torch.arange(14).reshape(7, 2) % 3 > 0
    trace = poutine.trace(pair.model).get_trace(x, ALL, mask=mask)
    torch.testing.assert_close(
        trace.nodes["classification"]["fn"].probs, pair.classify(x, mask=mask)
    )


def test_without_the_term_labels_do_not_touch_the_classifier():
    pair, x = ssvae(alpha=0.0), binary(7)
    before = copy.deepcopy(pair.classifier)
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.02}), ESTIMATORS["enum"]())
    svi.step(x, ALL)
    for new, old in zip(pair.classifier.parameters(), before.parameters(), strict=True):
        assert torch.equal(new, old)


def test_sampled_labels_work_with_trace_elbo():
    pair, x = ssvae(), binary(7)
    for y in (None, Y):
        with pytest.warns(UserWarning, match="TraceEnum_ELBO"):
            assert math.isfinite(Trace_ELBO().loss(pair.model, pair.guide, x, y))
    assert math.isfinite(Trace_ELBO().loss(pair.model, pair.guide, x, ALL))


def test_generate_classify_reconstruct_encode():
    pair, x = ssvae(), binary(7)
    assert pair.generate(4).shape == (4, D)
    assert pair.generate(3, torch.tensor([0, 1, 2]), mean=True).shape == (3, D)
    torch.testing.assert_close(pair.classify(x).sum(-1), torch.ones(7))
    assert pair.reconstruct(x).shape == pair.reconstruct(x, Y).shape == (7, D)
    one_hot = F.one_hot(ALL, C).float()
    torch.testing.assert_close(pair.encode(x, ALL), pair.posterior(x, one_hot).mean)
    torch.testing.assert_close(pair.encode(x), pair.encode(x, pair.classify(x).argmax(-1)))


@pytest.mark.parametrize("labels", [None, Y], ids=["none", "some"])
def test_autoguides_leave_y_to_the_model(labels, float64):
    # An AutoGuide of z alone: y is summed out of the model.
    pair, x = ssvae(), binary(7)
    guide = pyro.infer.autoguide.AutoNormal(poutine.block(pair.model, hide=["y"]))
    values = []
    for estimator in ESTIMATORS.values():
        elbo = estimator()
        elbo.loss(pair.model, guide, x, labels)  # makes the guide's own sites
        torch.manual_seed(1)
        values.append(elbo.loss(pair.model, guide, x, labels))
    assert values[0] == pytest.approx(values[1], rel=1e-12)
