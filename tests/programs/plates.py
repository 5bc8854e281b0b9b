"""Plates: nested, crossed, subsampled, sequential, several of data."""

import pyro
import torch
from programs.program import ENUMERATED, nothing, parameters, program, tensor
from pyro import distributions as dist
from pyro.ops.indexing import Vindex

X = tensor(0.3, -1.2, 0.8)
TABLE = tensor([0.3, -1.2, 0.8], [1.1, 0.4, -0.5])
SUBSAMPLED = "inner plate 'data', which is subsampled"


def normal_z(p, x):
    return pyro.sample("z", dist.Normal(p.loc * x, p.scale.exp()))


@program(X)
def no_discrete_site():
    p = parameters(slope=(), loc=(), scale=())

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(p.slope * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            normal_z(p, x)

    return model, guide, p


@program(X, plate=None)
def global_and_local_codes():
    p = parameters(loc=(), scale=(), shift=())

    def model(x):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        m = pyro.sample("m", dist.Normal(p.shift, 0.5))
        with pyro.plate("data", len(x)):
            normal_z(p, x + m)

    return model, guide, p


@program(TABLE, plate=None)
def hierarchy_of_scales():
    p = parameters(mu=(), tau=(), theta=3)

    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("schools", 3, dim=-1):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            with pyro.plate("pupils", 2, dim=-2):
                pyro.sample("x", dist.Normal(theta, 1.0), obs=x)

    def guide(x):
        pyro.sample("mu", dist.Normal(p.mu, 0.5))
        pyro.sample("tau", dist.LogNormal(p.tau, 0.3))
        with pyro.plate("schools", 3, dim=-1):
            pyro.sample("theta", dist.Normal(p.theta, 0.5))

    return model, guide, p


@program(TABLE, plate="columns")
def nested_plates():
    p = parameters(slope=(), column=3, entry=(2, 3))

    def model(x):
        with pyro.plate("columns", 3, dim=-1):
            c = pyro.sample("c", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", 2, dim=-2):
                e = pyro.sample("e", dist.Normal(c, 1.0))
                pyro.sample("x", dist.Normal(p.slope * e, 1.0), obs=x)

    def guide(x):
        with pyro.plate("columns", 3, dim=-1):
            pyro.sample("c", dist.Normal(p.column, 0.5))
            with pyro.plate("rows", 2, dim=-2):
                pyro.sample("e", dist.Normal(p.entry, 0.5))

    return model, guide, p


@program(TABLE, plate="rows")
def batch_plate_on_the_left():
    p = parameters(weights=2, means=2, row=(2, 1))

    def model(x):
        with pyro.plate("rows", 2, dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("columns", 3, dim=-1):
                y = pyro.sample("y", dist.Categorical(logits=p.weights), infer=ENUMERATED)
                pyro.sample("x", dist.Normal(p.means[y] + z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", 2, dim=-2):
            pyro.sample("z", dist.Normal(p.row, 0.5))

    return model, guide, p


@program(TABLE, plate="a")
def three_nested_plates_with_discrete_sites():
    p = parameters(weights=2, rows=(2, 2), leaves=(2, 2), means=2)

    def model(x):
        with pyro.plate("a", 2, dim=-1):
            u = pyro.sample("u", dist.Categorical(logits=p.weights), infer=ENUMERATED)
            with pyro.plate("b", 2, dim=-2):
                v = pyro.sample("v", dist.Categorical(logits=p.rows[u]), infer=ENUMERATED)
                with pyro.plate("c", 2, dim=-3):
                    w = pyro.sample("w", dist.Categorical(logits=p.leaves[v]), infer=ENUMERATED)
                    values = x[:, :2] * tensor(1.0, -0.4).reshape(2, 1, 1)
                    pyro.sample("x", dist.Normal(p.means[w], 1.0), obs=values)

    return model, nothing, p


@program(TABLE, plate=None)
def crossed_plates():
    p = parameters(row=(2, 1), column=3)

    def model(x):
        rows, columns = pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 3, dim=-1)
        with rows:
            r = pyro.sample("r", dist.Normal(0.0, 1.0))
        with columns:
            c = pyro.sample("c", dist.Normal(0.0, 1.0))
        with rows, columns:
            pyro.sample("x", dist.Normal(r * c, 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", 2, dim=-2):
            pyro.sample("r", dist.Normal(p.row, 0.5))
        with pyro.plate("columns", 3, dim=-1):
            pyro.sample("c", dist.Normal(p.column, 0.5))

    return model, guide, p


@program(TABLE, plate=None)
def crossed_plates_with_discrete_sites_in_one():
    p = parameters(weights=2, means=2, column=3)

    def model(x):
        rows, columns = pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 3, dim=-1)
        with rows:
            y = pyro.sample("y", dist.Categorical(logits=p.weights), infer=ENUMERATED)
        with columns:
            c = pyro.sample("c", dist.Normal(0.0, 1.0))
        with rows, columns:
            pyro.sample("x", dist.Normal(p.means[y] + c, 1.0), obs=x)

    def guide(x):
        with pyro.plate("columns", 3, dim=-1):
            pyro.sample("c", dist.Normal(p.column, 0.5))

    return model, guide, p


@program(TABLE, plate=None)
def crossed_plates_with_discrete_sites_at_the_crossings():
    p = parameters(rows=(2, 1), columns=3, means=2, scale=())

    def model(x):
        rows, columns = pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 3, dim=-1)
        with rows:
            r = pyro.sample("r", dist.Normal(0.0, 1.0))
        with columns:
            c = pyro.sample("c", dist.Normal(0.0, 1.0))
        with rows, columns:
            y = pyro.sample("y", dist.Bernoulli(logits=r + c), infer=ENUMERATED)
            pyro.sample("x", dist.Normal(p.means[y.long()], p.scale.exp()), obs=x)

    def guide(x):
        with pyro.plate("rows", 2, dim=-2):
            pyro.sample("r", dist.Normal(p.rows, 0.5))
        with pyro.plate("columns", 3, dim=-1):
            pyro.sample("c", dist.Normal(p.columns, 0.5))

    return model, guide, p


@program(TABLE, plate=None)
def crossed_plates_of_labels_apart():
    p = parameters(weights=2, means=2)

    def model(x):
        rows, columns = pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 3, dim=-1)
        with rows:
            y = pyro.sample("y", dist.Categorical(logits=p.weights), infer=ENUMERATED)
            pyro.sample("u", dist.Normal(p.means[y], 1.0), obs=x[:, :1])
        with columns:
            c = pyro.sample("c", dist.Categorical(logits=p.weights), infer=ENUMERATED)
            pyro.sample("v", dist.Normal(p.means[c], 1.0), obs=x[0])
        with rows, columns:
            pyro.sample("x", dist.Normal(p.means.sum(), 1.0), obs=x)

    return model, nothing, p


@program(X, TABLE, plate=("a", "b"))
def two_batch_plates():
    p = parameters(weights=2, means=2, loc=(), scale=(), slope=())

    def model(x, v):
        with pyro.plate("a", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(p.slope * z, 1.0), obs=x)
        with pyro.plate("b", len(v), dim=-1):
            y = pyro.sample("y", dist.Categorical(logits=p.weights), infer=ENUMERATED)
            pyro.sample("v", dist.Normal(p.means[y], 1.0), obs=v[:, 0])

    def guide(x, v):
        with pyro.plate("a", len(x), dim=-1):
            normal_z(p, x)

    return model, guide, p


@program(X, TABLE, plate=("a", "b"))
def two_batch_plates_of_different_dimensions():
    p = parameters(slope=(), loc=(), scale=(), row=(2, 1))

    def model(x, v):
        with pyro.plate("a", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(p.slope * z, 1.0), obs=x)
        with pyro.plate("b", len(v), dim=-2):
            r = pyro.sample("r", dist.Normal(0.0, 1.0))
            with pyro.plate("entries", 3, dim=-1):
                pyro.sample("v", dist.Normal(r, 1.0), obs=v)

    def guide(x, v):
        with pyro.plate("a", len(x), dim=-1):
            normal_z(p, x)
        with pyro.plate("b", len(v), dim=-2):
            pyro.sample("r", dist.Normal(p.row, 0.4))

    return model, guide, p


@program(X, plate=None)
def sequential_plate():
    p = parameters(weights=2, means=2, loc=3)

    def model(x):
        for i in pyro.plate("data", len(x)):
            z = pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))
            y = pyro.sample(f"y{i}", dist.Categorical(logits=p.weights), infer=ENUMERATED)
            pyro.sample(f"x{i}", dist.Normal(p.means[y] + z, 1.0), obs=x[i])

    def guide(x):
        for i in pyro.plate("data", len(x)):
            pyro.sample(f"z{i}", dist.Normal(p.loc[i], 0.7))

    return model, guide, p


@program(TABLE, plate="rows")
def sequential_plate_in_a_vectorised_one():
    p = parameters(weights=2, means=2, loc=3)

    def model(x):
        rows = pyro.plate("rows", 2, dim=-1)
        with rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        for i in pyro.plate("columns", 3):
            with rows:
                y = pyro.sample(f"y{i}", dist.Categorical(logits=p.weights), infer=ENUMERATED)
                pyro.sample(f"x{i}", dist.Normal(p.means[y] + z, 1.0), obs=x[:, i])

    def guide(x):
        with pyro.plate("rows", 2, dim=-1):
            pyro.sample("z", dist.Normal(p.loc[0], 0.7))

    return model, guide, p


@program(TABLE, plate=None)
def vectorised_plate_in_a_sequential_one():
    p = parameters(weights=2, means=2, loc=3)

    def model(x):
        for i in pyro.plate("rows", 2):
            z = pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))
            with pyro.plate(f"columns{i}", 3):
                y = pyro.sample(f"y{i}", dist.Categorical(logits=p.weights), infer=ENUMERATED)
                pyro.sample(f"x{i}", dist.Normal(p.means[y] + z, 1.0), obs=x[i])

    def guide(x):
        for i in pyro.plate("rows", 2):
            pyro.sample(f"z{i}", dist.Normal(p.loc[i], 0.7))

    return model, guide, p


