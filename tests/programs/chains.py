"""Discrete and continuous chains."""

import pyro
import torch
from programs.program import ENUMERATED, nothing, parameters, program, tensor
from pyro import distributions as dist
from pyro import poutine
from pyro.ops.indexing import Vindex

SERIES = tensor([0.3, -1.2, 0.8], [1.1, 0.4, -0.5])  # two of three steps
LENGTHS = torch.tensor([3, 2])


def states(logits, steps, observe=None, name="s"):
    """Draw a chain of discrete states and observe something at each."""
    state = torch.zeros((), dtype=torch.long)
    for t in steps:
        fn = dist.Categorical(logits=logits[state])
        state = pyro.sample(f"{name}{t}", fn, infer=ENUMERATED)
        if observe is not None:
            observe(t, state)


def chain_of(markov):
    p = parameters(transition=(2, 2), means=2)

    def model(x):
        def observe(t, state):
            pyro.sample(f"x{t}", dist.Normal(p.means[state], 1.0), obs=x[:, t])

        with pyro.plate("data", len(x)):
            states(p.transition, markov(range(3)), observe)

    return model, nothing, p


@program(SERIES)
def chain():
    return chain_of(pyro.markov)


@program(SERIES)
def chain_without_markov():
    return chain_of(iter)


@program(SERIES)
def second_order_chain():
    p = parameters(transition=(2, 2, 2), means=2)

    def model(x):
        with pyro.plate("data", len(x)):
            before = now = torch.zeros((), dtype=torch.long)
            for t in pyro.markov(range(3), history=2):
                fn = dist.Categorical(logits=Vindex(p.transition)[before, now])
                before, now = now, pyro.sample(f"s{t}", fn, infer=ENUMERATED)
                pyro.sample(f"x{t}", dist.Normal(p.means[now], 1.0), obs=x[:, t])

    return model, nothing, p


@program(SERIES)
def chains_of_different_lengths():
    p = parameters(transition=(2, 2), other=(3, 3), means=2, more=3)

    def model(x):
        def observe(t, state):
            pyro.sample(f"x{t}", dist.Normal(p.means[state], 1.0), obs=x[:, t])

        def observe_again(t, state):
            pyro.sample(f"v{t}", dist.Normal(p.more[state], 0.5), obs=x[:, t] ** 2)

        with pyro.plate("data", len(x)):
            states(p.transition, pyro.markov(range(3)), observe)
            states(p.other, pyro.markov(range(2)), observe_again, name="r")

    return model, nothing, p


@program(SERIES)
def chain_with_a_mask_of_lengths():
    p = parameters(transition=(2, 2), means=2)

    def model(x):
        with pyro.plate("data", len(x)):
            state = torch.zeros((), dtype=torch.long)
            for t in pyro.markov(range(3)):
                with poutine.mask(mask=t < LENGTHS):
                    fn = dist.Categorical(logits=p.transition[state])
                    state = pyro.sample(f"s{t}", fn, infer=ENUMERATED)
                    pyro.sample(f"x{t}", dist.Normal(p.means[state], 1.0), obs=x[:, t])

    return model, nothing, p


@program(SERIES)
def chain_with_missing_steps():
    p = parameters(transition=(2, 2), means=2)

    def model(x):
        def observe(t, state):
            fn = dist.Normal(p.means[state], 1.0).mask(x[:, t] > -1)
            pyro.sample(f"x{t}", fn, obs=x[:, t])

        with pyro.plate("data", len(x)):
            states(p.transition, pyro.markov(range(3)), observe)

    return model, nothing, p


@program(SERIES)
def chains_in_an_inner_plate():
    p = parameters(transition=(2, 2), means=2)

    def model(x):
        def observe(t, state):
            values = torch.stack([x[:, t], x[:, t].sin()])
            pyro.sample(f"x{t}", dist.Normal(p.means[state], 1.0), obs=values)

        with pyro.plate("tracks", 2, dim=-2), pyro.plate("data", len(x), dim=-1):
            states(p.transition, pyro.markov(range(2)), observe)

    return model, nothing, p


@program(SERIES)
def chain_with_a_plate_inside_its_steps():
    p = parameters(transition=(2, 2), means=(2, 3))

    def model(x):
        tones = pyro.plate("tones", 3, dim=-2)
        with pyro.plate("data", len(x), dim=-1):
            state = torch.zeros((), dtype=torch.long)
            for t in pyro.markov(range(2)):
                fn = dist.Categorical(logits=p.transition[state])
                state = pyro.sample(f"s{t}", fn, infer=ENUMERATED)
                with tones as tone:
                    mean = Vindex(p.means)[state, tone.unsqueeze(-1)]
                    values = x[:, t] * (1 + tone.unsqueeze(-1))
                    pyro.sample(f"x{t}", dist.Normal(mean, 1.0), obs=values)

    return model, nothing, p


