"""The base model as it lies on disk or on a hub: its weights, its tokenizer, and the limits of what it can read.

transformers takes seconds to import, so it is imported where something is loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from actors.config import ModelConfig
from actors.data.chat import Tokenizer, fixed_template
from actors.errors import ModelError
from actors.model.files import check_no_adapter, find_folder, find_gguf, find_pointer, read_shapes, refuse_pointer
from actors.model.quantization import check_library, is_quantized, keep_exact, quantization_settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a base model can read."""

    embeddings: int
    """Rows of its embedding matrix: every token id lies below."""
    positions: int | None
    """Tokens of the longest text; None: the model states no limit."""


def load_base(config: ModelConfig, device: torch.device | None = None) -> tuple[PreTrainedModel, Tokenizer]:
    """Load a causal language model and its tokenizer; raises ModelError with the path and what to do.

    Args:
        device: Where a quantised model is quantised and stays; None: the CPU. Any other model is loaded on the CPU.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    check_library(config)
    with _loading(config) as path:
        check_no_adapter(path)
        read_shapes(path)
        gguf = _gguf(config)
        saved = getattr(AutoConfig.from_pretrained(path, **gguf, trust_remote_code=False), "quantization_config", None)
        quantization = quantization_settings(config, saved)
        loaded = AutoModelForCausalLM.from_pretrained(
            path,
            **gguf,
            dtype=getattr(torch, config.dtype),
            attn_implementation=config.attention,
            trust_remote_code=False,
            **({"quantization_config": quantization} if quantization else {}),  # None would undo what the files say
            device_map={"": device or torch.device("cpu")} if quantization or saved else None,
            ignore_mismatched_sizes=True,  # refused below, by name
            output_loading_info=True,
        )
        model, found = cast("tuple[PreTrainedModel, dict[str, Any]]", loaded)
        _check_complete(found)
        if gguf:  # its weights are dequantised, so the model is no longer what the file was
            vars(model.config).pop("quantization_config", None)
            del model.hf_quantizer
        keep_exact(model)
    model.generation_config = GenerationConfig()  # how text is generated is the evaluation's to say, not the model file's
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    return model.eval(), load_tokenizer(config)


def load_tokenizer(config: ModelConfig) -> Tokenizer:
    """Load the tokenizer of a base model alone; raises ModelError with the path and what to do."""
    from transformers import AutoTokenizer

    with _loading(config) as path:
        tokenizer = AutoTokenizer.from_pretrained(path, **_gguf(config), trust_remote_code=False)
        folder = find_folder(path)
        for name in tokenizer.vocab_files_names.values() if folder else ():
            refuse_pointer(folder / name)
        tokenizer.chat_template = fixed_template(tokenizer.chat_template)
    return tokenizer


def read_limits(config: ModelConfig) -> Limits:
    """The limits of the model, without its weights; raises ModelError with the path and what to do."""
    model = load_on_meta(config)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return Limits(embeddings=int(cast(torch.Tensor, model.get_input_embeddings().weight).shape[0]), positions=positions)


def load_on_meta(config: ModelConfig) -> PreTrainedModel:
    """The model on the meta device: its modules with their shapes, checked against the headers of its files; no weights.

    Of pickled or quantised weights, and of a hub's that are not cached yet, the shapes are checked only when they load.

    Raises:
        ModelError: as `load_base`.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.quantizers.auto import AutoHfQuantizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    check_library(config)
    with _loading(config) as path:
        check_no_adapter(path)
        shapes = read_shapes(path)
        architecture = AutoConfig.from_pretrained(path, **_gguf(config), trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(architecture, attn_implementation=config.attention, trust_remote_code=False)
        quantization = getattr(architecture, "quantization_config", None)
        quantization_settings(config, quantization)
        if quantization is not None:
            with suppress(RuntimeError):  # it misses a GPU, which this machine may lack and the clients' nodes have
                AutoHfQuantizer.from_config(quantization, pre_quantized=True).validate_environment(
                    device_map=None, weights_only=True
                )
        elif shapes is not None:
            saved = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
            model, found = type(model).from_pretrained(
                None,
                config=architecture,
                attn_implementation=config.attention,
                state_dict=saved,
                device_map="meta",
                ignore_mismatched_sizes=True,  # refused below, by name
                output_loading_info=True,
            )
            _check_complete(found)
    return model


def _gguf(config: ModelConfig) -> dict[str, str]:
    """What tells transformers to read a directory's GGUF file.

    Raises:
        ModelError: it would be quantised again.
    """
    name = find_gguf(str(config.path))
    if name and config.quantization:
        raise ModelError(
            f"{name} is dequantised to model.dtype as it loads, and model.quantization={config.quantization} would quantise it "
            "again; leave model.quantization out"
        )
    return {"gguf_file": name} if name else {}


def _check_complete(found: Mapping[str, Any]) -> None:
    """Raises ModelError when transformers would give tensors of the model random values.

    Args:
        found: Its account of a load; tied tensors are not missing.
    """
    if mismatched := sorted(found["mismatched_keys"]):
        name, saved, needed = mismatched[0]
        raise ModelError(
            f"{len(mismatched)} saved tensors have other sizes than config.json says, such as {name}: {tuple(saved)} in place of "
            f"{tuple(needed)}; config.json and weights must be of one model: download both again"
        )
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"the weights lack {len(missing)} tensors of the model, such as {missing[0]}, which would be random; "
            "download config.json and weights of one causal language model again"
        )


def fingerprint(model: PreTrainedModel) -> str:
    """Sixteen hexadecimal digits of a sample of every parameter, in bfloat16, so that they do not depend on the loaded type.

    Of a quantised model also of its scales, so that it never has the digits of the model that it was made from.
    """
    digest = hashlib.sha256()
    tensors = model.state_dict() if is_quantized(model) else dict(model.named_parameters())
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 1024)].to(torch.bfloat16).to(torch.float32).cpu().numpy()
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + np.ascontiguousarray(sample).tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def _loading(config: ModelConfig) -> Iterator[str]:
    """The model's path; what goes wrong in the block becomes a ModelError that names it."""
    if config.path is None:
        raise ModelError("model.path is not set: give a local directory or a hub name")
    try:
        yield config.path
    except Exception as error:  # transformers raises what it likes
        if isinstance(error, ModelError):
            why = str(error)
        elif Path(config.path).is_dir() and (pointer := find_pointer(Path(config.path))):
            why = f"{pointer} is a Git LFS pointer, not the file itself; fetch it with `git lfs pull` in that directory"
        elif "attn_implementation" in str(error):
            why = f"it does not support model.attention={config.attention}; set model.attention=eager"
        else:
            why = " ".join(str(error).split())[:400] or type(error).__name__
        raise ModelError(f"model.path={config.path} does not load as a causal language model: {why}") from error
