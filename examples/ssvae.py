"""The semi-supervised VAE (Kingma's M2) with 100 labels: y is enumerated where it is not observed.

Each step sees a batch without labels and the labelled images, all binarised anew, as one batch in
which y is -1 where unobserved. Accuracy is measured on the grey values of the test set.
"""

import torch
from common import Run
from matplotlib import pyplot as plt
from pyro.infer import SVI, TraceEnum_ELBO
from pyro.optim import Adam
from torch import nn

from ppl_vae import SemiSupervisedVAE, evaluation, likelihoods, nets, plots, posteriors, priors

LATENT = 64
PER_CLASS = 10

run = Run(__doc__)
classes = run.train.num_classes
if run.flags.smoke:
    PER_CLASS = 2
labelled = run.train.subset(run.train.labelled_subset(PER_CLASS, seed=run.flags.seed))
ssvae = SemiSupervisedVAE(
    prior=priors.StandardNormal(LATENT),
    classifier=nets.MLP(run.pixels, classes, activation=nn.ReLU),
    posterior=posteriors.DiagonalNormal(nets.MLP(run.pixels + classes, 2 * LATENT)),
    likelihood=likelihoods.Bernoulli(nets.MLP(LATENT + classes, run.pixels)),
    num_classes=classes,
    classification_weight=100.0,
).to(run.device)
labels = torch.cat([torch.full((run.batch_size,), -1), labelled.labels]).to(run.device)

svi = SVI(ssvae.model, ssvae.guide, Adam({"lr": 1e-3}), TraceEnum_ELBO(max_plate_nesting=1))
everything = torch.arange(len(labelled))
for x, _ in run.batches():
    x_labelled = labelled.draw(everything, device=run.device)
    y = labels[run.batch_size - len(x) :]  # the last batch of an epoch may be short
    loss = svi.step(torch.cat([x, x_labelled]), y)  # nats per batch
    run.show(loss / len(y))

grey = run.test.draw(torch.arange(len(run.test)), binarise="none", device=run.device)
right = evaluation.accuracy(ssvae, grey, run.test.labels.to(run.device))
print(f"{len(labelled)} labels, seed {run.flags.seed}, {run.steps} steps")
print(f"test accuracy {100 * right.mean:.2f} ± {100 * right.standard_error:.2f} %")

figure, (left, middle) = plt.subplots(1, 2, figsize=(10, 5))
y = torch.arange(classes, device=run.device).repeat_interleave(10)
rows = ssvae.generate(len(y), y, mean=True)
plots.images(rows.cpu(), columns=10, ax=left).set_title("one row per class")
x, shown = run.test_x[:50], ssvae.reconstruct(run.test_x[:50])
plots.reconstructions(x.cpu(), shown.cpu(), ax=middle).set_title("reconstructions")
run.save(figure)
