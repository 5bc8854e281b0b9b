"""Clusters, probes and calibration against counting by hand."""

import itertools
import math

import pytest
import torch
from pairs import D, Z, binary, vae
from torch import nn

from ppl_vae import VAE, likelihoods, nets, posteriors, priors
from ppl_vae.evaluation import Estimate
from ppl_vae.evaluation.classification import expected_calibration_error
from ppl_vae.evaluation.representation import (
    accuracy_interval,
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


def test_many_clusters_have_a_greatest_accuracy_and_a_share_of_chance():
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


def test_probabilities_are_clusters_by_their_greatest():
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
    got = responsibilities(pair, x, num_samples=20_000)
    z = q(x).sample((20_000,))
    # All scales are 1 at the start.
    log_joint = prior.logits - 0.5 * (z.unsqueeze(-2) - prior.loc).square().sum(-1)
    by_hand = log_joint.softmax(-1)
    # each is between 0 and 1, so its spread is below 0.5
    torch.testing.assert_close(
        got, by_hand.mean(0).detach(), rtol=0, atol=5 * 0.5 * math.sqrt(2 / 20_000)
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


def test_probes_of_separated_and_of_meaningless_latents():
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


def test_wilson_interval_solves_its_equation():
    for p, n, level in ((0.9, 100, 0.95), (0.5, 7, 0.8), (0.0, 20, 0.99), (1.0, 20, 0.95)):
        low, high = accuracy_interval(p, n, level=level)
        assert 0 <= low <= p <= high <= 1
        c = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor((1 + level) / 2)).item()
        for end in (low, high):
            if 0 < end < 1:
                error = math.sqrt(end * (1 - end) / n)
                assert abs(p - end) == pytest.approx(c * error, rel=1e-4)
    assert accuracy_interval(Estimate(0.9, 0.03), 100) == accuracy_interval(0.9, 100)
    assert accuracy_interval(1.0, 20)[0] == pytest.approx(20 / (20 + 1.959964**2), rel=1e-5)


def test_the_interval_covers_the_truth_as_often_as_it_says(float64):
    """Summed over the binomial distribution: 95 % on average over accuracies."""
    n = 50
    count = torch.arange(n + 1)
    ends = torch.tensor([accuracy_interval(int(k) / n, n) for k in count])
    truths = torch.linspace(0.02, 0.98, 97)
    binomial = torch.distributions.Binomial(n, truths.unsqueeze(1))
    covered = (ends[:, 0] <= truths.unsqueeze(1)) & (truths.unsqueeze(1) <= ends[:, 1])
    coverage = (binomial.log_prob(count.double()).exp() * covered).sum(-1)
    assert coverage.mean().item() == pytest.approx(0.95, abs=0.01)
    assert coverage.min() > 0.8


def test_calibration_error_by_hand(float64):
    """Two bins of ten: (0.6, 0.7] with 3 data, 2 right; (0.9, 1] with 2 data, 1 right."""
    p = torch.tensor([[0.65, 0.35], [0.3, 0.7], [0.64, 0.36], [0.95, 0.05], [0.0, 1.0]])
    result = expected_calibration_error(p, torch.tensor([0, 1, 1, 0, 0]), bins=10)
    first, last = abs(2 / 3 - (0.65 + 0.7 + 0.64) / 3), abs(1 / 2 - 1.95 / 2)
    assert result.error == pytest.approx(3 / 5 * first + 2 / 5 * last)
    assert result.count.tolist() == [0] * 6 + [3] + [0] * 2 + [2]
    assert result.accuracy[6].item() == pytest.approx(2 / 3)
    assert result.confidence[9].item() == pytest.approx(0.975)
    assert result.accuracy[:6].isnan().all()
    assert result.edges.tolist() == pytest.approx([m / 10 for m in range(11)])
    assert str(result) == f"expected calibration error {100 * result.error:.1f} %"


def test_a_value_on_an_edge_belongs_below_it(float64):
    p = torch.tensor([[0.5, 0.5], [0.75, 0.25], [0.76, 0.24]])
    result = expected_calibration_error(p, torch.tensor([0, 0, 0]), bins=4)
    assert result.count.tolist() == [0, 1, 1, 1]


def test_calibrated_predictions_have_no_error_but_noise():
    logits = 2 * torch.randn(100_000, 4)
    p = logits.softmax(-1)
    drawn = torch.distributions.Categorical(p).sample()
    assert expected_calibration_error(p, drawn).error < 0.01
    sharp = (3 * logits).softmax(-1)  # too sure of the same
    result = expected_calibration_error(sharp, drawn)
    full = result.count > 500
    assert (result.confidence > result.accuracy)[full].all()
    accuracy = (sharp.argmax(-1) == drawn).double().mean().item()
    overconfidence = sharp.max(-1).values.double().mean().item() - accuracy
    assert result.error == pytest.approx(overconfidence, abs=0.005)


P = torch.full((4, 2), 0.5)
Y = torch.zeros(4, dtype=torch.long)
LATENTS = torch.randn(4, 2)
REFUSED = [
    (lambda: expected_calibration_error(P + 0.1, Y), "rows of numbers from 0 that sum to 1"),
    (lambda: expected_calibration_error(P * math.nan, Y), "sum to 1"),
    (lambda: expected_calibration_error(torch.tensor([[1.5, -0.5]]), Y[:1]), "sum to 1"),
    (
        lambda: expected_calibration_error(P, Y + 2),
        "integers from 0 to 1, -1 where unknown, got values from 2",
    ),
    (lambda: expected_calibration_error(P, Y[:3]), r"labels of shape \(4,\)"),
    (lambda: expected_calibration_error(P[:0], Y[:0]), "at least one datum"),
    (lambda: expected_calibration_error(P, Y, bins=0), "bins must be 1 or more"),
    (lambda: clustering(Y, Y - 1), "labels must have a label, got -1 for all 4"),
    (lambda: clustering(Y, Y[:2]), r"labels of shape \(4,\)"),
    (lambda: clustering(P[:, 0], Y), r"shape \(N, clusters\)"),
    (lambda: clustering(P * math.nan, Y), "finite probabilities"),
    (lambda: linear_probe(LATENTS, Y, LATENTS, Y), "two different labels"),
    (lambda: linear_probe(LATENTS, Y, LATENTS[:, :1], Y), "z_test must be finite"),
    (lambda: linear_probe(LATENTS * math.inf, Y, LATENTS, Y), "z_train must be finite"),
    (lambda: nearest_neighbours(LATENTS, Y, LATENTS, Y, neighbours=5), "at most the 4"),
    (lambda: accuracy_interval(93, 100), "divide percent by 100"),
    (lambda: accuracy_interval(0.5, 0), "n must be 1 or more"),
    (lambda: accuracy_interval(0.5, 5, level=1), "level must be between 0 and 1"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused(call, message, as_users_see_it):
    with pytest.raises(ValueError, match=message):
        call()


def test_labels_are_integers(as_users_see_it):
    with pytest.raises(TypeError, match="integers from 0 to 1"):
        expected_calibration_error(P, Y.float())
