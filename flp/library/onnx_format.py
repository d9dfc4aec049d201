"""A traced policy as ONNX, run by onnxruntime: the extra `onnx`."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flp.system.errors import FLPError, first_line

Run = Callable[[Sequence[NDArray[Any]]], NDArray[np.float32]]
"""A loaded file as a function: observations and noise, in the contract's order, to actions."""

METADATA = "contract"


def to_onnx(program: torch.export.ExportedProgram, contract: dict[str, Any]) -> bytes:
    """One file of graph, weights and contract (as the metadata `contract`).

    Raises:
        FLPError: the extra is not installed, or ONNX lacks an operation of the policy.
    """
    _require("onnx", "onnxscript", "onnxruntime")
    inputs, outputs = ([entry["name"] for entry in contract[side]] for side in ("inputs", "outputs"))
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):  # it prints its steps
            warnings.simplefilter("ignore")
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            made = torch.onnx.export(program, input_names=inputs, output_names=outputs, external_data=False)
    except Exception as error:  # the converter's errors have no common type
        raise FLPError(f"{contract['agent']} cannot be exported to ONNX: {first_line(error)}") from error
    assert made is not None
    made.model.metadata_props[METADATA] = json.dumps(contract)
    model = made.model_proto
    _name_batch(model.graph)
    written: bytes = model.SerializeToString()
    return written


def _name_batch(graph: Any) -> None:
    """Name the batch axis `batch` instead of the tracer's symbol."""
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = re.sub(rf"\b{re.escape(symbol)}\b", "batch", axis.dim_param)


def session(written: bytes) -> Run:
    """The file loaded in onnxruntime, on one thread."""
    _require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    loaded = onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in loaded.get_inputs()]

    def run(inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        actions: NDArray[np.float32] = loaded.run(None, dict(zip(names, inputs, strict=True)))[0]
        return actions

    return run


def _require(*packages: str) -> None:
    if missing := [package for package in packages if find_spec(package) is None]:
        raise FLPError(f"ONNX needs {', '.join(missing)}: pip install -c constraints.txt -e '.[onnx]'")