def subsampled(**how):
    p = parameters(slope=(), loc=(), scale=())

    def model(x):
        with pyro.plate("data", len(x), **how) as index:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(p.slope * z, 1.0), obs=x[index])

    def guide(x):
        with pyro.plate("data", len(x), **how) as index:
            normal_z(p, x[index])

    return model, guide, p


@program(X, refused_whole=SUBSAMPLED)
def subsampled_data():
    return subsampled(subsample_size=2)


@program(X, refused_whole=SUBSAMPLED)
def given_subsample():
    return subsampled(subsample=torch.tensor([0, 2]))


@program(X, refused_whole=SUBSAMPLED)
def subsampled_mixture():
    p = parameters(weights=2, means=2, loc=())

    def model(x):
        with pyro.plate("data", len(x), subsample_size=2) as index:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            y = pyro.sample("y", dist.Categorical(logits=p.weights), infer=ENUMERATED)
            pyro.sample("x", dist.Normal(p.means[y] + z, 1.0), obs=x[index])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=2) as index:
            pyro.sample("z", dist.Normal(p.loc * x[index], 0.7))

    return model, guide, p


@program(X, plate=None, refused=SUBSAMPLED)
def subsampled_mixture_with_global_weights():
    p = parameters(means=2, counts=2)

    def model(x):
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("data", len(x), subsample_size=2) as index:
            y = pyro.sample("y", dist.Categorical(weights), infer=ENUMERATED)
            pyro.sample("x", dist.Normal(p.means[y], 1.0), obs=x[index])

    def guide(x):
        pyro.sample("weights", dist.Dirichlet(p.counts.exp()))

    return model, guide, p