@program(SERIES)
def chain_with_discrete_sites_in_a_plate_inside_its_steps():
    p = parameters(transition=(2, 2), kinds=(2, 2), means=2)

    def model(x):
        sensors = pyro.plate("sensors", 2, dim=-2)
        with pyro.plate("data", len(x), dim=-1):
            state = torch.zeros((), dtype=torch.long)
            for t in pyro.markov(range(2)):
                fn = dist.Categorical(logits=p.transition[state])
                state = pyro.sample(f"s{t}", fn, infer=ENUMERATED)
                with sensors as sensor:
                    kind = pyro.sample(
                        f"k{t}", dist.Categorical(logits=p.kinds[state]), infer=ENUMERATED
                    )
                    values = x[:, t] * (1 + sensor.unsqueeze(-1))
                    pyro.sample(f"x{t}", dist.Normal(p.means[kind], 1.0), obs=values)

    return model, nothing, p


@program(SERIES)
def factorial_chains():
    p = parameters(first=(2, 2), second=(2, 2), means=(2, 2))

    def model(x):
        with pyro.plate("data", len(x)):
            a = b = torch.zeros((), dtype=torch.long)
            for t in pyro.markov(range(2)):
                a = pyro.sample(f"a{t}", dist.Categorical(logits=p.first[a]), infer=ENUMERATED)
                b = pyro.sample(f"b{t}", dist.Categorical(logits=p.second[b]), infer=ENUMERATED)
                pyro.sample(f"x{t}", dist.Normal(Vindex(p.means)[a, b], 1.0), obs=x[:, t])

    return model, nothing, p


@program(SERIES)
def coupled_chains():
    p = parameters(first=(2, 2), second=(2, 2, 2), means=2)

    def model(x):
        with pyro.plate("data", len(x)):
            a = b = torch.zeros((), dtype=torch.long)
            for t in pyro.markov(range(3)):
                a = pyro.sample(f"a{t}", dist.Categorical(logits=p.first[a]), infer=ENUMERATED)
                fn = dist.Categorical(logits=Vindex(p.second)[a, b])
                b = pyro.sample(f"b{t}", fn, infer=ENUMERATED)
                pyro.sample(f"x{t}", dist.Normal(p.means[b], 1.0), obs=x[:, t])

    return model, nothing, p


@program(SERIES)
def chain_that_depends_on_the_last_observation():
    p = parameters(transition=(2, 2), means=2, slope=2)

    def model(x):
        def observe(t, state):
            before = x[:, t - 1] if t > 0 else 0.0
            mean = p.means[state] + p.slope[state] * before
            pyro.sample(f"x{t}", dist.Normal(mean, 1.0), obs=x[:, t])

        with pyro.plate("data", len(x)):
            states(p.transition, pyro.markov(range(3)), observe)

    return model, nothing, p


def global_transition(x, observe, p):
    rows = pyro.sample("rows", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
    with pyro.plate("data", len(x)):
        state = torch.zeros((), dtype=torch.long)
        for t in pyro.markov(range(3)):
            fn = dist.Categorical(Vindex(rows)[..., state, :])
            state = pyro.sample(f"s{t}", fn, infer=ENUMERATED)
            pyro.sample(f"x{t}", dist.Normal(p.means[state], 1.0), obs=x[:, t])


@program(SERIES, plate=None)
def chain_with_a_global_transition():
    p = parameters(means=2, counts=(2, 2))

    def model(x):
        global_transition(x, None, p)

    def guide(x):
        pyro.sample("rows", dist.Dirichlet(p.counts.exp()).to_event(1))

    return model, guide, p


@program(SERIES, plate=None)
def chain_with_the_most_probable_transition():
    p = parameters(means=2, rows=(2, 2))

    def model(x):
        global_transition(x, None, p)

    def guide(x):
        pyro.sample("rows", dist.Delta(p.rows.softmax(-1), event_dim=2))

    return model, guide, p


@program(SERIES)
def chain_given_a_continuous_site():
    p = parameters(transition=(2, 2), means=2, loc=(), scale=())

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))

            def observe(t, state):
                pyro.sample(f"x{t}", dist.Normal(p.means[state] + z, 1.0), obs=x[:, t])

            states(p.transition, pyro.markov(range(3)), observe)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(p.loc * x.mean(-1), p.scale.exp()))

    return model, guide, p


