"""The adapter merged into its base: a model as any other, for servers that take no adapters."""

from __future__ import annotations

from pathlib import Path

from cluster.adapter.loading import load_adapted
from cluster.errors import ConfigError


def merge_adapter(run: Path, output: Path) -> Path:
    """Write the merged model in safetensors, with its tokenizer, and return the directory.

    The weights keep the base's type: in bfloat16 what the adapter adds is rounded to it. A quantised base is merged at its
    quantised values, on which the adapter was trained, and written without quantisation, whose steps are coarser than what an
    adapter adds.

    Raises:
        ConfigError: the directory is not empty, or as `load_adapted`. ModelError: the base model cannot be loaded.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"--output {output} is not empty; name a new or empty directory")
    model, tokenizer = load_adapted(run, dequantized=True)
    merged = model.merge_and_unload(safe_merge=True)
    merged.save_pretrained(str(output))
    tokenizer.save_pretrained(output)
    return output
