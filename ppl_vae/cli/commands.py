"""The commands: what each takes, and its help; without slow imports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, get_args, get_origin

from ppl_vae.cli import class_names
from ppl_vae.cli.arguments import (
    OF_FILE,
    costs,
    debug,
    draws,
    entry,
    integer,
    metavar_of,
    num_particles,
    quiet,
    seed_number,
    written_to,
)
from ppl_vae.cli.catalogue import KINDS, singular
from ppl_vae.cli.errors import UsageError
from ppl_vae.cli.flags import SWAPS
from ppl_vae.cli.output import show
from ppl_vae.cli.parser import COMMANDS, Formatter, Parser, command_parser, listed, version
from ppl_vae.spec import ARGUMENTS, SECTIONS, entries

SHELLS = ("bash", "zsh", "tcsh")


@cache
def parsers() -> tuple[Parser, Mapping[str, Parser]]:
    """Return the parser of the whole command line, and that of each command by name."""
    top = Parser(
        prog="ppl-vae",
        usage="ppl-vae COMMAND [options]",
        description="Train, evaluate and look at variational autoencoders as Pyro programs.",
        epilog=listed(
            "ppl-vae fit gmvae --data mnist --out runs/gmvae",
            "ppl-vae evaluate runs/gmvae",
            "ppl-vae report runs/gmvae runs/vae",
            "ppl-vae sample runs/gmvae -n 64",
            "ppl-vae fit table --data people.csv --out runs/people",
            "ppl-vae impute runs/people people.csv --out filled.csv",
            "ppl-vae list priors",
        )
        + "\n\nExit codes: 0; 1 files; 2 what was typed; 3 a loss that is not finite; 130 Ctrl-C; "
        "143 SIGTERM.",
        formatter_class=Formatter,
        allow_abbrev=False,
    )
    version(top)
    top.add_argument(
        "--print-completion",
        choices=SHELLS,
        help="print what completes commands and flags in a shell; needs pip install shtab",
    )
    commands = top.add_subparsers(
        title="commands", description="ppl-vae COMMAND --help explains each.", metavar="COMMAND"
    )
    makers: tuple[Callable[[Any], Parser], ...] = (
        *(_fit, _table, _evaluate, _report, _explore, _sample, _reconstruct, _impute),
        *(_encode, _export, _list, _show, _reproduce),
    )
    return top, {name: make(commands) for name, make in zip(COMMANDS, makers, strict=True)}


def print_completion(top: Parser, shell: str) -> None:
    """Print a shell's completion of the whole command line."""
    try:
        import shtab  # type: ignore[import-not-found]
    except ModuleNotFoundError as error:
        raise UsageError("--print-completion needs shtab: pip install shtab") from error
    show(shtab.complete(top, shell=shell))


def _fit(commands: Any) -> Parser:
    made = command_parser(
        commands,
        "fit",
        "[CONFIG]",
        "Train a pair. A configuration has all settings; each is also a flag, and flags win.\n"
        "The run folder gets config.yaml (with every default written out), checkpoints,\n"
        "history.csv, validation.csv and, at the end, model/. Ctrl-C saves.",
        "ppl-vae fit gmvae --data mnist --out runs/gmvae",
        "ppl-vae fit runs/gmvae --resume                      # goes on after Ctrl-C",
        "ppl-vae fit runs/gmvae/config.yaml --out runs/again  # the same run again",
        "ppl-vae fit gmvae --init runs/vae --lr 1e-4          # from a trained run's weights",
        "ppl-vae fit mine.yaml --model.prior.components 100 --steps 5000",
        "ppl-vae fit --prior VampPrior --prior.pseudo-inputs 500 --beta 0.5 --epochs 20",
        "ppl-vae fit gmvae --data mnist --print-config > mine.yaml",
    )
    made.add_argument(
        "configuration",
        nargs="?",
        metavar="CONFIG",
        help=f"one of {', '.join(class_names.shipped())}; or a YAML file; or the folder of a "
        f"run to resume; vae if not given",
    )
    group = made.add_argument_group("run")
    group.add_argument("--out", help="the run folder; runs/CONFIG-DATA if not given")
    group.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    group.add_argument(
        "--print-config", action="store_true", help="print the whole configuration, and stop"
    )
    entry(group, "init", "RUN", "start from the weights of a trained run or a saved pair")
    group.add_argument(
        "--logger",
        choices=[*class_names.LOGGERS, "none"],
        help="log the history to TensorBoard, or as CSV",
    )
    quiet(group)
    group = made.add_argument_group(
        "parts, by name",
        "Widths are inferred; other arguments of a part are flags with its path, such as\n"
        "--model.prior.components 100, --model.posterior.net.hidden [200,200],\n"
        "--model.likelihood.scale learned, --estimator.num_particles 10.",
    )
    for name in SWAPS:
        flag = f"--{name.replace('_', '-')}"
        if name in _OF_TORCH:
            group.add_argument(flag, metavar="NAME", help=_OF_TORCH[name])
        else:
            listed = class_names.classes(name)
            group.add_argument(flag, choices=listed, metavar="NAME", help=", ".join(listed))
    entry(group, "model.latent_dim", "N", "dimensions of z")
    entry(group, "optimizer.lr", "X", f"learning rate [{ARGUMENTS['optimizer'].default['lr']}]")
    for section in SECTIONS:
        group = made.add_argument_group(f"section {section} of a configuration")
        for e in entries(section):
            choices = get_args(e.hint) if get_origin(e.hint) is Literal else None
            help = e.help if e.default is None else f"{e.help} [{str(e.default).lower()}]"
            entry(group, e.path, metavar_of(e.hint), help, choices)
    return made


