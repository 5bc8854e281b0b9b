"""Discrete sites that are no chains: in the model, in the guide, in both."""

import pyro
import torch
from programs.program import ENUMERATED, nothing, parameters, program, tensor
from pyro import distributions as dist
from pyro.infer import config_enumerate
from pyro.ops.indexing import Vindex
from torch.nn.functional import one_hot

X = tensor(0.3, -1.2, 0.8)
WORDS = torch.tensor([[0, 2], [1, 2], [2, 0]])  # (word, document), of three kinds
IN_DATA = "enumerated inside the inner plate 'data'"


def component(logits, name="y"):
    return pyro.sample(name, dist.Categorical(logits=logits), infer=ENUMERATED)


def labelled(x, p, y=None):
    """The model of a mixture."""
    with pyro.plate("data", len(x)):
        y = component(p.weights)
        pyro.sample("x", dist.Normal(p.means[y], 1.0), obs=x)


@program(X)
def mixture():
    p = parameters(weights=3, means=3)
    return lambda x: labelled(x, p), nothing, p


@program(X)
def mixture_by_config_enumerate():
    p = parameters(weights=3, means=3)

    @config_enumerate
    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=p.weights))
            pyro.sample("x", dist.Normal(p.means[y], 1.0), obs=x)

    return model, nothing, p


def global_mixture(x, p, scale=1.0):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(weights), infer=ENUMERATED)
        pyro.sample("x", dist.Normal(p.means[y], scale), obs=x)


@program(X, plate=None)
def mixture_with_global_weights():
    p = parameters(means=2, counts=2)

    def guide(x):
        pyro.sample("weights", dist.Dirichlet(p.counts.exp()))

    return lambda x: global_mixture(x, p), guide, p


@program(X, plate=None)
def mixture_with_the_most_probable_weights():
    p = parameters(means=2, weights=2)

    def guide(x):
        pyro.sample("weights", dist.Delta(p.weights.softmax(-1), event_dim=1))

    return lambda x: global_mixture(x, p), guide, p


@program(X, plate=None)
def mixture_with_global_weights_means_and_scale():
    p = parameters(counts=2, loc=2, scale=())

    def model(x):
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("components", 2):
            means = pyro.sample("means", dist.Normal(0.0, 2.0))
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(weights), infer=ENUMERATED)
            mean = Vindex(means.unsqueeze(-2))[..., y]
            pyro.sample("x", dist.Normal(mean, scale), obs=x)

    def guide(x):
        pyro.sample("weights", dist.Dirichlet(p.counts.exp()))
        pyro.sample("scale", dist.LogNormal(p.scale, 0.3))
        with pyro.plate("components", 2):
            pyro.sample("means", dist.Normal(p.loc, 0.4))

    return model, guide, p


@program(X, plate=None, refused=IN_DATA)
def mixture_with_global_weights_and_labels_in_the_guide():
    p = parameters(means=2, counts=2, slope=2)

    def guide(x):
        pyro.sample("weights", dist.Dirichlet(p.counts.exp()))
        with pyro.plate("data", len(x)):
            component(x.unsqueeze(-1) * p.slope)

    return lambda x: global_mixture(x, p), guide, p


@program(X, refused_whole=IN_DATA)
def label_in_the_guide():
    p = parameters(weights=3, means=3, slope=3)

    def guide(x):
        with pyro.plate("data", len(x)):
            component(x.unsqueeze(-1) * p.slope)

    return lambda x: labelled(x, p), guide, p


