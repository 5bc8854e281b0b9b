"""The semi-supervised VAE (Kingma's M2) with 100 labels: y is enumerated if it is unobserved.

Each batch has 100 unlabelled images (y = -1) and 20 labelled ones, all binarised anew.
The classification term has the weight of Stanford CS236, problem set 2: 100 times the mean
cross-entropy beside the mean NELBO. Accuracy is measured on the grey values of the test set.
"""

import math

import torch
from common import load, num_steps, parse_flags, save, take
from matplotlib import pyplot as plt
from pyro.infer import SVI, TraceEnum_ELBO
from pyro.optim import Adam
from torch import nn
from tqdm import tqdm

from ppl_vae import SemiSupervisedVAE, evaluation, likelihoods, nets, plots, posteriors, priors

LATENT = 64
BATCH_SIZE, LABELLED_PER_STEP = 100, 20

flags = parse_flags(__doc__)
train, test = load(flags)
steps, pixels = num_steps(flags, train, large=30_000), math.prod(train.event_shape)
batches = train.to(flags.device).batches(BATCH_SIZE, binarise="dynamic", seed=flags.seed)
x_test = test.binarised(seed=0).tensor(device=flags.device)
classes = train.num_classes
chosen = train.labelled_subset(2 if flags.smoke else 100 // classes, seed=flags.seed)
labelled = train.subset(chosen).to(flags.device)
ssvae = SemiSupervisedVAE(
    prior=priors.StandardNormal(LATENT),
    classifier=nets.MLP(pixels, classes, activation=nn.ReLU),
    posterior=posteriors.DiagonalNormal(nets.MLP(pixels + classes, 2 * LATENT)),
    likelihood=likelihoods.Bernoulli(nets.MLP(LATENT + classes, pixels)),
    num_classes=classes,
    classification_weight=100.0 * BATCH_SIZE / LABELLED_PER_STEP,
).to(flags.device)

svi = SVI(ssvae.model, ssvae.guide, Adam({"lr": 1e-3}), TraceEnum_ELBO(max_plate_nesting=1))
bar = tqdm(take(batches, steps), "training", steps, unit="step")
for x, labels in bar:
    at = torch.randint(len(labelled), (LABELLED_PER_STEP,), device=flags.device)
    y = torch.cat([torch.full_like(labels, -1), labelled.labels[at]])  # x's labels are hidden
    loss = svi.step(torch.cat([x, labelled.draw(at)]), y)  # nats per batch
    bar.set_postfix_str(f"loss {loss / len(y):.2f} nats", refresh=False)

right = evaluation.accuracy(ssvae, test)
print(f"{len(labelled)} labels, seed {flags.seed}, {steps} steps")
print(f"test accuracy {100 * right.mean:.2f} ± {100 * right.standard_error:.2f} %")

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5))
y = torch.arange(classes, device=flags.device).repeat_interleave(10)
rows = ssvae.generate(len(y), y, mean=True)
plots.images(rows.cpu(), columns=10, ax=left).set_title("one row per class")
x = x_test[:50]
plots.reconstructions(x.cpu(), ssvae.reconstruct(x).cpu(), ax=right).set_title("reconstructions")
save(figure, flags)
