"""The course's program in plain PyTorch has the terms of its definition, and trains."""

import sys
from pathlib import Path

import torch
from torch import distributions as dist
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import course


def test_the_terms_are_those_of_the_definition():
    torch.manual_seed(0)
    model, x = course.MixtureVAE(16), torch.rand(5, 16).round()
    with torch.random.fork_rng():
        kl, cost = model(x)
    mean, raw = model.encoder(x).chunk(2, -1)
    q = dist.Independent(dist.Normal(mean, (F.softplus(raw) + 1e-8).sqrt()), 1)
    z = mean + q.base_dist.scale * torch.randn(5, course.LATENT_DIM)
    loc, raw = model.components.chunk(2)
    p = dist.MixtureSameFamily(
        dist.Categorical(logits=torch.zeros(500)),
        dist.Independent(dist.Normal(loc, (F.softplus(raw) + 1e-8).sqrt()), 1),
    )
    likelihood = dist.Independent(dist.Bernoulli(logits=model.decoder(z)), 1)
    torch.testing.assert_close(kl, q.log_prob(z) - p.log_prob(z))
    torch.testing.assert_close(cost, -likelihood.log_prob(x))


def test_the_command_prints_the_terms_of_both_sets(monkeypatch, capsys):
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    arguments = ["course.py", "--dataset", "digits", "--steps", "40", "--seeds", "2"]
    monkeypatch.setattr(sys, "argv", arguments)
    course.main()
    first, _, *rows = capsys.readouterr().out.splitlines()
    assert first == "40 steps, mean ± standard deviation over 2 seeds"
    assert [row[:24].strip() for row in rows] == list(course.DRAWS)
    for row in rows:
        nelbo, kl, cost = (float(cell.split(" ± ")[0]) for cell in row[24:].split("   ") if cell)
        assert abs(nelbo - kl - cost) < 0.011
        assert nelbo < 64 * 0.69  # better than a fair coin for each pixel