def _table(commands: Any) -> Parser:
    made = command_parser(
        commands,
        "fit table",
        "[SETTINGS]",
        "Train on a table whose columns are numbers and categories of any kind, and whose cells\n"
        "may be missing. The kinds that were inferred are printed first; --kinds corrects them.\n"
        "The run folder gets settings.yaml, checkpoints, history.csv, validation.csv and, at the\n"
        "end, the model: ppl_vae.tables.load(RUN). Ctrl-C saves.",
        "ppl-vae fit table --data people.csv --out runs/people",
        "ppl-vae fit table runs/people --resume           # goes on after Ctrl-C",
        "ppl-vae fit table --data people.csv --kinds age=count --kinds town=categorical",
        "ppl-vae fit table --data people.csv --kinds 'size={kind: ordinal, categories: [S, M, L]}'",
        "ppl-vae fit table --data people.csv --prior GaussianMixture --prior.components 20",
        "ppl-vae fit table --data people.csv --print-config > people.yaml",
    )
    made.add_argument(
        "settings",
        nargs="?",
        metavar="SETTINGS",
        help="a YAML file of all settings, as --print-config prints it; or the folder of a run to "
        "resume",
    )
    group = made.add_argument_group("run")
    group.add_argument("--data", metavar="FILE", help="the table, .csv or .parquet")
    group.add_argument("--out", help="the run folder; runs/NAME of the table if not given")
    group.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    group.add_argument("--print-config", action="store_true", help="print all settings, and stop")
    quiet(group)
    group = made.add_argument_group(
        "settings, the arguments of ppl_vae.tables.TableVAE",
        "NAME=KIND and KIND=NAME once for each, or a YAML file of all. Arguments of a part follow\n"
        "its name: --prior.components 20.",
    )
    for name, (hint, default, help) in class_names.table_settings().items():
        flag = f"--{name.replace('_', '-')}"
        if hint == "bool":
            group.add_argument(flag, action="store_true", default=None, help=help.rstrip("."))
            continue
        action = "append" if name in ("kinds", "families") else "store"
        shown = f" {list(default)}" if isinstance(default, tuple) else f" [{default}]"
        group.add_argument(
            flag,
            action=action,
            metavar=_OF_TABLE.get(name) or _METAVARS.get(hint, "YAML"),
            help=f"{help.rstrip('.')}{'' if default is None else shown}",
        )
    return made


_OF_TABLE = {
    "kinds": "NAME=KIND",
    "families": "KIND=NAME",
    **dict.fromkeys(("prior", "posterior", "estimator"), "NAME"),
    "device": "DEVICE",
}


_METAVARS = {"int": "N", "int | float": "X", "Sequence[int]": "[N,...]"}


_OF_TORCH = {
    "optimizer": "of torch.optim, such as Adam, AdamW, RMSprop, SGD",
    "lr_schedule": "of torch.optim.lr_scheduler, such as CosineAnnealingLR, StepLR, LinearLR",
}


def _evaluate(commands: Any) -> Parser:
    made = command_parser(
        commands,
        "evaluate",
        "RUN",
        "Evaluate a trained run on its test data: the ELBO and its terms, importance-weighted\n"
        "bounds, log p(x) by importance sampling with its error, the KL's parts, active units,\n"
        "labels. Prints a table and writes evaluation.json into the run folder. A run of a table\n"
        "is evaluated on the rows of a file.",
        "ppl-vae evaluate runs/gmvae --num-samples 5000 --num-data 1000",
        "ppl-vae evaluate runs/people --data held_out.csv",
    )
    costs(made)
    return made


def _report(commands: Any) -> Parser:
    made = command_parser(
        commands,
        "report",
        "RUN [RUN ...]",
        "Evaluate trained runs as ppl-vae evaluate does, and write one HTML page with the numbers\n"
        "and the pictures, side by side, and the numbers as JSON beside it.",
        "ppl-vae report runs/gmvae runs/vae --out runs/comparison",
        'ppl-vae report runs/gmvae --sections calibration "predictive checks"',
        "ppl-vae report runs/people --data held_out.csv",
    )
    made.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs")
    made.add_argument("--out", help="folder for the page; report in the first run")
    costs(made)
    return made


