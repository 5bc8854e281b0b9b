"""Graphs of programs, by ``torch.export``, and as ONNX."""

from __future__ import annotations

import importlib
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram, export

Runner = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""Runs a graph that was read back from its bytes."""

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""What ONNX needs; the extra ``export``."""


def traced(module: torch.nn.Module, inputs: Mapping[str, Tensor]) -> ExportedProgram:
    """Return the graph of a module for batches of any size."""
    sizes = (tuple({0: Dim("batch")} for _ in inputs),)
    with _silent():
        graph = export(module, tuple(inputs.values()), dynamic_shapes=sizes, strict=False)
        # Parts that no output needs, such as the Cholesky factor of a normal's covariance.
        graph.graph_module.graph.eliminate_dead_code()
        graph.graph_module.recompile()
    return graph


def torch_file(graph: ExportedProgram, names: Sequence[str]) -> tuple[bytes, Runner]:
    """Return the bytes that ``torch.export.load`` reads, and what runs them."""
    file = io.BytesIO()
    with _silent():
        torch.export.save(graph, file)
        again = torch.export.load(io.BytesIO(file.getvalue())).module()
    return file.getvalue(), lambda inputs: tuple(again(*inputs))


def onnx_file(
    graph: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]
) -> tuple[bytes, Runner]:
    """Return the bytes of an ONNX file, and what runs them: onnxruntime, on the CPU."""
    runtime = libraries()["onnxruntime"]
    with _silent():
        graph = graph.run_decompositions({torch.ops.aten.lgamma.default: log_gamma})
        model = torch.onnx.export(
            graph,
            dynamo=True,
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
        assert model is not None
        content: bytes = model.model_proto.SerializeToString()
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(values: Sequence[Tensor]) -> Sequence[Tensor]:
        given = {n: v.numpy() for n, v in zip(inputs, values, strict=True)}
        return [torch.from_numpy(found) for found in session.run(list(outputs), given)]

    return content, run


def libraries() -> dict[str, Any]:
    """Return the packages that ONNX needs; ImportError names the extra that has them."""
    try:
        return {name: importlib.import_module(name) for name in PACKAGES}
    except ImportError as error:
        raise ImportError(
            f"to_onnx needs the packages {', '.join(PACKAGES)}: pip install 'ppl-vae[export]'"
        ) from error


def log_gamma(x: Tensor) -> Tensor:
    r"""Return log Γ(x) for x > 0, which ONNX lacks, by Stirling's series at x + 8 if x < 8.

    log Γ(w) = (w - 1/2) log w - w + log(2π)/2 + 1/12w - 1/360w³ + 1/1260w⁵ - ...; Abramowitz &
    Stegun, 6.1.41. Its error is below 1e-9, less than the rounding of float32.
    """
    small = x < 8
    low = x.clamp(max=8.0)  # products of large x would overflow
    product = low
    for i in range(1, 8):
        product = product * (low + i)
    w = torch.where(small, x + 8, x)
    inverse = 1 / w
    square = inverse * inverse
    series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))
    stirling = (w - 0.5) * w.log() - w + 0.5 * math.log(2 * math.pi) + series
    return torch.where(small, stirling - product.log(), stirling)


@contextmanager
def _silent() -> Iterator[None]:
    """Leave out what torch's exporters say of themselves."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
