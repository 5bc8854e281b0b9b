"""Programs of all kinds: the ELBO of Pyro, and bounds by explicit sums, in float64."""

import math
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import automatic, chains, masks, mixtures, plates, sites
from programs.oracle import Sums, is_enumerated, nesting_of
from programs.program import ENUMERATED, PROGRAMS, Built, nothing
from pyro.infer import Trace_ELBO, TraceEnum_ELBO

from ppl_vae.estimators import ImportanceWeightedELBO

FILES = automatic, chains, masks, mixtures, plates, sites
pytestmark = pytest.mark.usefixtures("float64", "as_users_see_it")
close = {"rtol": 1e-9, "atol": 1e-9}


def settings(keep):
    """Return programs with their own plate, and as a whole; by default one of both, in turn."""
    found = []
    for i, (name, entry) in enumerate(PROGRAMS.items()):
        plates = [p for p in dict.fromkeys([entry.plate, None]) if keep(entry, p)]
        for j, plate in enumerate(plates):
            label = name if plate == entry.plate else f"{name}, whole"
            marks = [] if j == i % len(plates) else pytest.mark.slow
            found.append(pytest.param(name, plate, id=label, marks=marks))
    return found


def like_pyro(entry, plate):
    return not entry.unlike_pyro


def whole_and_like_pyro(entry, plate):
    return entry.plate is None and not entry.unlike_pyro


def allowed(entry, plate):
    return not entry.refusal(plate)


def refused(entry, plate):
    return bool(entry.refusal(plate))


def by_pyro(entry, plate):
    return bool(entry.refused) and not entry.unlike_pyro and plate == entry.plate


def not_by_pyro(entry, plate):
    return not (entry.refused or entry.unlike_pyro) and plate == entry.plate


def by_score(entry, plate):
    return entry.gradient != "iwae"


def estimate(built, k, plate, **options):
    gradient = built.program.gradient
    return result(ImportanceWeightedELBO(k, gradient, plate=plate, **options), built)


def result(estimator, built, seed=3):
    """Return loss and derivatives by name, at a seed."""
    pyro.set_rng_seed(seed)
    loss = estimator.differentiable_loss(built.model, built.guide, *built.args)
    return with_derivatives(loss, built)


def with_derivatives(loss, built):
    """Return a loss and its derivative by each parameter, 0 where it does not depend on one."""
    leaves = built.parameters()
    slopes = torch.autograd.grad(loss, [*leaves.values()], materialize_grads=True) if leaves else ()
    return {"loss": loss.detach(), **dict(zip(leaves, slopes, strict=True))}


def elbo_of_pyro(built, num_particles=1):
    several = {"num_particles": num_particles, "vectorize_particles": num_particles > 1}
    several["max_plate_nesting"] = nesting_of(built)
    if not is_enumerated(built):
        return Trace_ELBO(**several)
    return TraceEnum_ELBO(**several, strict_enumeration_warning=False)


def by_sums(built, k, plate):
    plates = plate if isinstance(plate, tuple) else (plate,)
    return with_derivatives(-sum(Sums(built, p, k, seed=3).bound() for p in plates), built)


def check(found, expected, built, *, same_score=False):
    """Compare losses, and gradients where no score function's baseline makes them differ."""
    if built.program.gradient != "iwae" and not same_score:
        found, expected = found["loss"], expected["loss"]
    torch.testing.assert_close(found, expected, **close)


def test_every_file_of_programs_is_here():
    folder = Path(__file__).parents[1] / "programs"
    found = {file.stem for file in folder.glob("*.py")} - {"program", "oracle"}
    assert found == {module.__name__.removeprefix("programs.") for module in FILES}
    assert len(PROGRAMS) >= 140


@pytest.mark.parametrize(("name", "plate"), settings(like_pyro))
def test_one_particle_is_the_elbo_of_pyro(name, plate):
    built = Built(PROGRAMS[name])
    same_score = plate is not None and not is_enumerated(built)
    theirs = result(elbo_of_pyro(built), built)
    check(estimate(built, 1, plate), theirs, built, same_score=same_score)


@pytest.mark.parametrize(("name", "plate"), settings(whole_and_like_pyro))
def test_one_particle_needs_no_plate(name, plate):
    """The plate's name is the default, and some sites are outside it, or it is not there."""
    built = Built(PROGRAMS[name])
    check(estimate(built, 1, "data"), result(elbo_of_pyro(built), built), built)


