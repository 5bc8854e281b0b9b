"""The semi-supervised VAE (Kingma's M2) with 100 labels: y is enumerated where it is not observed.

Each step sees, as one batch, 100 images without labels (y = -1) and 20 with, all binarised anew.
The classification term has the weight of Stanford CS236, problem set 2: 100 times the mean
cross-entropy beside the mean NELBO. Accuracy is measured on the grey values of the test set.
"""

import torch
from common import Run
from matplotlib import pyplot as plt
from pyro.infer import SVI, TraceEnum_ELBO
from pyro.optim import Adam
from torch import nn

from ppl_vae import SemiSupervisedVAE, evaluation, likelihoods, nets, plots, posteriors, priors

LATENT = 64
LABELLED_PER_STEP = 20

run = Run(__doc__, large_steps=30_000)
classes = run.train.num_classes
chosen = run.train.labelled_subset(2 if run.flags.smoke else 100 // classes, seed=run.flags.seed)
labelled = run.train.subset(chosen).to(run.device)
ssvae = SemiSupervisedVAE(
    prior=priors.StandardNormal(LATENT),
    classifier=nets.MLP(run.pixels, classes, activation=nn.ReLU),
    posterior=posteriors.DiagonalNormal(nets.MLP(run.pixels + classes, 2 * LATENT)),
    likelihood=likelihoods.Bernoulli(nets.MLP(LATENT + classes, run.pixels)),
    num_classes=classes,
    classification_weight=100.0 * run.batch_size / LABELLED_PER_STEP,
).to(run.device)

svi = SVI(ssvae.model, ssvae.guide, Adam({"lr": 1e-3}), TraceEnum_ELBO(max_plate_nesting=1))
for x, labels in run.batches():
    some = torch.randint(len(labelled), (LABELLED_PER_STEP,), device=run.device)
    y = torch.cat([torch.full_like(labels, -1), labelled.labels[some]])  # labels of x are not seen
    loss = svi.step(torch.cat([x, labelled.draw(some)]), y)  # nats per batch
    run.show(loss / len(y))

right = evaluation.accuracy(ssvae, run.test)
print(f"{len(labelled)} labels, seed {run.flags.seed}, {run.steps} steps")
print(f"test accuracy {100 * right.mean:.2f} ± {100 * right.standard_error:.2f} %")

figure, (left, middle) = plt.subplots(1, 2, figsize=(10, 5))
y = torch.arange(classes, device=run.device).repeat_interleave(10)
rows = ssvae.generate(len(y), y, mean=True)
plots.images(rows.cpu(), columns=10, ax=left).set_title("one row per class")
x, shown = run.test_x[:50], ssvae.reconstruct(run.test_x[:50])
plots.reconstructions(x.cpu(), shown.cpu(), ax=middle).set_title("reconstructions")
run.save(figure)
