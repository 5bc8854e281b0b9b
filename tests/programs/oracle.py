"""Bounds by explicit sums over all joint values, of the draws that an estimator makes."""

import itertools
import math

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.util import site_is_subsample


def plain_traces(built):
    """Return traces of guide and model, run once; the random state is left as it was."""
    with torch.random.fork_rng():
        guide = poutine.trace(built.guide).get_trace(*built.args)
        model = poutine.trace(poutine.replay(built.model, guide)).get_trace(*built.args)
    return guide, model


def nesting_of(built):
    """Return the number of dimensions of the program's plates."""
    guide, model = plain_traces(built)
    frames = [f for t in (guide, model) for s in random_sites(t) for f in s["cond_indep_stack"]]
    return max((-frame.dim for frame in frames if frame.vectorized), default=0)


def random_sites(trace):
    sites = [site for site in trace.nodes.values() if site["type"] == "sample"]
    return [site for site in sites if not site_is_subsample(site)]


def is_enumerated(built):
    """Return whether any site of model or guide is marked for enumeration."""
    sites = [site for trace in plain_traces(built) for site in random_sites(trace)]
    return any(site["infer"].get("enumerate") for site in sites)


def enumeration_dim(site):
    return site["infer"].get("_enumerate_dim")


class Sums:
    """The importance-weighted bound of K particles by sums over all values, in nats.

    The guide is run once. For each combination of the values that it enumerates, and for all joint
    values of what only the model enumerates, in all slices of its plates, the model is run on these
    values as data. Each site's log-density is Pyro's, with its scale and its mask.
    """

    def __init__(self, built, plate, num_particles, seed):
        self.built, self.plate, self.k = built, plate, num_particles
        self.dim = -nesting_of(built) - 1
        pyro.set_rng_seed(seed)
        particles = pyro.plate("num_particles_vectorized", num_particles, dim=self.dim)
        guide = poutine.enum(particles(built.guide), first_available_dim=self.dim - 1)
        self.guide = poutine.trace(guide).get_trace(*built.args)
        self.guide.compute_log_prob()
        self.subsamples = self.guide.copy()
        for site in random_sites(self.guide):
            self.subsamples.remove_node(site["name"])
        sites = self.weighed_sites(self.guide)
        if isinstance(poutine.unwrap(built.guide), GuideMessenger):  # it runs the model
            sites = [site for site in sites if not site["is_observed"]]
        sampled = [enumeration_dim(site) is None for site in sites]
        first = sampled.index(True) if any(sampled) else len(sites)
        self.sampled = [site for site in sites if enumeration_dim(site) is None]
        self.outer = sites[:first]
        self.inner = [s for s in sites[first:] if enumeration_dim(s) is not None]
        self.joint = self.joint_values()

    def weighed_sites(self, trace):
        """Return the random sites that are in no other batch plate."""
        given = self.built.program.plate
        others = {*given} - {self.plate} if isinstance(given, tuple) and self.plate else set()
        return [
            s for s in random_sites(trace) if not others & {f.name for f in s["cond_indep_stack"]}
        ]

    def bound(self):
        """Return Σ_b N/B Σ_y q(y) [log (1/K) Σ_k w_y[k,b] - log q(y)]."""
        bound = 0.0
        for values in combinations(self.outer):
            mean = self.log_w(values).logsumexp(0, keepdim=True) - math.log(self.k)
            bound = bound + self.probability(self.outer, values, mean, slice(1))
        return self.data_scale * bound.sum()

    def log_w(self, values):
        """Return the weights in expectation over what is enumerated last, (K, B)."""
        log_w = 0.0
        for inner in combinations(self.inner):
            at = values | inner
            weight = self.log_p(at) - self.log_q(self.sampled, at)
            log_w = log_w + self.probability(self.inner, at, weight.expand(self.k, -1))
        return log_w

    def probability(self, sites, at, term, particles=slice(None)):
        """Return q(y) (term - log q(y)), shape (K, B), or the term where there is no y."""
        if not sites:
            return term
        logs = [pick(s["fn"].log_prob(s["value"]), at, self.dim) for s in sites]
        probability = sum(map(self.per_datum, logs)).exp()
        return (probability * (term - self.log_q(sites, at)))[particles]

    def log_q(self, sites, at):
        logs = [pick(s["log_prob"], at, self.dim) for s in sites]
        return sum(map(self.per_datum, logs), torch.zeros(1, 1)) / self.data_scale

    def log_p(self, at):
        """Return log Σ p(x, z, y) over all joint values y of the model, shape (K, B)."""
        count = len(next(iter(self.joint.values()))) if self.joint else 1
        data = {}
        for site in random_sites(self.guide):
            if not site["is_observed"] and not site["infer"].get("is_auxiliary"):
                value = pick(site["value"], at, self.dim, site["fn"].event_dim)
                value = value.expand(self.k, *value.shape[1:])
                data[site["name"]] = value.repeat_interleave(count, 0)
        for name, value in self.joint.items():
            data[name] = value.repeat(self.k, *[1] * (value.dim() - 1))
        model = poutine.replay(poutine.condition(self.built.model, data), self.subsamples)
        rows = pyro.plate("joint values", self.k * count, dim=self.dim)
        trace = poutine.trace(rows(model)).get_trace(*self.built.args)
        trace.compute_log_prob()
        terms = []
        for site in self.weighed_sites(trace):
            term = site["log_prob"]
            fn, mask = site["fn"], site["mask"]
            if isinstance(fn, dist.MaskedDistribution):
                fn, mask = fn.base_dist, fn._mask
            if site["name"] in self.joint and mask is not None:
                # A label that is masked is drawn from its prior.
                plain = fn.log_prob(site["value"])
                scaled = scale_and_mask(plain, site["scale"], None)
                term = torch.where(torch.as_tensor(mask), scaled, plain)
            terms.append(self.per_datum(pick(term, {}, self.dim)))
        log_p = sum(terms, torch.zeros(1, 1)) / self.data_scale
        return log_p.expand(self.k * count, -1).reshape(self.k, count, -1).logsumexp(1)

    def per_datum(self, term):
        """Sum over all dimensions but the particles' and the data's."""
        keep = {0} if self.data_dim is None else {0, term.dim() + self.data_dim}
        others = [d for d in range(term.dim()) if d not in keep]
        term = term.sum(others) if others else term
        return term.reshape(term.shape[0], -1)

    def joint_values(self):
        """Return all joint values of the sites that only the model enumerates, row by row."""
        _, model = plain_traces(self.built)
        frames = [f for s in random_sites(model) for f in s["cond_indep_stack"]]
        found = [f for f in frames if f.name == self.plate and f.vectorized]
        self.data_dim = found[0].dim if found else None
        self.data_scale = (found[0].full_size or found[0].size) / found[0].size if found else 1.0
        supports, shapes = {}, {}
        for site in self.weighed_sites(model):
            if site["is_observed"] or site["name"] in self.guide.nodes:
                continue
            shape = [1] * (-self.dim - 1 - len(site["fn"].batch_shape)) + [*site["fn"].batch_shape]
            if self.data_dim is not None:
                shape[self.data_dim] = 1
            supports[site["name"]] = site["fn"].enumerate_support(expand=False)
            shapes[site["name"]] = shape
        cells = [range(len(supports[n])) for n in supports for _ in range(math.prod(shapes[n]))]
        rows = torch.tensor([*itertools.product(*cells)], dtype=torch.long)
        parts = rows.split([math.prod(shape) for shape in shapes.values()], -1) if shapes else ()
        joint = {}
        for (name, support), part in zip(supports.items(), parts, strict=True):
            event = support.shape[support.dim() - model.nodes[name]["fn"].event_dim :]
            values = support.reshape(len(support), *event)[part]
            joint[name] = values.reshape(len(rows), *shapes[name], *event)
        return joint


def combinations(sites):
    """Yield all combinations of enumerated values, as the index in each one's dimension."""
    sizes = [len(site["fn"].enumerate_support(expand=False)) for site in sites]
    for values in itertools.product(*map(range, sizes)):
        yield dict(zip(map(enumeration_dim, sites), values, strict=True))


def pick(term, at, particle_dim, event_dim=0):
    """Return a term at some enumerated values, shape (particles, *plates, *event)."""
    batch = term.dim() - event_dim
    for dim in range(-batch, particle_dim):
        term = term[at[dim] if term.shape[0] > 1 else 0]
    missing = max(-particle_dim - batch, 0)
    return term.reshape((1,) * missing + term.shape)
