"""Launching Lightning Fabric, and moving a pair to its device."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

from ppl_vae.evaluation.inputs import parameter_of
from ppl_vae.protocols import ModelAndGuide, check_pair
from ppl_vae.training.precision import MIXED


def launch(fabric: Fabric | None, pair: ModelAndGuide) -> Fabric:
    """Return a launched Fabric; by default with torchrun's processes, or on the pair's device."""
    check_pair("fit", pair)
    if fabric is None:
        device = parameter_of(pair).device
        here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        if here > 1 or int(os.environ.get("WORLD_SIZE", 1)) > 1:
            fabric = Fabric(
                accelerator="cpu" if device.type == "cpu" else "auto",
                devices=here,
                num_nodes=int(os.environ["WORLD_SIZE"]) // here,
                strategy="ddp_find_unused_parameters_true",
            )
        else:
            devices: Any = 1 if device.index is None else [device.index]
            fabric = Fabric(accelerator=device.type, devices=devices)
    if not isinstance(fabric.strategy, (SingleDeviceStrategy, DDPStrategy)):
        kind = type(fabric.strategy).__name__
        raise ValueError(
            f"fit: strategy must be 'auto' or 'ddp', which keep all weights in each process, got "
            f"{kind}"
        )
    precision = fabric.strategy.precision.precision
    if precision not in ("32-true", "64-true", MIXED):
        raise ValueError(
            f"fit: precision must be '32-true', '64-true' or 'bf16-mixed' (networks in bfloat16, "
            f"densities in float32), got {precision!r}: log-densities need more digits"
        )
    if not fabric._launched:
        fabric.launch()
    return fabric


def avoid_gpu_search() -> None:
    """Keep optimisers from searching for a GPU driver at each step where there is no GPU.

    They ask torch for GPUs. Lightning sets an environment variable, at import, that makes torch ask
    the driver's library, which takes 0.1 to 0.2 ms where there is none.
    """
    if not torch.cuda.is_available():
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


def on_device(pair: ModelAndGuide, fabric: Fabric) -> Tensor:
    """Move a pair to its device; return a parameter, whose device and dtype data must have."""
    for program in (pair.model, pair.guide):
        fabric.to_device(fabric.strategy.precision.convert_module(program))
    return parameter_of(pair)