def _explore(commands: Any) -> Parser:
    made = command_parser(
        commands,
        "explore",
        "RUN [RUN ...]",
        "Open a page on this machine to play with trained runs: the map of their latents, what\n"
        "any place decodes to, interpolation, posteriors, imputation under painted masks. Runs of\n"
        "the same data stand side by side. It listens on 127.0.0.1 alone. Needs the extra:\n"
        "pip install 'ppl-vae[explore]'.",
        "ppl-vae explore runs/gmvae",
        "ppl-vae explore runs/gmvae runs/vae --port 5006 --no-browser",
        "ppl-vae explore runs/gmvae --export page.html   # a file that needs no server",
        "ppl-vae explore runs/people --data held_out.csv",
    )
    made.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs")
    made.add_argument(
        "--export", metavar="FILE", help="write a page that needs no server, .html, and stop"
    )
    made.add_argument("--port", type=integer(1), metavar="N", help="any that is free if not given")
    made.add_argument(
        "--no-browser", action="store_true", help="print the address, open no browser"
    )
    made.add_argument(
        "--data", metavar="FILE", help="of a table: the rows; those it was trained on if not given"
    )
    made.add_argument(
        "--num-data",
        type=integer(2, all=True),
        default=1000,
        metavar="N",
        help="of the test data, or all",
    )
    made.add_argument(
        "--plane",
        choices=class_names.planes(),
        default="pca",
        help="of the map: principal components, or the two dimensions of the largest KL",
    )
    made.add_argument("--site", metavar="NAME", help="the latent on the map, such as z2")
    draws(made)
    debug(made)
    return made


def _sample(commands: Any) -> Parser:
    made = command_parser(
        commands,
        "sample",
        "RUN",
        "Draw data from the model of a trained run: z from the prior, then the mean of p(x|z).\n"
        "A model conditioned on a class draws as many of each. Images give a picture, other data\n"
        "values; a run of a table gives rows, a .csv or .parquet file, drawn from p(x|z).",
        "ppl-vae sample runs/gmvae -n 64",
        "ppl-vae sample runs/gmvae --draw --out x.npy",
        "ppl-vae sample runs/people -n 1000 --given smoker=true --given age=40",
    )
    made.add_argument(
        "--draw", action="store_true", help="draw x from p(x|z), not its mean; rows always are"
    )
    made.add_argument(
        "--given",
        action="append",
        metavar="NAME=VALUE",
        help="of a table: draw rows that have this value; once for each column",
    )
    num_particles(made, "of a table with --given: of importance resampling [10000]")
    written_to(made, "samples", 64)
    return made


def _reconstruct(commands: Any) -> Parser:
    made = command_parser(
        commands,
        "reconstruct",
        "RUN",
        "Show the first test data of a trained run, with their reconstructions below; for data\n"
        "other than images, the values.",
        "ppl-vae reconstruct runs/gmvae -n 50",
    )
    written_to(made, "reconstructions", 50)
    return made


def _impute(commands: Any) -> Parser:
    made = command_parser(
        commands,
        "impute",
        "RUN DATA",
        "Fill the missing cells of a table under a run of fit table, or under a TableVAE that was\n"
        "saved: with the best guess of each cell, or, with --draws M, with M draws from\n"
        "p(missing | observed), one table below the other and numbered in a first column draw.",
        "ppl-vae impute runs/people people.csv --out filled.csv",
        "ppl-vae impute runs/people people.csv --draws 20 --out draws.parquet",
    )
    made.add_argument("run", metavar="RUN", help="the folder of a run of a table")
    made.add_argument("data", metavar="DATA", help="the table, .csv or .parquet")
    made.add_argument(
        "--out", required=True, metavar="FILE", help="a .csv or .parquet file, another than DATA"
    )
    made.add_argument(
        "--draws", type=integer(1), metavar="M", help="draws, for multiple imputation"
    )
    num_particles(made, "of importance sampling, for each row [1000]")
    draws(made)
    debug(made)
    return made