@program(X, refused_whole=IN_DATA)
def label_and_code_in_the_guide():
    p = parameters(weights=3, means=3, slope=3, loc=3)

    def model(x):
        with pyro.plate("data", len(x)):
            y = component(p.weights)
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(p.means[y] + z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            y = component(x.unsqueeze(-1) * p.slope)
            pyro.sample("z", dist.Normal(p.loc[y] + x, 0.7))

    return model, guide, p


@program(X, refused_whole=IN_DATA)
def two_labels_in_the_guide():
    p = parameters(weights=2, rows=(2, 3), means=3, slope=2, guide_rows=(2, 3))

    def model(x):
        with pyro.plate("data", len(x)):
            y = component(p.weights)
            c = component(p.rows[y], "c")
            pyro.sample("x", dist.Normal(p.means[c], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            y = component(x.unsqueeze(-1) * p.slope)
            component(p.guide_rows[y], "c")

    return model, guide, p


@program(X, refused_whole=IN_DATA)
def label_in_the_guide_and_another_in_the_model():
    p = parameters(weights=2, rows=(2, 3), means=3, slope=2)

    def model(x):
        with pyro.plate("data", len(x)):
            y = component(p.weights)
            c = component(p.rows[y], "c")
            pyro.sample("x", dist.Normal(p.means[c], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            component(x.unsqueeze(-1) * p.slope)

    return model, guide, p


@program(X, refused_whole=IN_DATA)
def label_given_a_code():
    p = parameters(weights=3, means=3, slope=3, loc=())

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            y = component(p.weights * z.unsqueeze(-1))
            pyro.sample("x", dist.Normal(p.means[y] + z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(p.loc * x, 0.7))
            component(z.unsqueeze(-1) * p.slope)

    return model, guide, p


@program(X, refused_whole=IN_DATA)
def labels_before_and_after_a_code():
    p = parameters(weights=2, rows=(2, 3), means=3, slope=2, loc=2, guide_rows=3)

    def model(x):
        with pyro.plate("data", len(x)):
            y = component(p.weights)
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            c = component(p.rows[y] + z.unsqueeze(-1), "c")
            pyro.sample("x", dist.Normal(p.means[c] + z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            y = component(x.unsqueeze(-1) * p.slope)
            z = pyro.sample("z", dist.Normal(p.loc[y], 0.7))
            component(p.guide_rows * z.unsqueeze(-1), "c")

    return model, guide, p


@program(X)
def code_in_the_guide_and_label_in_the_model():
    p = parameters(weights=3, means=3, loc=())

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            y = component(p.weights * z.unsqueeze(-1))
            pyro.sample("x", dist.Normal(p.means[y] + z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(p.loc * x, 0.7))

    return model, guide, p


@program(X, refused_whole=IN_DATA)
def code_between_labels_of_guide_and_model():
    p = parameters(weights=2, rows=(2, 3), means=3, slope=2, loc=2)

    def model(x):
        with pyro.plate("data", len(x)):
            y = component(p.weights)
            z = pyro.sample("z", dist.Normal(p.means[y], 1.0))
            c = component(p.rows[y] * z.unsqueeze(-1), "c")
            pyro.sample("x", dist.Normal(p.means[c] + z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            y = component(x.unsqueeze(-1) * p.slope)
            pyro.sample("z", dist.Normal(p.loc[y] + x, 0.7))

    return model, guide, p


def topics(words, theta, p):
    """Words of one of two topics each, in an inner plate."""
    with pyro.plate("words", len(words), dim=-2):
        topic = pyro.sample("topic", dist.Categorical(theta), infer=ENUMERATED)
        pyro.sample("word", dist.Categorical(logits=p.topics[topic]), obs=words)


@program(WORDS, plate="documents")
def topics_per_document():
    p = parameters(topics=(2, 3), counts=(2, 2))

    def model(words):
        with pyro.plate("documents", words.shape[1], dim=-1):
            theta = pyro.sample("theta", dist.Dirichlet(torch.ones(2)))
            topics(words, theta, p)

    def guide(words):
        with pyro.plate("documents", words.shape[1], dim=-1):
            pyro.sample("theta", dist.Dirichlet(p.counts.exp()))

    return model, guide, p


@program(WORDS, plate=None)
def global_topics():
    p = parameters(counts=(2, 2), logits=(2, 3))

    def model(words):
        shared = pyro.sample("topics", dist.Dirichlet(torch.ones(2, 3)).to_event(1))
        with pyro.plate("documents", words.shape[1], dim=-1):
            theta = pyro.sample("theta", dist.Dirichlet(torch.ones(2)))
            with pyro.plate("words", len(words), dim=-2):
                topic = pyro.sample("topic", dist.Categorical(theta), infer=ENUMERATED)
                rows = Vindex(shared)[..., topic, :]
                pyro.sample("word", dist.Categorical(rows), obs=words)

    def guide(words):
        pyro.sample("topics", dist.Dirichlet(p.logits.exp()).to_event(1))
        with pyro.plate("documents", words.shape[1], dim=-1):
            pyro.sample("theta", dist.Dirichlet(p.counts.exp()))

    return model, guide, p


@program(WORDS, plate="documents", refused="inside the inner plate 'words'", refused_whole="inner")
def topics_in_the_guide():
    p = parameters(topics=(2, 3), counts=(2, 2), guide_topics=(3, 2))

    def model(words):
        with pyro.plate("documents", words.shape[1], dim=-1):
            theta = pyro.sample("theta", dist.Dirichlet(torch.ones(2)))
            topics(words, theta, p)

    def guide(words):
        with pyro.plate("documents", words.shape[1], dim=-1):
            pyro.sample("theta", dist.Dirichlet(p.counts.exp()))
            with pyro.plate("words", len(words), dim=-2):
                logits = p.guide_topics[words]
                pyro.sample("topic", dist.Categorical(logits=logits), infer=ENUMERATED)

    return model, guide, p


@program(WORDS, plate="documents")
def naive_bayes():
    p = parameters(weights=2, rows=(2, 3))

    def model(words):
        with pyro.plate("documents", words.shape[1], dim=-1):
            y = component(p.weights)
            with pyro.plate("words", len(words), dim=-2):
                pyro.sample("word", dist.Categorical(logits=p.rows[y]), obs=words)

    return model, nothing, p


@program(X)
def bernoulli_values():
    p = parameters(logit=(), slope=(), loc=())

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(logits=p.logit), infer=ENUMERATED)
            z = pyro.sample("z", dist.Normal(y, 1.0))
            pyro.sample("x", dist.Normal(p.slope * y + z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(p.loc, 0.7))

    return model, guide, p


@program(X)
def binomial_values():
    p = parameters(logit=(), slope=())

    def model(x):
        with pyro.plate("data", len(x)):
            fn = dist.Binomial(3, logits=p.logit)
            y = pyro.sample("y", fn, infer=ENUMERATED)
            pyro.sample("x", dist.Normal(p.slope * y, 1.0), obs=x)

    return model, nothing, p


@program(X, refused_whole=IN_DATA)
def one_hot_values():
    p = parameters(weights=3, means=3, slope=3)

    def model(x):
        with pyro.plate("data", len(x)):
            fn = dist.OneHotCategorical(logits=p.weights)
            y = pyro.sample("y", fn, infer=ENUMERATED)
            pyro.sample("x", dist.Normal(y @ p.means, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            fn = dist.OneHotCategorical(logits=x.unsqueeze(-1) * p.slope)
            pyro.sample("y", fn, infer=ENUMERATED)

    return model, guide, p


@program(X)
def two_indices():
    p = parameters(first=2, second=3, means=(2, 3))

    def model(x):
        with pyro.plate("data", len(x)):
            a, b = component(p.first, "a"), component(p.second, "b")
            pyro.sample("x", dist.Normal(Vindex(p.means)[a, b], 1.0), obs=x)

    return model, nothing, p


@program(X)
def one_hot_of_a_label():
    p = parameters(weights=3, means=3)

    def model(x):
        with pyro.plate("data", len(x)):
            y = one_hot(component(p.weights), 3).to(x)
            pyro.sample("x", dist.Normal(y @ p.means, 1.0), obs=x)

    return model, nothing, p


@program(X, plate=None)
def global_label_and_local_ones():
    p = parameters(weights=2, rows=(2, 2), means=2)

    def model(x):
        style = component(p.weights, "style")
        with pyro.plate("data", len(x)):
            y = component(p.rows[style])
            pyro.sample("x", dist.Normal(p.means[y], 1.0), obs=x)

    return model, nothing, p


@program(X, plate=None)
def global_label_in_the_guide_and_local_ones_in_the_model():
    p = parameters(weights=2, rows=(2, 2), means=2, slope=2)

    def model(x):
        style = component(p.weights, "style")
        with pyro.plate("data", len(x)):
            y = component(p.rows[style])
            pyro.sample("x", dist.Normal(p.means[y], 1.0), obs=x)

    def guide(x):
        component(p.slope, "style")

    return model, guide, p


@program(X)
def label_in_an_inner_plate_given_a_label():
    p = parameters(weights=2, rows=(2, 3), means=3)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            y = component(p.weights)
            with pyro.plate("parts", 2, dim=-2) as part:
                c = component(p.rows[y], "c")
                values = x + part.unsqueeze(-1)
                pyro.sample("x", dist.Normal(p.means[c], 1.0), obs=values)

    return model, nothing, p


@program(X)
def label_with_probability_zero():
    p = parameters(means=3, loc=())

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            y = pyro.sample("y", dist.Categorical(tensor(0.4, 0.0, 0.6)), infer=ENUMERATED)
            pyro.sample("x", dist.Normal(p.means[y] + z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(p.loc, 0.7))

    return model, guide, p


@program(WORDS, plate="documents", refused_whole="enumerated inside the inner plate 'documents'")
def naive_bayes_with_a_guide():
    p = parameters(weights=2, rows=(2, 3), guide_rows=(3, 2))

    def model(words):
        with pyro.plate("documents", words.shape[1], dim=-1):
            y = component(p.weights)
            with pyro.plate("words", len(words), dim=-2):
                pyro.sample("word", dist.Categorical(logits=p.rows[y]), obs=words)

    def guide(words):
        with pyro.plate("documents", words.shape[1], dim=-1):
            component(p.guide_rows[words].sum(-3))

    return model, guide, p


@program(WORDS, plate="documents", refused_whole="enumerated inside the inner plate 'documents'")
def label_in_the_guide_and_topics_in_the_model():
    p = parameters(weights=2, rows=(2, 2), topics=(2, 3), guide_rows=(2, 2))

    def model(words):
        with pyro.plate("documents", words.shape[1], dim=-1):
            y = component(p.weights)
            with pyro.plate("words", len(words), dim=-2):
                topic = component(p.rows[y], "topic")
                pyro.sample("word", dist.Categorical(logits=p.topics[topic]), obs=words)

    def guide(words):
        with pyro.plate("documents", words.shape[1], dim=-1):
            component(p.guide_rows)

    return model, guide, p


@program(X)
def expanded_values():
    p = parameters(weights=2, rows=(2, 3), means=3)
    expanded = {"enumerate": "parallel", "expand": True}

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y", dist.Categorical(logits=p.weights), infer=expanded)
            with pyro.plate("parts", 2, dim=-2):
                c = pyro.sample("c", dist.Categorical(logits=p.rows[y]), infer=expanded)
                pyro.sample("x", dist.Normal(p.means[c], 1.0), obs=x.expand(2, -1))

    return model, nothing, p


@program(X, plate=None)
def label_of_a_group_and_codes():
    p = parameters(weights=2, means=2, group=(2, 1), loc=3, shift=())

    def model(x):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("groups", 2, dim=-2):
            g = pyro.sample("g", dist.Normal(m, 1.0))
            with pyro.plate("data", len(x), dim=-1):
                y = component(p.weights)
                values = torch.stack([x, x.cos()])
                pyro.sample("x", dist.Normal(p.means[y] + g, 1.0), obs=values)

    def guide(x):
        m = pyro.sample("m", dist.Normal(p.shift, 0.5))
        with pyro.plate("groups", 2, dim=-2):
            pyro.sample("g", dist.Normal(p.group + m, 0.5))

    return model, guide, p


@program(X, unlike_pyro="adds log 2 for each masked label")
def mask_of_the_distribution_of_a_label():
    p = parameters(means=2, loc=())

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            fn = dist.Categorical(torch.ones(2)).mask(x > 0)
            y = pyro.sample("y", fn, infer=ENUMERATED)
            pyro.sample("x", dist.Normal(p.means[y] + z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(p.loc, 0.7))

    return model, guide, p


@program(X)
def mixture_as_one_distribution():
    p = parameters(weights=3, means=3, loc=())

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            parts = dist.Normal(p.means + z.unsqueeze(-1), 1.0)
            fn = dist.MixtureSameFamily(dist.Categorical(logits=p.weights), parts)
            pyro.sample("x", fn, obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(p.loc * x, 0.7))

    return model, guide, p
