"""Custom networks: any ``nn.Module`` as encoder and decoder, here convolutional on flat data.

They must preserve leading dimensions: besides the batch there may be particles and enumerated
values, so flatten and restore them.
"""

from common import load, num_steps, parse_flags, save, take
from matplotlib import pyplot as plt
from pyro.infer import SVI
from pyro.optim import Adam
from torch import nn
from tqdm import tqdm

from ppl_vae import VAE, estimators, evaluation, likelihoods, plots, posteriors, priors

LATENT = 10

flags = parse_flags(__doc__)
train, test = load(flags)
steps = num_steps(flags, train)
batches = train.to(flags.device).batches(100, binarise="dynamic", seed=flags.seed)
x_test = test.binarised(seed=0).tensor(device=flags.device)
_, height, width = train.event_shape
if height % 4 or width % 4:
    raise SystemExit(f"height and width must be multiples of 4, got {height}x{width}")


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
).to(flags.device)

svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), estimators.ImportanceWeightedELBO(5))
bar = tqdm(take(batches, steps), "training", steps, unit="step")
for x, _ in bar:
    loss = svi.step(x)  # nats per batch
    bar.set_postfix_str(f"loss {loss / len(x):.2f} nats", refresh=False)

terms = evaluation.elbo_terms(vae, x_test)
print(f"test set of {len(x_test)}, nats per datum (seed {flags.seed}, {steps} steps)")
print(f"NELBO {terms.nelbo}   KL {terms.kl}   reconstruction {terms.reconstruction}")

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5))
plots.images(vae.generate(100, mean=True).cpu(), columns=10, ax=left).set_title("samples")
x = x_test[:50]
plots.reconstructions(x.cpu(), vae.reconstruct(x).cpu(), ax=right).set_title("reconstructions")
save(figure, flags)