def test_a_program_may_need_another_way_for_other_arguments():
    weights = torch.tensor([0.3, -0.5], requires_grad=True)

    def model(x, labels=None):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("parts", 2, dim=-2):
            y = pyro.sample("y", dist.Categorical(torch.ones(2)), infer=ENUMERATED, obs=labels)
            pyro.sample("x", dist.Normal(y.to(x), 1.0), obs=x)

    def guide(x, labels=None):
        if labels is None:
            with pyro.plate("data", len(x), dim=-1), pyro.plate("parts", 2, dim=-2):
                pyro.sample("y", dist.Categorical(logits=weights), infer=ENUMERATED)

    x, labels = torch.randn(3), torch.tensor([[0, 1, 0], [1, 0, 0]])
    ours = ImportanceWeightedELBO(1)
    theirs = TraceEnum_ELBO(max_plate_nesting=2, strict_enumeration_warning=False)
    for args in ((x, labels), (x,), (x, labels)):
        expected = theirs.loss(model, guide, *args)
        assert ours.loss(model, guide, *args) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("name", "plate"), settings(allowed))
def test_the_bound_is_that_of_explicit_sums(name, plate):
    built = Built(PROGRAMS[name])
    k = 3 if plate == built.program.plate else 2
    check(estimate(built, k, plate), by_sums(built, k, plate), built)


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize(("name", "plate"), settings(allowed))
def test_the_bound_of_any_number_of_particles(name, plate, k):
    built = Built(PROGRAMS[name])
    check(estimate(built, k, plate), by_sums(built, k, plate), built)
    if not isinstance(plate, tuple):
        chunks = estimate(built, k, plate, chunk_size=1)
        torch.testing.assert_close(chunks, estimate(built, k, plate), **close)


@pytest.mark.parametrize(("name", "plate"), settings(refused))
def test_several_particles_are_refused_with_the_reason(name, plate):
    built = Built(PROGRAMS[name])
    with pytest.raises(NotImplementedError, match=built.program.refusal(plate)):
        estimate(built, 2, plate)


def compare_several_particles(name, plate):
    built = Built(PROGRAMS[name])
    theirs = result(elbo_of_pyro(built, 2), built)
    check(estimate(built, 2, plate, alpha=1), theirs, built)


@pytest.mark.parametrize(("name", "plate"), settings(by_pyro))
def test_the_elbo_of_several_particles_is_that_of_pyro(name, plate):
    compare_several_particles(name, plate)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "plate"), settings(not_by_pyro))
def test_the_elbo_of_several_particles_is_that_of_pyro_too(name, plate):
    compare_several_particles(name, plate)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "plate"), settings(by_score))
def test_the_mean_gradient_by_scores_is_that_of_pyro(name, plate):
    """At the same seeds draws are the same, so that the differences have mean 0."""
    built = Built(PROGRAMS[name])
    differences = []
    for seed in range(1000):
        ours = result(ImportanceWeightedELBO(1, built.program.gradient, plate=plate), built, seed)
        theirs = result(elbo_of_pyro(built), built, seed)
        differences.append(torch.cat([(ours[n] - theirs[n]).flatten() for n in ours]))
    differences = torch.stack(differences)
    error = differences.std(0) / math.sqrt(len(differences))
    assert (differences.mean(0).abs() <= 4 * error + 1e-9).all()


def conflicting(x, inner):
    """Two observations that favour different values of a label by ``x`` nats, in each slice."""
    with pyro.plate("data", 2, dim=-1), pyro.plate("inner", inner, dim=-2):
        y = pyro.sample("y", dist.Categorical(torch.ones(2)), infer=ENUMERATED)
        pyro.factor("one", torch.stack([torch.zeros(()), -x])[y])
        pyro.factor("other", torch.stack([-x, torch.zeros(())])[y])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("nats", [100.0, 1000.0])
