"""A base whose linear weights are held in 8 or 4 bits, through bitsandbytes: `model.quantization`, or as its files say."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch

from actors.config import ModelConfig
from actors.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.utils.quantization_config import BitsAndBytesConfig

LIBRARY = "bitsandbytes"


def check_library(config: ModelConfig) -> None:
    """Raises ModelError where bitsandbytes is asked for and cannot be imported."""
    if config.quantization is None:
        return
    try:
        importlib.import_module(LIBRARY)
    except Exception as error:  # a native library that does not fit raises what it likes
        raise ModelError(
            f"model.quantization={config.quantization} needs {LIBRARY}, which this machine cannot import "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); on every node: "
            f"pip install 'safe-fedllm[{LIBRARY}]', or leave model.quantization out"
        ) from error


def quantization_settings(config: ModelConfig, saved: Any) -> BitsAndBytesConfig | None:
    """What `model.quantization` asks transformers for.

    8bit: LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339), with the authors' threshold of 6 for outliers; the paper's setting.
    4bit: NF4 with doubly quantised scales, as in QLoRA (Dettmers et al. 2023, arXiv 2305.14314); it computes in `model.dtype`.

    Args:
        saved: The quantisation that the base's own files name, or None.

    Raises:
        ModelError: both name one.
    """
    if config.quantization is None:
        return None
    if saved is not None:
        raise ModelError("its files are quantised already (quantization_config in config.json); leave model.quantization out")
    from transformers.utils.quantization_config import BitsAndBytesConfig

    if config.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=6.0)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, config.dtype),
    )


def is_quantized(model: PreTrainedModel) -> bool:
    return getattr(model, "hf_quantizer", None) is not None


def keep_exact(model: PreTrainedModel) -> None:
    """Make each 4-bit layer compute on a CPU what its weights say, whatever ran before it.

    With AVX512-BF16, bitsandbytes repacks 4-bit weights for good in the first pass without gradients, and computes in another way
    from then on: a client's training would depend on whether its actor had evaluated before. And it gives wrong values where the
    rows of a weight are no whole number of blocks (seen in 0.50).

    Raises:
        ModelError: names a weight with such rows.
    """
    for name, module in model.named_modules():
        if (state := getattr(module, "quant_state", None)) is None:
            continue
        if model.device.type == "cpu" and state.shape[-1] % state.blocksize:
            raise ModelError(
                f"{name} has rows of {state.shape[-1]} values, and on a CPU {LIBRARY} is wrong in 4 bits unless they are a "
                f"multiple of {state.blocksize}; use a GPU, model.quantization=8bit, or none"
            )
        setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - of Linear4bit, which types do not know here
