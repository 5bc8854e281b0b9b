"""Wrong command lines: the exit code, and what the message must name, as it was typed."""

import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from ppl_vae.cli import main

NARROW = [
    *("--model.posterior.net.hidden", "[8]", "--model.likelihood.net.hidden", "[8]"),
    *("--model.latent_dim", "2", "--quiet"),
]
# What would be somebody else's words: of torch, Pyro, numpy, zipfile, argparse, Fabric.
RAW = re.compile(
    r"Traceback|unrecognized|invalid choice|invalid literal|arguments are required|expected one "
    r"argument|Expected one of cpu|state_dict|zip file|\bzip\b|BadZip|MisconfigurationExc|"
    r"size of tensor|dtype\('|cannot reshape|CUDA error|NoneType|object has no attribute|"
    r"unexpected keyword|positional argument|KeyError|IndexError|Errno"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a run, a saved pair, an unfinished run, and files that are wrong."""
    folder = tmp_path_factory.mktemp("wrong")
    cwd = os.getcwd()
    os.chdir(folder)
    try:
        assert main(["fit", "vae", "--out", "run", *NARROW, "--steps", "2"]) == 0
        shutil.copytree("run", "unfinished")
        shutil.rmtree("unfinished/model")
        shutil.copytree("run/model", "pair")
        np.save("table.npy", np.random.default_rng(0).random((40, 5)).astype(np.float32))
        np.save("holes.npy", np.where(np.eye(40, 5), np.nan, 1.0).astype(np.float32))
        np.savez("names.npz", images=np.ones((20, 4)))
        os.mkdir("sizes")
        for name, size in (("a", (4, 6)), ("b", (5, 5))):
            Image.new("L", size).save(f"sizes/{name}.png")
        for name in ("broken.npz", "broken.npy"):
            with open(name, "w") as file:
                file.write("this is no array")
        with open("broken.yaml", "w") as file:
            file.write("fit: {steps: 3")
        with open("typo.yaml", "w") as file:
            file.write("model: {class: VAE, latnet_dim: 3, likelihood: Bernoulli}\nfit: {steps: 3}")
        os.mkdir("empty")
        os.makedirs("records/r/seed-0")
        with open("records/r/seed-0/record.json", "w") as file:
            file.write("{}")
        with open("file", "w") as file:
            file.write("no folder")
    finally:
        os.chdir(cwd)
    return folder


@pytest.fixture
def here(files, monkeypatch):
    monkeypatch.chdir(files)


# The words, the exit code, and what must be named, divided by |.
FIT = [
    ("fit gmvea", 2, "'gmvea'|did you mean 'gmvae'?"),
    ("fit no.yaml", 2, "'no.yaml'"),
    ("fit empty", 2, "empty|config.yaml"),
    ("fit broken.yaml", 2, "broken.yaml"),
    ("fit typo.yaml", 2, "model.latnet_dim|latent_dim"),
    ("fit vae more", 2, "'more'|[CONFIG]"),
    ("fit pair", 2, "pair is a saved pair|--init pair"),
    ("fit run", 2, "run is a run|fit run --resume|--out"),
    ("fit --resume", 2, "--resume|runs/vae-digits"),
    ("fit vae --resume --out none", 2, "--resume|none"),
    ("fit --out run", 2, "run|--resume|--out"),
    ("fit run --resume --lr 0.5", 2, "--lr|0.5"),
    ("fit run --resume --steps 1", 2, "--steps 1|step 2"),
    ("fit gmvae --resume --out run", 2, "run|--resume"),
    ("fit --stepz 3", 2, "--stepz|did you mean --steps?"),
    ("fit -steps 3", 2, "-steps|did you mean --steps?"),
    ("fit --clip-norm 3", 2, "--clip-norm|--fit.clip_norm"),
    ("fit --num-particles 3", 2, "--num-particles|--estimator.num_particles"),
    ("fit --learning-rate 3", 2, "--learning-rate|did you mean --"),
    ("fit --optimise.lr 3", 2, "--optimise.lr|--optimizer.lr"),
    ("fit --optimiser SGD --optimizer.lr 3", 2, "--optimiser|--optimizer"),
    ("fit --modle.latent_dim 3", 2, "--modle.latent_dim|--model.latent_dim"),
    ("fit --fit.stepz 3", 2, "--fit.stepz|'steps'"),
    ("fit --data.binarize static", 2, "--data.binarize|'binarise'"),
    ("fit --model.prior.component 3 --prior GaussianMixture", 2, "component|'components'"),
    ("fit --latent-dims 3", 2, "--latent-dims|did you mean --latent-dim?"),
    ("fit --steps", 2, "--steps needs a value"),
    ("fit --steps --quiet", 2, "--steps needs a value"),
    ("fit --steps many", 2, "--steps|'many'"),
    ("fit --steps 0", 2, "--steps|0"),
    ("fit --steps -3", 2, "--steps|-3"),
    ("fit --steps 2.5", 2, "--steps|2.5"),
    ("fit --epochs 0", 2, "--epochs|0"),
    ("fit --steps 3 --epochs 3", 2, "--steps|--epochs"),
    ("fit --lr fast", 2, "--lr|'fast'"),
    ("fit --lr -1", 2, "optimizer: Adam cannot be made with --lr = -1.0"),
    ("fit runs/none --resume", 2, "'runs/none'|no such run"),
    ("fit --data sizes", 2, "(6, 4)|(5, 5)|give --data.size [height,width]"),
    ("fit --data sizes --data.size [6]", 2, "--data.size|(6,)"),
    ("fit --data names.npz", 2, "names.npz|images|: --data.x, --data.y"),
    ("fit --data.dequantise yes", 2, "--data.dequantise must be true or false|'yes'"),
    ("fit --data.dequantise true", 2, "--data.dequantise|Bernoulli|is a mass"),
    ("fit --model.posterior.net ConvEncoder", 2, "ConvEncoder|ConvDecoder|likelihood"),
    ("fit --seed x", 2, "--seed|'x'"),
    ("fit --seed 99999999999999999999999 --steps 1", 2, "--seed"),
    ("fit --latent-dim 0", 2, "--latent-dim|0"),
    ("fit --latent-dim x", 2, "--latent-dim|'x'"),
    ("fit --batch-size 0", 2, "--batch-size|0"),
    ("fit --batch_size x", 2, "--batch_size|'x'"),
    ("fit --beta -1", 2, "--beta|-1"),
    ("fit --temperature 0.5", 2, "--temperature|relaxed"),
    ("fit --temperature {warm:3}", 2, "--temperature"),
    ("fit --beta {warm:3}", 2, "--beta"),
    ("fit --beta.linear_warm_up 0", 2, "linear_warm_up|0"),
    ("fit --beta.linear_warm_up 1.5", 2, "--beta.linear_warm_up|1.5|fraction"),
    ("fit --fit.validate-every 2.5", 2, "--fit.validate-every|2.5|fraction"),
    ("fit --fit.stopping.patience 0", 2, "patience|0"),
    ("fit --fit.stopping.patience 3 --data.validation 0", 2, "fit.stopping|--data.validation"),
    ("fit --fit.clip_norm -1 --steps 1", 2, "--fit.clip_norm|-1"),
    ("fit --fit.num_particles 3", 2, "--fit.num_particles|3|--estimator.num_particles"),
    ("fit --fit.num_particles {milestones:[1]}", 2, "--fit.num_particles.values is missing"),
    ("fit --fit.stopping {}", 2, "--fit.stopping.patience is missing"),
    ("fit --fit.stopping.patienc 3", 2, "--fit.stopping.patienc|patience"),
    ("fit --fit.beta {linear_warm_up:{}}", 2, "--fit.beta.linear_warm_up.steps is missing"),
    ("fit --fit.beta.cyclical_warm_up.x 3", 2, "--fit.beta.cyclical_warm_up.x|period"),
    ("fit --prior GaussianMixture", 2, "--prior.components is missing: GaussianMixture"),
    ("fit --prior VampPrior", 2, "--prior.pseudo_inputs is missing: VampPrior"),
    ("fit --lr-schedule CosineAnnealingLR", 2, "--lr-schedule.T_max is missing"),
    ("fit --fit.keep 0 --steps 1", 2, "--fit.keep|0"),
    ("fit --prior.component 3 --prior GaussianMixture", 2, "--prior.component|'components'"),
    ("fit --prior Mixture", 2, "--prior|'Mixture'|'GaussianMixture'"),
    ("fit --likelihood Gauss", 2, "--likelihood|'Gauss'"),
    ("fit --estimator IWAE", 2, "--estimator|'IWAE'"),
    ("fit --optimizer Adan", 2, "--optimizer|'Adan'|'Adam'"),
    ("fit --optimizer.betas [0.9]", 2, "--optimizer.betas|[0.9]"),
    ("fit --lr-schedule StepLR", 2, "--lr-schedule.step_size is missing: StepLR needs it"),
    ("fit --lr-schedule StepLR --lr-schedule.step_size 2.5", 2, "--lr-schedule.step_size|2.5"),
    ("fit --data mnits", 2, "--data|'mnits'|mnist"),
    ("fit --data no.npz", 1, "no.npz"),
    ("fit --data broken.npz", 2, "broken.npz"),
    ("fit --data broken.npy", 2, "broken.npy"),
    ("fit --data empty", 1, "empty"),
    ("fit --data holes.npy --data.scale 1", 2, "nan|--data.missing nan"),
    ("fit --data.missing nan", 2, "--data.missing|digits"),
    ("fit --data.missing maybe", 2, "--data.missing|'maybe'"),
    ("fit --data.scale 0 --data table.npy", 2, "--data.scale|0"),
    ("fit --data.validation 2", 2, "--data.validation|2"),
    ("fit --data.test_fraction 2 --data table.npy", 2, "--data.test_fraction|2"),
    ("fit --data.binarise so", 2, "--data.binarise|'so'"),
    ("fit --labels 100", 2, "--labels|SemiSupervisedVAE"),
    ("fit ssvae --labels 95", 2, "--labels|95"),
    ("fit ssvae --data table.npy --data.scale 1", 2, "data.labels|'table'|no labels"),
    ("fit --device abacus", 2, "--device|'abacus'"),
    ("fit --devices.accelerator tpu", 2, "--devices.accelerator|'tpu'"),
    ("fit --devices 0 --steps 1", 2, "--devices|0"),
    ("fit --devices x --steps 1", 2, "--devices|'x'"),
    ("fit --devices.strategy so --steps 1", 2, "devices|'so'"),
    ("fit --precision 16", 2, "--precision|16"),
    ("fit --logger wandb", 2, "--logger|'wandb'"),
    ("fit --out file", 1, "file"),
    ("fit --out file/x --steps 1", 1, "file"),
    ("fit --init none", 2, "--init none"),
    ("fit --init empty", 2, "--init empty"),
    ("fit --init unfinished", 2, "--init unfinished|--resume"),
    ("fit --quiet=3", 2, "--quiet"),
    ("fit --model.prior.components 3", 2, "--model.prior.components|StandardNormal"),
    ("fit --prior ConditionalFlow", 2, "--prior.context_features|ConditionalFlow"),
    ("fit --estimator.particles 3", 2, "--estimator.particles|'num_particles'"),
    ("fit --estimator.num_particles x", 2, "--estimator.num_particles|'x'"),
    ("fit --estimator.num_particles 0", 2, "--estimator.num_particles|0"),
    ("fit --optimizer.lr.x 3", 2, "--optimizer.lr.x|0.001"),
    ("fit --prior Flow --estimator AnalyticKLELBO --steps 1", 2, "Trace_ELBO"),
    ("fit --data mnist --data.root /proc/none", 1, "mnist|/proc/none"),
    ("fit --out /proc/none/x --steps 1", 1, "/proc/none"),
]
OTHERS = [
    ("fti", 2, "'fti'|did you mean fit?"),
    ("--quiet fit", 2, "--quiet"),
    ("--versoin", 2, "did you mean --version?"),
    ("reproduce cs236 --part xyz", 2, "error: --part must be rows of cs236|'xyz'"),
    ("reproduce cs236 --out records", 2, "error: records/r/seed-0|give another --out"),
    ("reproduce cs235", 2, "'cs235'|cs236"),
    ("export", 2, "RUN|--to|ppl-vae export RUN"),
    ("export run", 2, "--to is missing"),
    ("export run --to onxx", 2, "--to|onnx, torch|'onxx'"),
    ("export run --too onnx", 2, "--too|did you mean --to?"),
    ("export nowhere --to torch", 2, "RUN|nowhere"),
    ("export unfinished --to torch", 2, "unfinished|--resume"),
    ("export run --to torch --programs encodr", 2, "encoder, decoder, log_prob|'encodr'"),
    ("export run --to torch --programs decoder --out file", 1, "file"),
    ("list piors", 2, "'piors'|did you mean priors?"),
    ("list priors more", 2, "'more'|[KIND]"),
    ("list --stepz", 2, "--stepz"),
    ("show", 2, "KIND|NAME|ppl-vae show KIND NAME"),
    ("show prior", 2, "NAME|ppl-vae show KIND NAME"),
    ("show part VampPrior", 2, "'part'|priors, posteriors"),
    ("show prior vamprior", 2, "'vamprior'|did you mean VampPrior?"),
    ("show prior Zzz", 2, "'Zzz'|accepted: Autoregressive"),
    ("show config gmvea", 2, "'gmvea'|did you mean gmvae?"),
    ("--steps 3", 2, "--steps"),
    ("--print-completion fish", 2, "--print-completion|bash|'fish'"),
    ("evaluate", 2, "RUN|ppl-vae evaluate RUN"),
    ("evaluate run more", 2, "'more'|ppl-vae evaluate RUN"),
    ("evaluate nowhere", 2, "RUN|nowhere"),
    ("evaluate empty", 2, "empty|config.yaml"),
    ("evaluate run/config.yaml", 2, "run/config.yaml|give run"),
    ("evaluate run/model", 2, "run/model is a saved pair|give its run, run"),
    ("evaluate pair", 2, "pair is a saved pair|ppl_vae.load"),
    ("evaluate unfinished", 2, "unfinished|--resume"),
    ("evaluate run --steps 3", 2, "--steps|ppl-vae fit"),
    ("evaluate run --num-sample 3", 2, "--num-sample|--num-samples"),
    ("evaluate run --num-samples x", 2, "--num-samples|'x'"),
    ("evaluate run --num_samples 0", 2, "--num-samples|0"),
    ("evaluate run --num-data some", 2, "--num-data|'some'"),
    ("evaluate run --gap-data -1", 2, "--gap-data|-1"),
    ("evaluate run --sections calibrations", 2, "--sections|predictive checks|'calibrations'"),
    ("evaluate run --sections disentanglement", 2, "disentanglement|known factors|sections"),
    ("evaluate run --seed", 2, "--seed needs a value"),
    ("evaluate run --seed -1", 2, "--seed|-1"),
    ("evaluate run --seed 99999999999999", 2, "--seed|99999999999999"),
    ("evaluate run --device abacus", 2, "--device|'abacus'"),
    ("evaluate run --device cpu:x", 2, "--device|'cpu:x'"),
    ("report", 2, "RUN|ppl-vae report RUN"),
    ("report run run", 2, "twice"),
    ("report run nowhere", 2, "nowhere"),
    ("report run --out file", 1, "file"),
    ("sample", 2, "RUN|ppl-vae sample RUN"),
    ("sample pair", 2, "pair is a saved pair"),
    ("sample run -n 0", 2, "-n|0"),
    ("sample run -n many", 2, "-n|'many'"),
    ("sample run --number", 2, "--number"),
    ("sample run --file x.gif", 2, "--file|'x.gif'"),
    ("sample run --out x.gif", 2, "--out|'x.gif'"),
    ("sample run --file runs/missing/x.png", 2, "--file runs/missing/x.png|runs/missing"),
    ("sample run --fil x.png", 2, "--fil|did you mean --file?"),
    ("reconstruct", 2, "RUN|ppl-vae reconstruct RUN"),
    ("reconstruct run -n 1.5", 2, "-n|'1.5'"),
    ("reconstruct run --draw", 2, "--draw"),
    ("reconstruct run --out none/x.npy", 2, "--out none/x.npy"),
    ("encode", 2, "RUN|ppl-vae encode RUN [DATA]"),
    ("encode nowhere", 2, "RUN|nowhere"),
    ("encode empty", 2, "empty|config.yaml"),
    ("encode unfinished", 2, "unfinished|--resume"),
    ("encode pair", 2, "DATA is missing: pair is a saved pair"),
    ("encode run more stuff", 2, "'stuff'|ppl-vae encode RUN [DATA]"),
    ("encode run mnits", 2, "DATA must be one of digits, mnist|'mnits'"),
    ("encode run no.npy", 1, "DATA|no.npy"),
    ("encode run broken.npy", 2, "DATA|broken.npy"),
    ("encode run names.npz", 2, "names.npz|images|--data.x"),
    ("encode run table.npy", 2, "(batch, 64)|(40, 5)"),
    ("encode run holes.npy", 2, "nan|--data.missing nan"),
    ("encode run sizes", 2, "(6, 4)|(5, 5)|--data.size"),
    ("encode run table.npy --split train", 2, "--split train|'table.npy' has no splits"),
    ("encode run digits --split all", 2, "--split|all"),
    ("encode run digits --data.scale 3", 2, "--data.scale does not apply to DATA 'digits'"),
    ("encode run table.npy --data.grey true", 2, "--data.grey does not apply to DATA 'table.npy'"),
    ("encode run table.npy --data.scale x", 2, "data.scale|'x'"),
    ("encode run table.npy --data.scale 0", 2, "--data.scale|0"),
    ("encode run --data.scale 3", 2, "--data.scale is for DATA"),
    ("encode run --data.scal 3", 2, "--data.scal"),
    ("encode run --steps 3", 2, "--steps|ppl-vae fit"),
    ("encode run --samples 0", 2, "--samples|0"),
    ("encode run --samples many", 2, "--samples|'many'"),
    ("encode run --out z.txt", 2, "--out must end in one of .csv, .npy, .npz|'z.txt'"),
    ("explore run --export p.txt", 2, "--export must end in .html, got 'p.txt'"),
    ("encode run --out none/z.npy", 2, "--out none/z.npy|none"),
    ("encode run --out z.npy --labels", 2, "--labels|.npz or a .csv"),
    ("encode run --device abacus", 2, "--device|'abacus'"),
    ("fit --steps 1e3x", 2, "--steps|'1e3x'"),
    ("fit --data table.npy --data.memory_map yes", 2, "--data.memory_map must be true or false"),
    (
        "fit --data names.npz --data.memory_map true",
        2,
        "--data.memory_map needs a .npy file|names.npz",
    ),
]


@pytest.mark.parametrize(("words", "code", "named"), FIT + OTHERS, ids=lambda v: str(v)[:60])
def test_a_wrong_command_line(words, code, named, here, capsys, as_users_see_it):
    before = sorted(os.listdir())
    assert main(words.split()) == code
    written = capsys.readouterr()
    said = written.err
    assert written.out == ""
    assert said.startswith("ppl-vae: error: ")
    assert all(name in said for name in named.split("|")), said
    assert len(said.splitlines()) <= 2, said
    assert RAW.search(said) is None, said
    assert sorted(os.listdir()) == before


def test_there_are_enough_wrong_command_lines():
    assert len({words for words, *_ in FIT + OTHERS}) >= 60
