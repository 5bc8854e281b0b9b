"""What can be typed."""

from __future__ import annotations

from argparse import SUPPRESS, Action
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from ppl_vae.cli.configuration import LOGGERS, shipped
from ppl_vae.cli.named import KINDS
from ppl_vae.cli.overrides import STANDARD, SWAPS
from ppl_vae.cli.settings import SECTIONS, options
from ppl_vae.config.names import public
from ppl_vae.storage.versions import package_version

_ROOMS = {"prior": "priors", "posterior": "posteriors", "likelihood": "likelihoods"}
_TITLES = {
    "data": "data (section data of a configuration)",
    "fit": "training (section fit)",
    "devices": "devices (section devices)",
}
COMMANDS = {
    "fit": "train a pair; go on with or repeat a training",
    "evaluate": "bounds, log p(x) and more of a trained run, as a table and as JSON",
    "report": "one HTML page on one run, or on several side by side",
    "sample": "draw data from a trained run",
    "reconstruct": "show test data and their reconstructions",
}


class _Formatter(DefaultHelpFormatter):
    """Keeps the lines of descriptions and examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in text.splitlines())

    def _get_help_string(self, action: Action) -> str:
        if action.default in (None, False, SUPPRESS) or "[" in (action.help or ""):
            return action.help or ""
        return f"{action.help} [{action.default}]"

    def _format_usage(self, *args: Any) -> str:
        usage = super()._format_usage(*args)
        # Sixty options in brackets tell nobody anything; they are explained below.
        first = usage.split(" [-", 1)[0].split(" [options] ")
        return usage if len(usage) < 400 else f"{' '.join(first).strip()} [CONFIG] [options]\n\n"


def parser() -> ArgumentParser:
    """Return the parser of the whole command line, but for flags with dots."""
    top = _parser(
        "Train, evaluate and look at variational autoencoders as Pyro programs.",
        _examples(
            "ppl-vae fit gmvae --data mnist --out runs/gmvae",
            "ppl-vae evaluate runs/gmvae",
            "ppl-vae report runs/gmvae runs/vae",
            "ppl-vae sample runs/gmvae -n 64",
        )
        + "\n\nExit codes: 0; 1 files; 2 what was typed; 3 a loss that is not finite; 130 Ctrl-C; "
        "143 SIGTERM.",
        prog="ppl-vae",
        version=package_version(),
    )
    commands = top.add_subcommands(
        dest="command", title="commands", description="ppl-vae COMMAND --help explains each."
    )
    makers: dict[str, Callable[[], ArgumentParser]] = {
        "fit": _fit,
        "evaluate": _evaluate,
        "report": _report,
        "sample": _sample,
        "reconstruct": _reconstruct,
    }
    for name, help in COMMANDS.items():
        commands.add_subcommand(name, makers[name](), help=help)
    return top


def _parser(description: str, epilog: str, **further: Any) -> ArgumentParser:
    return ArgumentParser(
        description=description,
        epilog=epilog,
        formatter_class=_Formatter,
        allow_abbrev=False,
        exit_on_error=False,
        **further,
    )


def _examples(*lines: str) -> str:
    return "\n".join([f"Example{'s' if len(lines) > 1 else ''}:", *(f"  {li}" for li in lines)])


def _fit() -> ArgumentParser:
    names = ", ".join(shipped())
    made = _parser(
        "Train a pair. A configuration says all; every entry of it is also a flag, which wins.\n"
        "The run folder gets config.yaml (all of it, every default written out), checkpoints,\n"
        "history.csv, validation.csv and, at the end, model/. Ctrl-C saves.",
        _examples(
            "ppl-vae fit gmvae --data mnist --out runs/gmvae",
            "ppl-vae fit runs/gmvae --resume                      # goes on after Ctrl-C",
            "ppl-vae fit runs/gmvae/config.yaml --out runs/again  # the same run again",
            "ppl-vae fit mine.yaml --model.prior.components 100 --fit.steps 5000",
            "ppl-vae fit --prior VampPrior --estimator ImportanceWeightedELBO --fit.epochs 20",
            "ppl-vae fit gmvae --data mnist --print-config > mine.yaml",
        ),
    )
    made.add_argument(
        "configuration",
        nargs="?",
        type=str,
        metavar="CONFIG",
        help=f"one of {names}; or a YAML file; or the folder of a run; vae if not given",
    )
    group = made.add_argument_group("run")
    group.add_argument("--out", type=str, help="the run folder; runs/CONFIG-DATA if not given")
    group.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    group.add_argument(
        "--print-config", action="store_true", help="print the whole configuration, and stop"
    )
    group.add_argument(
        "--logger", choices=[*LOGGERS, "none"], help="log the history to TensorBoard, or as CSV"
    )
    _common(group)
    group = made.add_argument_group(
        "parts, by name",
        "Widths follow by themselves; other arguments of a part are flags with its path, such as\n"
        "--model.prior.components 100, --model.posterior.net.hidden [200,200],\n"
        "--model.latent_dim 20, --estimator.num_particles 10, --optimiser.lr 1e-4.\n"
        + "\n".join(
            f"{name} has {', '.join(f'{k} = {v}' for k, v in given.items())} unless you say so."
            for name, given in STANDARD.items()
        ),
    )
    for name in SWAPS:
        choices = _classes(name)
        group.add_argument(f"--{name}", choices=choices, metavar="NAME", help=", ".join(choices))
    for section, cls in SECTIONS.items():
        group = made.add_argument_group(_TITLES[section])
        for entry, hint, default, help in options(cls):
            # Only for help and completion: such flags are read by overrides, as a file is.
            known = get_origin(hint) is Literal or hint is bool
            group.add_argument(
                f"--{section}.{entry}",
                type=hint if known else str,
                default=default if known else None,
                metavar=None if known else _metavar(hint),
                help=help if known or default is None else f"{help} [{default}]",
            )
    return made


def _metavar(hint: Any) -> str:
    members = get_args(hint) or (hint,)
    if any(get_origin(member) is dict for member in members):
        return "YAML"
    return "TEXT" if str in members else "X" if float in members else "N"


def _classes(name: str) -> list[str]:
    return sorted(public(_ROOMS[name]) if name in _ROOMS else KINDS[name])


def _evaluate() -> ArgumentParser:
    made = _parser(
        "Evaluate a trained run on its test data: the ELBO and its terms, importance-weighted\n"
        "bounds, log p(x) by importance sampling with its error, the KL's parts, active units,\n"
        "labels. Prints a table and writes evaluation.json into the run folder.",
        _examples("ppl-vae evaluate runs/gmvae --num-samples 5000 --num-data 1000"),
    )
    made.add_argument("run", type=str, metavar="RUN", help="the folder of a run")
    _costs(made)
    return made


def _report() -> ArgumentParser:
    made = _parser(
        "Evaluate trained runs as ppl-vae evaluate does, and write one HTML page with the numbers\n"
        "and the pictures, side by side, and the numbers as JSON beside it.",
        _examples("ppl-vae report runs/gmvae runs/vae --out runs/comparison"),
    )
    made.add_argument("runs", type=str, nargs="+", metavar="RUN", help="folders of runs")
    made.add_argument("--out", type=str, help="folder for the page; report in the first run")
    _costs(made)
    return made


def _sample() -> ArgumentParser:
    made = _parser(
        "Draw data from the model of a trained run: z from the prior, then the mean of p(x|z).\n"
        "Of a model that is given a class, as many of each class.",
        _examples(
            "ppl-vae sample runs/gmvae -n 64", "ppl-vae sample runs/gmvae --draw --file x.npy"
        ),
    )
    made.add_argument("run", type=str, metavar="RUN", help="the folder of a run")
    made.add_argument("-n", "--number", type=int, default=64, help="how many")
    made.add_argument("--draw", action="store_true", help="draw x from p(x|z), not its mean")
    _picture(made, "samples.png")
    return made


def _reconstruct() -> ArgumentParser:
    made = _parser(
        "Show the first test data of a trained run, and their reconstructions right below.",
        _examples("ppl-vae reconstruct runs/gmvae -n 50"),
    )
    made.add_argument("run", type=str, metavar="RUN", help="the folder of a run")
    made.add_argument("-n", "--number", type=int, default=50, help="how many")
    _picture(made, "reconstructions.png")
    return made


def _picture(made: ArgumentParser, name: str) -> None:
    made.add_argument(
        "--file", type=str, help=f".png, .pdf or .svg, or .npy for values; {name} in the run"
    )
    made.add_argument("--seed", type=int, default=0, help="of all draws")
    _device(made)
    _common(made, quiet=False)


def _costs(made: ArgumentParser) -> None:
    add = made.add_argument
    add("--num-samples", type=int, default=5000, help="of importance sampling, for each datum")
    add("--num-data", type=int | Literal["all"], default=1000, help="of the test data, or all")
    add("--annealed-data", type=int, default=0, help="so many by annealing, too; takes long")
    add("--gap-data", type=int, default=0, help="split the inference gap of so many")
    add("--seed", type=int, default=0, help="of all draws")
    add("--compile", action="store_true", help="compile importance sampling: seconds more at first")
    _device(made)
    _common(made)


def _device(made: ArgumentParser) -> None:
    made.add_argument("--device", type=str, default="auto", help="cpu, cuda, cuda:1, mps, or auto")


def _common(made: Any, quiet: bool = True) -> None:
    if quiet:
        made.add_argument("--quiet", action="store_true", help="no progress bar")
    made.add_argument("--debug", action="store_true", help="show where in the code an error is")