def _reproduce(commands: Any) -> Parser:
    made = command_parser(
        commands,
        "reproduce",
        "[NAME]",
        "Train and measure the rows of a published table, and print them beside the numbers in\n"
        "print. Without a name, list the tables. Each row and seed is a run with a folder of its\n"
        "own: what is there is not done again, and Ctrl-C saves. Several processes may share\n"
        "--out, each at other rows or seeds. NAME.json has every number, with versions, commit,\n"
        "machine and wall time; NAME.md has the table.",
        "ppl-vae reproduce",
        "ppl-vae reproduce cs236 --seeds 3",
        'ppl-vae reproduce iwae --part "one layer, K = 1" --seeds 1',
        "ppl-vae reproduce cs236 --smoke      # on bundled digits, to see that it runs",
    )
    made.add_argument(
        "name", nargs="?", metavar="NAME", help="of a table; all are listed if absent"
    )
    made.add_argument("--seeds", type=integer(1), default=3, metavar="N", help="seeds 0 to N - 1")
    made.add_argument(
        "--part",
        action="append",
        default=[],
        metavar="ROW",
        help="a row, or how the names of several start; once for each; all rows if absent",
    )
    made.add_argument("--out", help="the folder of the runs; runs/reproduce/NAME if not given")
    extent = made.add_mutually_exclusive_group()
    extent.add_argument(
        "--whole",
        action="store_true",
        help="run the source's whole protocol where it is otherwise shortened: days on two cores",
    )
    extent.add_argument("--smoke", action="store_true", help="bundled digits and a few steps")
    made.add_argument(
        "--precision", choices=("32-true", "bf16-mixed"), default="32-true", help="of the training"
    )
    made.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to train"
    )
    made.add_argument("--no-compile", action="store_true", help="leave the steps uncompiled")
    quiet(made)
    return made


def _encode(commands: Any) -> Parser:
    made = command_parser(
        commands,
        "encode",
        "RUN [DATA]",
        "Write the latents of data: the mean of q(z|x) for each datum, or draws. RUN may also be\n"
        "a saved pair. A .npz file has an array for each latent: z, or z1, z2, ... of a\n"
        "HierarchicalVAE. Files are read as in the run unless the flags below say otherwise.",
        "ppl-vae encode runs/gmvae --out z.npy",
        "ppl-vae encode runs/gmvae faces.npy --out z.csv",
        "ppl-vae encode runs/gmvae mnist --split train --labels --samples 10 --out z.npz",
    )
    made.add_argument("run", metavar="RUN", help="the folder of a run, or of a saved pair")
    made.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help="a .npy or .npz file or a folder of images, or the name of data as in fit; the test "
        "data of the run if not given",
    )
    made.add_argument(
        "--out", metavar="FILE", help=".npy, .npz or .csv; latents.npz in the run if not given"
    )
    made.add_argument(
        "--samples", type=integer(1), metavar="N", help="N draws from q(z|x), not its mean"
    )
    made.add_argument("--labels", action="store_true", help="write the labels, too: y, or label")
    made.add_argument("--split", choices=("train", "test"), help="of data with a name [test]")
    group = made.add_argument_group("how DATA are read")
    for e in entries("data"):
        if e.name in OF_FILE:
            group.add_argument(f"--{e.path}", dest=e.name, metavar=metavar_of(e.hint), help=e.help)
    draws(made)
    debug(made)
    return made


def _export(commands: Any) -> Parser:
    made = command_parser(
        commands,
        "export",
        "RUN",
        "Write encoder, decoder and log p(x|z) of a trained run, or of a saved pair, as files for\n"
        "batches of any size, compared with the pair first. ONNX is run by onnxruntime and needs\n"
        "pip install 'ppl-vae[export]'; .pt2 is run by torch alone.",
        "ppl-vae export runs/gmvae --to onnx --out deployed",
        "ppl-vae export runs/gmvae --to torch --programs decoder",
    )
    made.add_argument("--to", required=True, choices=("onnx", "torch"), help="the format")
    made.add_argument("--out", metavar="FOLDER", help="onnx or torch in the run if not given")
    made.add_argument(
        "--programs",
        nargs="+",
        metavar="NAME",
        help="encoder, decoder, log_prob, classifier, conditional1, ...; all that can be exported",
    )
    made.add_argument(
        "--seed", type=seed_number, default=0, metavar="N", help="of the data that are compared"
    )
    debug(made)
    return made


def _list(commands: Any) -> Parser:
    made = command_parser(
        commands,
        "list",
        "[KIND]",
        "Print what there is to choose from, a line for each.",
        "ppl-vae list priors",
        "ppl-vae list configs",
    )
    made.add_argument(
        "kind", nargs="?", metavar="KIND", help=f"{', '.join(KINDS)}; or none of them"
    )
    debug(made)
    return made


def _show(commands: Any) -> Parser:
    made = command_parser(
        commands,
        "show",
        "KIND NAME",
        "Print the signature and the documentation of a class, or a configuration.",
        "ppl-vae show prior VampPrior",
        "ppl-vae show config gmvae",
    )
    made.add_argument("kind", metavar="KIND", help=", ".join(singular(kind) for kind in KINDS))
    made.add_argument("name", metavar="NAME", help="as ppl-vae list KIND has it")
    debug(made)
    return made