def test_observations_may_differ_by_many_nats(dtype, nats):
    torch.set_default_dtype(dtype)
    x = torch.tensor(nats, requires_grad=True)
    for plate in ("data", None):
        loss = ImportanceWeightedELBO(2, plate=plate)(conflicting, nothing)(x, 3)
        torch.testing.assert_close(loss.detach(), torch.tensor(6 * nats))
        (slope,) = torch.autograd.grad(loss, x)
        rounding = 6 * nats * torch.finfo(dtype).eps  # that of terms of this size
        torch.testing.assert_close(slope, torch.tensor(6.0), rtol=0.0, atol=rounding)


def test_a_chain_that_no_states_explain_has_density_zero():
    logits = torch.tensor([0.3, -0.2], requires_grad=True)

    def model(blocked):
        with pyro.plate("data", 2):
            state = torch.zeros((), dtype=torch.long)
            for t in pyro.markov(range(3)):
                stay = torch.tensor([[0.0, -math.inf], [-math.inf, 0.0]])
                state = pyro.sample(f"s{t}", dist.Categorical(logits=stay[state]), infer=ENUMERATED)
                pyro.factor(f"f{t}", logits[state])
                ends = torch.tensor([-math.inf if blocked and t == 2 else 0.0, 0.0])
                pyro.factor(f"end{t}", ends[state])

    for k in (1, 2):
        estimator = ImportanceWeightedELBO(k)
        loss = estimator(model, nothing)(False)
        torch.testing.assert_close(loss, -6 * logits[0])
        loss = estimator(model, nothing)(True)
        assert loss == math.inf
        assert torch.autograd.grad(loss, logits)[0].tolist() == [0.0, 0.0]


def test_a_site_out_of_reach_of_a_chain_is_named():
    def model():
        state = torch.zeros((), dtype=torch.long)
        for t in pyro.markov(range(3)):
            fn = dist.Categorical(torch.ones(2, 2)[state])
            state = pyro.sample(f"s{t}", fn, infer=ENUMERATED)
        pyro.sample("x", dist.Normal(state.double(), 1.0), obs=torch.tensor(0.3))

    with pytest.raises(ValueError, match=r"site 'x' depends on values .* pyro\.markov"):
        ImportanceWeightedELBO(2, plate=None).loss(model, nothing)


@pytest.mark.parametrize("steps", [pyro.markov, iter])
def test_long_chains_are_summed_by_the_forward_algorithm(steps):
    transition, means = torch.randn(3, 3).log_softmax(-1), torch.randn(3)
    length = 40 if steps is pyro.markov else 9
    x = torch.randn(2, length)

    def model(x):
        with pyro.plate("data", len(x)):
            state = torch.zeros((), dtype=torch.long)
            for t in steps(range(length)):
                fn = dist.Categorical(logits=transition[state])
                state = pyro.sample(f"s{t}", fn, infer=ENUMERATED)
                pyro.sample(f"x{t}", dist.Normal(means[state], 1.0), obs=x[:, t])

    forward = transition[0].expand(2, 3)
    for t in range(length):
        if t > 0:
            forward = (forward.unsqueeze(-1) + transition).logsumexp(-2)
        forward = forward + dist.Normal(means, 1.0).log_prob(x[:, t, None])
    bound = ImportanceWeightedELBO(2).per_datum(model, nothing, x)
    torch.testing.assert_close(bound, forward.logsumexp(-1))


@pytest.mark.parametrize("name", ["observations_masked_out", "subsampled_mixture", "chain"])
def test_chunks_change_nothing(name):
    built = Built(PROGRAMS[name])
    chunks = estimate(built, 3, built.program.plate, chunk_size=2)
    torch.testing.assert_close(chunks, estimate(built, 3, built.program.plate), **close)


@pytest.mark.parametrize("name", ["RelaxedBernoulli", "RelaxedOneHotCategorical"])
@pytest.mark.parametrize("options", [(1,), (3,), (1, "dreg")])
def test_straight_through_relaxations_of_pyro_are_refused(name, options):
    def make(logits):
        found = getattr(dist, f"{name}StraightThrough")(torch.tensor(0.5), logits=logits)
        return found.to_event(1 - found.event_dim)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", make(torch.zeros_like(x)))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", make(x))

    elbo = ImportanceWeightedELBO(*options)
    with pytest.raises(NotImplementedError, match=r"site 'z' .*posteriors\.Relaxed"):
        elbo.differentiable_loss(model, guide, torch.zeros(5, 3, requires_grad=True))
