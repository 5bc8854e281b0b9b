"""Networks of one's own: any ``nn.Module``, with no base class, as encoder and decoder.

Convolutional networks on flat data here. What they must keep are the leading dimensions: besides
the batch there may be particles and enumerated values, so flatten and restore them.
"""

from common import Run
from matplotlib import pyplot as plt
from pyro.infer import SVI
from pyro.optim import Adam
from torch import nn

from ppl_vae import VAE, estimators, evaluation, likelihoods, plots, posteriors, priors

LATENT = 10

run = Run(__doc__)
_, height, width = run.train.event_shape
if height % 4 or width % 4:
    raise SystemExit(f"these networks halve the image twice; {height}x{width} cannot be")


class Encoder(nn.Module):
    """(..., D) -> (..., 2 * LATENT): the location, then the unconstrained scale."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Unflatten(-1, (1, height, width)),
            nn.Conv2d(1, 32, 3, stride=2, padding=1),
            nn.ELU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ELU(),
            nn.Flatten(),
            nn.Linear(64 * (height // 4) * (width // 4), 2 * LATENT),
        )

    def forward(self, x):
        return self.layers(x.flatten(0, -2)).unflatten(0, x.shape[:-1])


class Decoder(nn.Module):
    """(..., LATENT) -> (..., D): logits."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(LATENT, 64 * (height // 4) * (width // 4)),
            nn.Unflatten(-1, (64, height // 4, width // 4)),
            nn.ELU(),
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
            nn.ELU(),
            nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1),
            nn.Flatten(),
        )

    def forward(self, z):
        return self.layers(z.flatten(0, -2)).unflatten(0, z.shape[:-1])


vae = VAE(
    prior=priors.StandardNormal(LATENT),
    posterior=posteriors.DiagonalNormal(Encoder()),
    likelihood=likelihoods.Bernoulli(Decoder()),
).to(run.device)

svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), estimators.ImportanceWeightedELBO(5))
for x, _ in run.batches():
    loss = svi.step(x)  # nats per batch
    run.show(loss / len(x))

terms = evaluation.elbo_terms(vae, run.test_x)
print(f"test set of {len(run.test_x)}, nats per datum (seed {run.flags.seed}, {run.steps} steps)")
print(f"NELBO {terms.nelbo}   KL {terms.kl}   reconstruction {terms.reconstruction}")

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5))
plots.images(vae.generate(100, mean=True).cpu(), columns=10, ax=left).set_title("samples")
x = run.test_x[:50]
plots.reconstructions(x.cpu(), vae.reconstruct(x).cpu(), ax=right).set_title("reconstructions")
run.save(figure)