@program(X, plate=None, refused="enumerated inside the inner plate 'data'")
def subsampled_labels_in_the_guide_with_global_weights():
    p = parameters(means=2, counts=2, slope=2)

    def model(x):
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("data", len(x), subsample_size=2) as index:
            y = pyro.sample("y", dist.Categorical(weights), infer=ENUMERATED)
            pyro.sample("x", dist.Normal(p.means[y], 1.0), obs=x[index])

    def guide(x):
        pyro.sample("weights", dist.Dirichlet(p.counts.exp()))
        with pyro.plate("data", len(x), subsample_size=2) as index:
            logits = x[index].unsqueeze(-1) * p.slope
            pyro.sample("y", dist.Categorical(logits=logits), infer=ENUMERATED)

    return model, guide, p


@program(
    TABLE,
    plate="columns",
    refused="inner plate 'rows', which is subsampled",
    refused_whole="inner plate 'rows', which is subsampled",
)
def subsampled_inner_plate():
    p = parameters(column=3, slope=())

    def model(x):
        with pyro.plate("columns", 3, dim=-1):
            c = pyro.sample("c", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", 2, subsample_size=1, dim=-2) as index:
                pyro.sample("x", dist.Normal(p.slope * c, 1.0), obs=x[index])

    def guide(x):
        with pyro.plate("columns", 3, dim=-1):
            pyro.sample("c", dist.Normal(p.column, 0.5))

    return model, guide, p


@program(TABLE, plate="columns", refused="rows", refused_whole="rows")
def discrete_sites_in_a_subsampled_inner_plate():
    p = parameters(column=3, weights=2, means=2)

    def model(x):
        with pyro.plate("columns", 3, dim=-1):
            c = pyro.sample("c", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", 2, subsample_size=1, dim=-2) as index:
                y = pyro.sample("y", dist.Categorical(logits=p.weights), infer=ENUMERATED)
                pyro.sample("x", dist.Normal(p.means[y] + c, 1.0), obs=x[index])

    def guide(x):
        with pyro.plate("columns", 3, dim=-1):
            pyro.sample("c", dist.Normal(p.column, 0.5))

    return model, guide, p


@program(TABLE, plate="columns", refused_whole="columns")
def nested_plates_of_a_subsample():
    p = parameters(weights=2, rows=(2, 2), means=2)

    def model(x):
        with pyro.plate("columns", 3, subsample_size=2, dim=-1) as index:
            y = pyro.sample("y", dist.Categorical(logits=p.weights), infer=ENUMERATED)
            with pyro.plate("rows", 2, dim=-2):
                c = pyro.sample("c", dist.Categorical(logits=p.rows[y]), infer=ENUMERATED)
                pyro.sample("x", dist.Normal(p.means[c], 1.0), obs=x[:, index])

    return model, nothing, p


@program(X, refused_whole=SUBSAMPLED)
def local_parameters_of_a_subsample():
    def model(x):
        slope = pyro.param("slope", lambda: tensor(0.7))
        with pyro.plate("data", len(x), subsample_size=2) as index:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(slope * z, 1.0), obs=x[index])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=2):
            loc = pyro.param("loc", lambda: tensor(0.1, -0.4, 0.6), event_dim=0)
            scale = pyro.param(
                "scale",
                lambda: tensor(0.5, 0.6, 0.7),
                constraint=dist.constraints.positive,
                event_dim=0,
            )
            pyro.sample("z", dist.Normal(loc, scale))

    return model, guide


