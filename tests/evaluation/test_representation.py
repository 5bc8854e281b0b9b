"""Clusters and probes against counting by hand."""

import itertools
import math

import pytest
import torch
from pairs import D, Z, binary, vae
from torch import nn

from ppl_vae import VAE, likelihoods, nets, posteriors, priors
from ppl_vae.evaluation.representation import (
    clustering,
    linear_probe,
    nearest_neighbours,
    responsibilities,
)


@pytest.mark.parametrize(("clusters", "classes"), [(4, 4), (2, 4), (5, 3), (1, 3)])
def test_the_matching_is_the_best_of_all(clusters, classes):
    k, y = torch.randint(clusters, (40,)), torch.randint(classes, (40,))
    wide = max(clusters, classes)  # unmatched clusters go to labels that no datum has
    best = max(
        (torch.tensor(match)[k] == y).sum().item() for match in itertools.permutations(range(wide))
    )
    result = clustering(k, y)
    assert result.accuracy.mean == best / 40
    assert result.accuracy.standard_error == pytest.approx(
        math.sqrt(best / 40 * (1 - best / 40) / 39)
    )
    assert len(set(result.matching.values())) == len(result.matching) == min(clusters, classes)
    right = sum(result.matching.get(int(a)) == int(b) for a, b in zip(k, y, strict=True))
    assert right == best


def test_mutual_information_and_rand_index_by_counting():
    k, y = torch.randint(3, (60,)), torch.randint(4, (60,))
    result = clustering(k, y)
    joint = torch.zeros(3, 4, dtype=torch.float64)
    for a, b in zip(k, y, strict=True):
        joint[a, b] += 1 / 60
    of_k, of_y = joint.sum(1), joint.sum(0)
    information = (joint * (joint / (of_k[:, None] * of_y)).clamp(min=1e-300).log()).sum()
    entropy = -(of_k * of_k.log()).sum() / 2 - (of_y * of_y.log()).sum() / 2
    assert result.nmi == pytest.approx((information / entropy).item())
    pairs = list(itertools.combinations(range(60), 2))
    same_k = torch.tensor([bool(k[i] == k[j]) for i, j in pairs]).double()
    same_y = torch.tensor([bool(y[i] == y[j]) for i, j in pairs]).double()
    chance = same_k.mean() * same_y.mean()
    ari = ((same_k * same_y).mean() - chance) / ((same_k.mean() + same_y.mean()) / 2 - chance)
    assert result.ari == pytest.approx(ari.item())


def test_perfect_and_random_clusters():
    y = torch.arange(3000) % 10
    perfect = clustering((7 * y + 3) % 10 + 100, y)  # names of clusters do not matter
    assert perfect.accuracy.mean == 1
    assert perfect.nmi == pytest.approx(1)
    assert perfect.ari == pytest.approx(1)
    assert perfect.ami == pytest.approx(1)
    assert str(perfect) == (
        "clustering accuracy 100.0 % with 10 clusters for 10 classes, NMI 1.000, AMI 1.000, "
        "ARI 1.000"
    )
    random = clustering(torch.randint(10, (3000,)), y)
    assert 0.1 < random.accuracy.mean < 0.15
    assert abs(random.ari) < 0.005
    assert random.nmi < 0.02


def test_more_clusters_than_classes_limit_the_accuracy():
    y = torch.arange(500) % 10
    own = clustering(torch.arange(500), y)  # a cluster for each datum
    assert own.accuracy.mean == own.greatest_accuracy == 10 / 500
    assert own.nmi > 0.5
    assert own.ami == pytest.approx(0, abs=1e-9)
    assert "2.0 % of at most 2.0 % with 500 clusters for 10 classes" in str(own)
    # The expected information at given sizes, by drawing labels at random.
    k = torch.randint(60, (500,))
    nmi, chance = clustering(k, y).nmi, clustering(k, y).ami
    assert chance == pytest.approx(0, abs=0.03)
    assert nmi > 0.15
    few = clustering(torch.arange(500) % 5, y)
    assert few.greatest_accuracy == 1
    assert few.accuracy.mean == 0.5


def test_probabilities_are_assigned_by_argmax():
    p = torch.rand(30, 4)
    y = torch.randint(3, (30,))
    assert clustering(p, y) == clustering(p.argmax(-1), y)