@program(SERIES)
def switching_state_space():
    p = parameters(transition=(2, 2), slope=2, loc=3)

    def model(x):
        with pyro.plate("data", len(x)):
            z, state = torch.zeros(()), torch.zeros((), dtype=torch.long)
            for t in pyro.markov(range(3)):
                fn = dist.Categorical(logits=p.transition[state])
                state = pyro.sample(f"s{t}", fn, infer=ENUMERATED)
                z = pyro.sample(f"z{t}", dist.Normal(p.slope[state] * z, 1.0))
                pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=x[:, t])

    def guide(x):
        with pyro.plate("data", len(x)):
            for t in range(3):
                pyro.sample(f"z{t}", dist.Normal(p.loc[t] + x[:, t], 0.8))

    return model, guide, p


@program(SERIES)
def state_space():
    p = parameters(slope=(), loc=3, feedback=())

    def model(x):
        with pyro.plate("data", len(x)):
            z = torch.zeros(())
            for t in pyro.markov(range(3)):
                z = pyro.sample(f"z{t}", dist.Normal(p.slope * z, 1.0))
                pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=x[:, t])

    def guide(x):
        with pyro.plate("data", len(x)):
            z = torch.zeros(())
            for t in range(3):
                z = pyro.sample(f"z{t}", dist.Normal(p.loc[t] + x[:, t] + p.feedback * z, 0.8))

    return model, guide, p


def guided_chain(steps):
    p = parameters(transition=(2, 2), guide_transition=(2, 2), means=2)

    def model(x):
        def observe(t, state):
            pyro.sample(f"x{t}", dist.Normal(p.means[state], 1.0), obs=x[:, t])

        with pyro.plate("data", len(x)):
            states(p.transition, steps(range(3)), observe)

    def guide(x):
        with pyro.plate("data", len(x)):
            states(p.guide_transition, steps(range(3)))

    return model, guide, p


@program(
    SERIES,
    refused="as steps of a pyro.markov chain are",
    refused_whole="enumerated inside the inner plate 'data'|as steps of a pyro.markov chain are",
)
def chain_in_the_guide():
    return guided_chain(pyro.markov)


@program(SERIES, refused_whole="enumerated inside the inner plate 'data'")
def chain_in_the_guide_without_markov():
    return guided_chain(iter)


@program(SERIES[0], plate=None)
def chain_without_plates():
    p = parameters(transition=(2, 2), means=2, loc=())

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))

        def observe(t, state):
            pyro.sample(f"x{t}", dist.Normal(p.means[state] + z, 1.0), obs=x[t])

        states(p.transition, pyro.markov(range(3)), observe)

    def guide(x):
        pyro.sample("z", dist.Normal(p.loc, 0.7))

    return model, guide, p


@program(SERIES)
def chain_by_recursion():
    p = parameters(transition=(2, 2), means=2)

    def model(x):
        context = pyro.markov()

        def steps(t, state):
            if t == 3:
                return
            with context:
                fn = dist.Categorical(logits=p.transition[state])
                state = pyro.sample(f"s{t}", fn, infer=ENUMERATED)
                pyro.sample(f"x{t}", dist.Normal(p.means[state], 1.0), obs=x[:, t])
                steps(t + 1, state)

        with pyro.plate("data", len(x)):
            steps(0, torch.zeros((), dtype=torch.long))

    return model, nothing, p


@program(SERIES)
def chain_after_a_mixture():
    p = parameters(kinds=2, transition=(2, 2, 2), means=2)

    def model(x):
        with pyro.plate("data", len(x)):
            kind = pyro.sample("kind", dist.Categorical(logits=p.kinds), infer=ENUMERATED)
            state = torch.zeros((), dtype=torch.long)
            for t in pyro.markov(range(3)):
                fn = dist.Categorical(logits=Vindex(p.transition)[kind, state])
                state = pyro.sample(f"s{t}", fn, infer=ENUMERATED)
                pyro.sample(f"x{t}", dist.Normal(p.means[state], 1.0), obs=x[:, t])

    return model, nothing, p


@program(SERIES)
def tree_of_states():
    p = parameters(transition=(2, 2), means=2)

    def model(x):
        with pyro.plate("data", len(x)):
            root = pyro.sample("root", dist.Categorical(logits=p.means), infer=ENUMERATED)
            for t in pyro.markov(range(3), history=0):
                fn = dist.Categorical(logits=p.transition[root])
                leaf = pyro.sample(f"leaf{t}", fn, infer=ENUMERATED)
                pyro.sample(f"x{t}", dist.Normal(p.means[leaf], 1.0), obs=x[:, t])

    return model, nothing, p


