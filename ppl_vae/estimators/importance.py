"""The importance-weighted bound and its family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ppl_vae.buffers import kept_on_error
from ppl_vae.errors import describe, flag, number, positive_int
from ppl_vae.estimators.batch_plate import OutsidePlateError, SubsampledInsideError
from ppl_vae.estimators.log_weights import LogWeights, log_weights, log_weights_by_plate
from ppl_vae.estimators.objective import Objective
from ppl_vae.estimators.particle_check import check_particles
from ppl_vae.estimators.per_datum import Bound, PerDatumELBO, loss_of
from ppl_vae.estimators.pyro_elbo import elbo_loss
from ppl_vae.estimators.score_function import SCORES, has_scores, score_term, with_pairs
from ppl_vae.estimators.traces import EnumeratedInsideError, PairCache, Runner, modules_of, total
from ppl_vae.process_state import exclusively
from ppl_vae.random_state import put_back, snapshot

Gradient = Literal["iwae", "dreg", "stl", "wake", "vimco", "loo", "disarm"]


_BY_PATH = "enumerated sites summed, others reparameterised"
_BY_SCORE = "enumerated sites summed, reparameterised ones by their paths, others by {}"
_SITES = {
    "iwae": _BY_PATH,
    "dreg": _BY_PATH,
    "stl": _BY_PATH,
    "wake": "enumerated sites summed, others by the densities alone",
    "vimco": _BY_SCORE.format("the score function with VIMCO's baseline"),
    "loo": _BY_SCORE.format("the score function with a leave-one-out baseline"),
    "disarm": _BY_SCORE.format("antithetic pairs if Bernoulli, else as with 'loo'"),
}
"""What becomes of the guide's sites."""


_ROUTES = ("per datum", "as a whole", "by Pyro")
"""How the ELBO of a program is computed: the first way that the program allows."""