@program(plate=None)
def no_plate():
    p = parameters(loc=2, weights=2, means=2)

    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        y = pyro.sample("y", dist.Categorical(logits=p.weights), infer=ENUMERATED)
        pyro.sample("x", dist.Normal(z.sum(-1) + p.means[y], 1.0), obs=tensor(0.4))

    def guide():
        pyro.sample("z", dist.Normal(p.loc, 0.5).to_event(1))

    return model, guide, p


@program(X, TABLE, plate=("a", "b"), refused_whole="which is subsampled")
def two_subsampled_batch_plates():
    p = parameters(loc=(), scale=(), slope=(), row=2)

    def model(x, v):
        with pyro.plate("a", len(x), subsample_size=2, dim=-1) as index:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(p.slope * z, 1.0), obs=x[index])
        with pyro.plate("b", len(v), subsample_size=1, dim=-1) as index:
            r = pyro.sample("r", dist.Normal(0.0, 1.0))
            pyro.sample("v", dist.Normal(r, 1.0), obs=v[index, 0])

    def guide(x, v):
        with pyro.plate("a", len(x), subsample_size=2, dim=-1) as index:
            normal_z(p, x[index])
        with pyro.plate("b", len(v), subsample_size=1, dim=-1) as index:
            pyro.sample("r", dist.Normal(p.row[index], 0.4))

    return model, guide, p


@program(
    TABLE,
    plate=None,
    refused="Expected tree-structured plate nesting",
    unlike_pyro="refuses it too",
)
def crossed_plates_of_labels_that_meet():
    p = parameters(weights=2, means=(2, 2))

    def model(x):
        rows, columns = pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 3, dim=-1)
        with rows:
            y = pyro.sample("y", dist.Categorical(logits=p.weights), infer=ENUMERATED)
        with columns:
            c = pyro.sample("c", dist.Categorical(logits=p.weights), infer=ENUMERATED)
        with rows, columns:
            pyro.sample("x", dist.Normal(Vindex(p.means)[y, c], 1.0), obs=x)

    return model, nothing, p


@program(TABLE, plate=None)
def labels_that_meet_in_a_sequential_plate():
    p = parameters(weights=2, means=(2, 2))

    def model(x):
        columns, labels = pyro.plate("columns", 3, dim=-1), []
        for i in pyro.plate("rows", 2):
            fn = dist.Categorical(logits=p.weights)
            labels.append(pyro.sample(f"y{i}", fn, infer=ENUMERATED))
        with columns:
            c = pyro.sample("c", dist.Categorical(logits=p.weights), infer=ENUMERATED)
        for i in pyro.plate("rows again", 2):
            with columns:
                fn = dist.Normal(Vindex(p.means)[labels[i], c], 1.0)
                pyro.sample(f"x{i}", fn, obs=x[i])

    return model, nothing, p


@program(X, plate=None, refused="data")
def subsampled_sequential_plate():
    p = parameters(loc=3, slope=())

    def model(x):
        for i in pyro.plate("data", len(x), subsample_size=2):
            z = pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))
            pyro.sample(f"x{i}", dist.Normal(p.slope * z, 1.0), obs=x[i])

    def guide(x):
        for i in pyro.plate("data", len(x), subsample_size=2):
            pyro.sample(f"z{i}", dist.Normal(p.loc[i], 0.7))

    return model, guide, p


@program(X, plate=None, refused="data")
def subsampled_sequential_plate_of_labels():
    p = parameters(weights=2, means=2)

    def model(x):
        for i in pyro.plate("data", len(x), subsample_size=2):
            y = pyro.sample(f"y{i}", dist.Categorical(logits=p.weights), infer=ENUMERATED)
            pyro.sample(f"x{i}", dist.Normal(p.means[y], 1.0), obs=x[i])

    return model, nothing, p