@program(SERIES)
def chains_within_a_chain():
    p = parameters(outer=(2, 2), inner=(2, 2, 2), means=2)

    def model(x):
        with pyro.plate("data", len(x)):
            sentence = torch.zeros((), dtype=torch.long)
            for i in pyro.markov(range(2)):
                fn = dist.Categorical(logits=p.outer[sentence])
                sentence = pyro.sample(f"s{i}", fn, infer=ENUMERATED)
                word = torch.zeros((), dtype=torch.long)
                for j in pyro.markov(range(2)):
                    fn = dist.Categorical(logits=Vindex(p.inner)[sentence, word])
                    word = pyro.sample(f"w{i}{j}", fn, infer=ENUMERATED)
                    pyro.sample(f"x{i}{j}", dist.Normal(p.means[word], 1.0), obs=x[:, i + j])

    return model, nothing, p


@program(SERIES)
def chain_in_each_step_of_a_sequential_plate():
    p = parameters(transition=(2, 2), means=2)

    def model(x):
        data = pyro.plate("data", len(x), dim=-1)
        for i in pyro.plate("tracks", 2):

            def observe(t, state, i=i):
                pyro.sample(f"x{i}{t}", dist.Normal(p.means[state], 1.0), obs=x[:, t] + i)

            with data:
                states(p.transition, pyro.markov(range(2)), observe, name=f"s{i}")

    return model, nothing, p


@program(SERIES, refused_whole="enumerated inside the inner plate 'data'")
def chain_of_a_label_in_the_guide():
    p = parameters(kinds=2, transition=(2, 2, 2), means=2, slope=2)

    def model(x):
        with pyro.plate("data", len(x)):
            kind = pyro.sample("kind", dist.Categorical(logits=p.kinds), infer=ENUMERATED)
            state = torch.zeros((), dtype=torch.long)
            for t in pyro.markov(range(3)):
                fn = dist.Categorical(logits=Vindex(p.transition)[kind, state])
                state = pyro.sample(f"s{t}", fn, infer=ENUMERATED)
                pyro.sample(f"x{t}", dist.Normal(p.means[state], 1.0), obs=x[:, t])

    def guide(x):
        with pyro.plate("data", len(x)):
            logits = x.sum(-1, keepdim=True) * p.slope
            pyro.sample("kind", dist.Categorical(logits=logits), infer=ENUMERATED)

    return model, guide, p


@program(SERIES)
def chain_with_forbidden_transitions():
    p = parameters(keep=(), means=2)

    def model(x):
        def observe(t, state):
            pyro.sample(f"x{t}", dist.Normal(p.means[state], 1.0), obs=x[:, t])

        keep = torch.nn.functional.logsigmoid(p.keep)
        leave = torch.nn.functional.logsigmoid(-p.keep)
        absorbing = tensor(float("-inf"), 0.0)
        with pyro.plate("data", len(x)):
            states(torch.stack([torch.stack([keep, leave]), absorbing]), range(1), observe)
            state = torch.zeros((), dtype=torch.long)
            for t in pyro.markov(range(1, 3)):
                logits = torch.stack([torch.stack([keep, leave]), absorbing])
                state = pyro.sample(
                    f"r{t}", dist.Categorical(logits=logits[state]), infer=ENUMERATED
                )
                observe(t, state)

    return model, nothing, p


@program(SERIES)
def markov_in_the_guide():
    p = parameters(slope=(), loc=3, feedback=())

    def model(x):
        with pyro.plate("data", len(x)):
            z = torch.zeros(())
            for t in pyro.markov(range(3)):
                z = pyro.sample(f"z{t}", dist.Normal(p.slope * z, 1.0))
                pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=x[:, t])

    def guide(x):
        with pyro.plate("data", len(x)):
            z = torch.zeros(())
            for t in pyro.markov(range(3)):
                z = pyro.sample(f"z{t}", dist.Normal(p.loc[t] + p.feedback * z, 0.8))

    return model, guide, p


@program(SERIES)
def chain_as_one_distribution():
    p = parameters(initial=2, transition=(2, 2), means=2, loc=())

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            mean = p.means + z.unsqueeze(-1).unsqueeze(-1)
            observed = dist.Normal(mean.expand(*mean.shape[:-2], 3, 2), 1.0)
            fn = dist.DiscreteHMM(p.initial, p.transition, observed)
            pyro.sample("x", fn, obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(p.loc * x.mean(-1), 0.7))

    return model, guide, p