class ImportanceWeightedELBO(PerDatumELBO):
    r"""The importance-weighted bound of Burda et al., per datum and valid under subsampling.

    For a batch plate of size B out of N and K particles, with per-datum log weights
    log w[k,b] = Σ_model log p - Σ_guide log q,

        L_K = (N/B) Σ_b log (1/K) Σ_k w[k,b]  ≤  log p(x),

    and -L_K is returned, in nats per batch. The plate's N/B is outside the log-mean-exp; β
    (``poutine.scale``), masks and whole inner plates are inside; subsampled inner plates raise.
    Pyro's ``RenyiELBO(alpha=0)`` keeps N/B inside, so that its value under subsampling is no bound.
    K = 1 is ``Trace_ELBO``.

    A program without a weight per datum, with latents outside the plate or without one, has the
    ELBO (K = 1, or ``alpha=1``) like any other, if need be by Pyro's ``TraceEnum_ELBO``; for K > 1
    ``plate=None`` is one weight of the whole, log (1/K) Σ_k w_k, without subsampling.

    A discrete y enumerated in the guide (``infer={"enumerate": "parallel"}``) is summed exactly:
    if it precedes all sampled sites, Σ_y q(y|x) [log (1/K) Σ_k w_y[k] - log q(y|x)]; if it follows
    one, in each weight, Σ_y q(y|x,z_k) [log p(x,y,z_k) - log q(y|x,z_k)] - log q(z_k|x). If y is
    enumerated in the model only, it is summed out in each weight, in inner plates and along
    ``pyro.markov`` too.

    The gradient, with ν_k = w_k / Σ w and θ, φ the parameters of the model's and guide's densities
    (a tensor in both gets both):

    ============  ==========================  ================================================
    gradient      θ                           φ
    ============  ==========================  ================================================
    ``"iwae"``    Σ_k ν_k ∂log p_k            Σ_k ν_k ∂log w_k, path and direct
    ``"dreg"``    the same                    Σ_k ν_k² ∂log w_k/∂z_k ∂z_k/∂φ, path only;
                                              unbiased (log q scaled by t: ν - t ν (1-ν) for ν²)
    ``"stl"``     the same                    Σ_k ν_k ∂log w_k/∂z_k ∂z_k/∂φ, path only; biased,
                                              K > 1
    ``"wake"``    the same                    Σ_k ν_k ∂log q_k, direct only: ascends
                                              -KL(p(z|x) ‖ q), not the bound
    ``"vimco"``   the same                    as ``"iwae"`` + Σ_k (L - L_k) ∂log q_k, with w_k in
                                              L_k the geometric mean of the others
    ``"loo"``     the same                    the same with L_k the bound of the others
    ``"disarm"``  the same                    the same with ½ (L - L̃_k) (b_k - b̃_k) σ(|α|) ∂α
                                              for Bernoulli b of logits α, b̃ its antithetic draw
    ============  ==========================  ================================================

    The first three need reparameterised sites. The last three take any guide, each site by what
    it allows: enumerated ones are summed, reparameterised ones keep the path gradient, and all
    others, discrete or not, get the term with L. They are unbiased. Alone, with K = M = 1, a
    particle has no others, and ``"vimco"`` and ``"loo"`` are REINFORCE without a baseline; in the
    ELBO of several (``alpha=1``) both are the leave-one-out baseline of Kool et al. ``"disarm"``
    draws M·K pairs, so 2·M·K particles: the value is the mean of the bound of the b's and of that
    of the b̃'s, and a Bernoulli site that depends on another sampled one gets the term of
    ``"loo"``.

    The parameters of an enumerated q(y|x) always get the exact derivative of the outer sum, those
    of a q(y|x,z) that of the sums in the weights, Σ_k ν_k ∂log w_k.

    Sources: Burda et al. 2016 (arXiv 1509.00519), equation 8; ``"dreg"`` Tucker et al. 2018 (arXiv
    1810.04152), equation 8; ``"stl"`` Roeder et al. 2017 (arXiv 1703.09194); ``"wake"`` Bornschein
    & Bengio 2015 (arXiv 1406.2751); ``"vimco"`` Mnih & Rezende 2016 (arXiv 1602.06725), section
    2.5; ``"loo"`` Kool et al. 2019 ("Buy 4 REINFORCE samples, get a baseline for free!"); DisARM
    Dong et al. 2020 (arXiv 2006.10680), the same as U2G of Yin et al. 2020. The family:
    :class:`ppl_vae.estimators.objective.Objective`.

    Args:
        num_particles: K, at least 1; one vectorised dimension, left of all plates.
        gradient: ``"iwae"``, ``"dreg"``, ``"stl"``, ``"wake"``, ``"vimco"``, ``"loo"`` or
            ``"disarm"``.
        num_groups: M, for the mean of M independent bounds of K particles each (MIWAE).
        pool_model: use the bound of all M·K particles for θ (and the value) and that of the groups
            for φ (PIWAE, Rainforth et al. 2018, arXiv 1802.04537, section 6).
        alpha: the Rényi bound's α, at most 1; 0 is the importance-weighted bound, 1 the ELBO.
        elbo_weight: weight of the ELBO in a convex combination with the bound (CIWAE), 0 to 1.
        chunk_size: run the model on so many particles at a time, and again for each backward pass
            (one with ``"iwae"``, two otherwise): bounds the memory without changing value or
            gradient.
        plate: name of the batch plate; a tuple of names for independent ones, whose bounds are
            added; None for one weight of the whole program, all plates inside.
        max_plate_nesting: number of dimensions of the program's plates; found by running it once
            if not given.

    Raises:
        ValueError: for K > 1, if a site lies outside the batch plate; if the batch plate of the
            other program differs; if a site outside ``pyro.markov`` depends on values that are
            enumerated inside.
        NotImplementedError: if a site is not enumerated in parallel and fully, or, for K > 1, is
            in a subsampled inner plate, or enumerated by the guide in an inner plate or chain; when
            differentiating with ``"iwae"``, ``"dreg"`` or ``"stl"``, if a guide's site is neither
            reparameterised nor enumerated, and with ``"dreg"`` if the guide's sites have different
            scales or masks.

    Example:
        >>> from ppl_vae import VAE, likelihoods, nets, posteriors, priors
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(2),
        ...     posterior=posteriors.DiagonalNormal(nets.MLP(64, 4)),
        ...     likelihood=likelihoods.Bernoulli(nets.MLP(2, 64)),
        ... )
        >>> elbo = ImportanceWeightedELBO(num_particles=50, gradient="dreg")(vae.model, vae.guide)
        >>> elbo(torch.ones(8, 64)).backward()
    """

    def __init__(
        self,
        num_particles: int,
        gradient: Gradient = "iwae",
        *,
        num_groups: int = 1,
        pool_model: bool = False,
        alpha: int | float = 0.0,
        elbo_weight: int | float = 0.0,
        chunk_size: int | None = None,
        plate: str | tuple[str, ...] | None = "data",
        max_plate_nesting: int | None = None,
    ) -> None:
        super().__init__(num_particles, plate=plate, max_plate_nesting=max_plate_nesting)
        name = "ImportanceWeightedELBO"
        self._routes = PairCache()
        if gradient not in get_args(Gradient):
            expected = get_args(Gradient)
            raise ValueError(f"{name}: gradient must be one of {expected}, got {gradient!r}")
        if chunk_size is not None:
            chunk_size = positive_int(name, "chunk_size", chunk_size)
        self.gradient = gradient
        self.chunk_size = chunk_size
        self.num_groups = positive_int(name, "num_groups", num_groups)
        self.pool_model = flag(name, "pool_model", pool_model)
        self.alpha = number(name, "alpha", alpha, most=1)
        self.elbo_weight = number(name, "elbo_weight", elbo_weight, least=0, most=1)
        if isinstance(plate, tuple) and chunk_size is not None:
            raise ValueError(f"{name}: chunk_size needs one batch plate, got plate={plate!r}")
        if gradient == "wake" and (self.alpha != 0 or self.elbo_weight != 0):
            raise ValueError(
                f"{name}: gradient='wake' is not the gradient of a bound and needs alpha=0 and "
                f"elbo_weight=0, got alpha={alpha} and elbo_weight={elbo_weight}"
            )

    def __repr__(self) -> str:
        return f"{super().__repr__()}  # {_SITES[self.gradient]}"

    @property
    def guide_objective(self) -> Objective:
        """The bound that the guide's gradient is of."""
        return Objective(self.num_groups, self.alpha, self.elbo_weight)

    @property
    def model_objective(self) -> Objective:
        """The bound that is returned and that the model's gradient is of."""
        return Objective(1 if self.pool_model else self.num_groups, self.alpha, self.elbo_weight)

    @property
    def total_particles(self) -> int:
        """M · K; ``num_particles`` may be changed between steps."""
        return self.num_groups * self.num_particles

    def log_weights(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> LogWeights:
        """Return the weights of all particles for some arguments of the pair, for one plate."""
        if isinstance(self.plate, tuple):
            raise ValueError(
                f"ImportanceWeightedELBO.log_weights: the weights are of one batch plate, but "
                f"plate={self.plate!r}; use an estimator for each"
            )
        with exclusively():
            return self._of_runner(self._all_weights, model, guide, args, kwargs)

    def differentiable_loss(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return minus the bound in nats per batch, with the gradient of model and guide."""
        if not self._is_elbo:
            return super().differentiable_loss(model, guide, *args, **kwargs)
        with exclusively():
            routes: tuple[str, ...] = _ROUTES if self.gradient == "iwae" else _ROUTES[:-1]
            known = self._routes.get(model, guide)
            if known in routes:  # a program may need another one for other arguments
                routes = routes[routes.index(known) :]
            *others, last = routes
            reason: Exception | None = None
            for route in others:
                # Saving the random state at each step would synchronise with the device.
                state = snapshot() if route != known else None
                kept = nullcontext() if state is None else kept_on_error(*modules_of(model, guide))
                try:
                    with kept:
                        loss = self._elbo_by(route, model, guide, args, kwargs)
                    self._routes.keep(model, guide, route)
                    return loss
                except (OutsidePlateError, EnumeratedInsideError, SubsampledInsideError) as error:
                    reason = error
                if state is not None:
                    put_back(state)
            try:
                loss = self._elbo_by(last, model, guide, args, kwargs)
            except ValueError as error:  # Pyro's, of scales that differ
                if isinstance(reason, SubsampledInsideError):
                    raise reason from error
                raise
            self._routes.keep(model, guide, last)
            return loss

    def _elbo_by(
        self, route: str, model: Callable, guide: Callable, args: tuple, kwargs: dict
    ) -> Tensor:
        """Return minus the ELBO: of each datum, of the program as a whole, or by Pyro."""
        if route == "per datum":
            return super().differentiable_loss(model, guide, *args, **kwargs)
        ways = {"as a whole": self._elbo_as_a_whole, "by Pyro": self._elbo_by_pyro}
        return self._of_runner(ways[route], model, guide, args, kwargs)

    def _elbo_as_a_whole(self, runner: Runner) -> Tensor:
        return total(map(loss_of, self._bounds_of(runner, None)))

    def _elbo_by_pyro(self, runner: Runner) -> Tensor:
        return elbo_loss(runner, self.total_particles)

    @property
    def _is_elbo(self) -> bool:
        objectives = self.model_objective, self.guide_objective
        return not any(o.averages(self.total_particles) for o in objectives)

    def _check_plate(self, plate: object) -> None:
        names = plate if isinstance(plate, tuple) else (plate,)
        if plate is not None and not (names and all(isinstance(name, str) for name in names)):
            expected = "the name of the batch plate, a tuple of names, or None"
            raise TypeError(
                f"ImportanceWeightedELBO: plate must be {expected}, got {describe(plate)}"
            )

    def _all_weights(self, runner: Runner) -> LogWeights:
        (weights,) = self._weigh(runner, self.total_particles, self.plate)
        check_particles(runner, self.total_particles)
        return weights

    def _bounds(self, runner: Runner) -> list[Bound]:
        return self._bounds_of(runner, self.plate)

    def _bounds_of(self, runner: Runner, plate: str | tuple[str, ...] | None) -> list[Bound]:
        of_model, of_guide = self.model_objective, self.guide_objective
        particles, alone = self.total_particles, runner
        if self.gradient == "disarm":
            of_model, of_guide, particles = of_model.in_pairs(), of_guide.in_pairs(), 2 * particles
            runner = with_pairs(runner, particles)
        one_bound = of_model == of_guide and self.gradient in ("iwae", *SCORES)
        leaves = torch.is_grad_enabled() and not one_bound
        weights = self._weigh(runner, particles, plate, leaves=leaves)
        check_particles(alone, particles)
        return [self._bound(w, particles, of_model, of_guide, one_bound) for w in weights]

    def _weigh(
        self,
        runner: Runner,
        num_particles: int,
        plate: str | tuple[str, ...] | None,
        *,
        leaves: bool = False,
    ) -> list[LogWeights]:
        if isinstance(plate, tuple):
            return log_weights_by_plate(
                runner, num_particles=num_particles, plates=plate, leaves=leaves
            )
        weights = log_weights(
            runner,
            num_particles=num_particles,
            plate=plate,
            chunk_size=self.chunk_size,
            leaves=leaves,
        )
        return [weights]

    def _bound(
        self,
        weights: LogWeights,
        particles: int,
        of_model: Objective,
        of_guide: Objective,
        one_bound: bool,
    ) -> Bound:
        differentiate = torch.is_grad_enabled()
        if differentiate and self.gradient not in ("wake", *SCORES):
            weights.check_reparameterised()
        if differentiate and self.gradient not in ("iwae", *SCORES):
            weights.check_no_training_terms(self.gradient)
        if of_model.averages(particles) or of_guide.averages(particles):
            weights.check_whole_plates(particles)
        log_w, dim = weights.log_w, weights.plate.particle_dim
        bound = of_model.bound(log_w, dim)
        per_datum = weights.plate.per_datum(weights.outer.expectation(bound, entropy=True))
        surrogate = None
        if differentiate and not one_bound:
            surrogate = self._surrogate(weights, log_w, bound, of_model, of_guide)
        elif differentiate and self.gradient in SCORES and has_scores(weights):
            weights.check_inner()
            surrogate = per_datum.sum() + score_term(weights, of_guide, self.gradient, log_w)
        return Bound(per_datum, weights.plate.scale, surrogate)

    def _surrogate(
        self,
        weights: LogWeights,
        log_w: Tensor,
        bound: Tensor,
        model_objective: Objective,
        guide_objective: Objective,
    ) -> Tensor:
        """Return the scalar whose gradient is the estimator's.

        The densities saw leaves, which separates three gradients: θ through log p, φ directly
        through log q, and φ along the path z(φ), by the derivative at the leaves.
        """
        weights.check_inner()
        dim = weights.plate.particle_dim
        of_model = model_objective.coefficients(log_w, dim)
        of_guide = guide_objective.coefficients(log_w, dim)
        direct, path = (of_guide, None) if self.gradient == "wake" else (None, of_guide)
        if self.gradient in ("iwae", *SCORES):
            direct = -of_guide
        elif self.gradient == "dreg":
            path = guide_objective.doubly_reparameterised(log_w, dim, weights.guide_weight())

        expected = weights.expected
        inner = weights.inner
        surrogate = expected(of_model * inner.fixed_expectation(weights.log_p))
        if inner.dims:
            own = inner.expectation(weights.log_p.detach(), entropy=True)
            surrogate = surrogate + expected(of_guide * own)
        surrogate = surrogate + weights.outer.expectation(bound.detach(), entropy=True).sum()
        if direct is not None:
            surrogate = surrogate + expected(direct * weights.log_q)
        along_paths = None if path is None else expected(path * log_w)
        if along_paths is not None and self.gradient in SCORES and has_scores(weights):
            scores = score_term(weights, guide_objective, self.gradient, log_w)
            surrogate, along_paths = surrogate + scores, along_paths + scores
        if along_paths is not None and weights.paths:
            surrogate = surrogate + _through(weights.paths, along_paths)
        return surrogate


def _through(paths: Sequence[tuple[Tensor, Tensor]], term: Tensor) -> Tensor:
    """Return the scalar whose gradient is a term's through the values that leaves were cut from.

    A value may depend on leaves before it, which its slope goes on to: the last one is first.
    """
    leaves, values = zip(*paths, strict=True)
    slopes = list(_slopes(term, leaves))
    through = []
    for last in reversed(range(len(paths))):
        through.append((slopes[last] * values[last]).sum())
        if last:
            further = _slopes(through[-1], leaves[:last])
            slopes[:last] = [s + f for s, f in zip(slopes, further, strict=False)]
    return torch.stack(through).sum()


def _slopes(term: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(term, leaves, retain_graph=True, materialize_grads=True)