def test_responsibilities_of_a_mixture_prior(float64):
    q = posteriors.DiagonalNormal(nets.MLP(D, 2 * Z))
    prior = priors.GaussianMixture(Z, components=3, learn_weights=True)
    with torch.no_grad():
        prior.loc.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]]))
        prior.logits.copy_(torch.tensor([0.0, 1.0, -0.5]))
    pair = VAE(prior=prior, posterior=q, likelihood=likelihoods.Bernoulli(nets.MLP(Z, D)))
    x = binary(5)
    got = responsibilities(pair, x, num_samples=5000)
    z = q(x).sample((5000,))
    # All scales are 1 at the start.
    log_joint = prior.logits - 0.5 * (z.unsqueeze(-2) - prior.loc).square().sum(-1)
    by_hand = log_joint.softmax(-1)
    # each is between 0 and 1, so its spread is below 0.5
    torch.testing.assert_close(
        got, by_hand.mean(0).detach(), rtol=0, atol=5 * 0.5 * math.sqrt(2 / 5000)
    )
    torch.testing.assert_close(got.sum(-1), torch.ones(5))
    state = torch.get_rng_state()
    assert torch.equal(responsibilities(pair, x), responsibilities(pair, x))
    assert torch.equal(state, torch.get_rng_state())
    assert responsibilities(vae("vamp"), binary(4)).shape == (4, 3)
    with pytest.raises(TypeError, match="the prior must be a mixture"):
        responsibilities(vae(), x)


def test_components_far_apart_are_the_clusters(float64):
    """Latents of three places, and a prior whose components are there."""
    places = torch.tensor([[6.0, 0.0], [0.0, 6.0], [-6.0, 0.0]])
    prior = priors.GaussianMixture(2, components=3)
    net = nn.Linear(3, 4)
    with torch.no_grad():
        prior.loc.copy_(places[[2, 0, 1]])
        net.weight.zero_()
        net.weight[:2].copy_(places.T)
        net.bias.zero_()
    pair = VAE(
        prior=prior,
        posterior=posteriors.DiagonalNormal(net),
        likelihood=likelihoods.Bernoulli(nets.MLP(2, 3)),
    )
    y = torch.randint(3, (50,))
    shares = responsibilities(pair, torch.eye(3)[y])
    assert shares.max(-1).values.min() > 0.99
    result = clustering(shares, y)
    assert result.accuracy.mean == 1
    assert result.matching == {0: 2, 1: 0, 2: 1}


def test_probes_of_separated_and_of_random_latents():
    y = torch.arange(300) % 3
    z = 20 * nn.functional.one_hot(y).double() + torch.randn(300, 3)
    for probe in (linear_probe, nearest_neighbours):
        assert probe(z[:150], y[:150], z[150:], y[150:]).mean == 1
        shuffled = y[torch.randperm(300)]
        chance = probe(z[:150], shuffled[:150], z[150:], shuffled[150:])
        assert chance.mean == pytest.approx(1 / 3, abs=5 * math.sqrt(2 / 9 / 150))
        assert chance.standard_error == pytest.approx(
            math.sqrt(chance.mean * (1 - chance.mean) / 149)
        )


def test_the_probe_standardises():
    y = torch.arange(200) % 2
    z = torch.stack([1e-4 * (2 * y - 1) + 1e-5 * torch.randn(200), 10 * torch.randn(200)], -1)
    assert linear_probe(z[:100], y[:100], z[100:], y[100:]).mean == 1


def test_nearest_neighbours_vote_by_distance():
    z, y = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0]]), torch.tensor([0, 0, 0, 1, 1])
    test = torch.tensor([[6.4], [9.0]])
    assert nearest_neighbours(z, y, test, torch.tensor([1, 1]), neighbours=1).mean == 1
    assert nearest_neighbours(z, y, test, torch.tensor([0, 0]), neighbours=5).mean == 1


P = torch.full((4, 2), 0.5)
Y = torch.zeros(4, dtype=torch.long)
LATENTS = torch.randn(4, 2)
REFUSED = [
    (lambda: clustering(Y, Y - 1), "labels must have a label, got -1 for all 4"),
    (lambda: clustering(Y, Y[:2]), r"labels of shape \(4,\)"),
    (lambda: clustering(P[:, 0], Y), r"probabilities \(N, clusters\)"),
    (lambda: clustering(P * math.nan, Y), "finite probabilities"),
    (lambda: linear_probe(LATENTS, Y, LATENTS, Y), "two distinct labels"),
    (lambda: linear_probe(LATENTS, Y, LATENTS[:, :1], Y), "z_test must be finite"),
    (lambda: linear_probe(LATENTS * math.inf, Y, LATENTS, Y), "z_train must be finite"),
    (lambda: nearest_neighbours(LATENTS, Y, LATENTS, Y, neighbours=5), "at most the 4"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_invalid_input_raises(call, message, as_users_see_it):
    with pytest.raises(ValueError, match=message):
        call()
