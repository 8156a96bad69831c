"""Features of an update: from a delta (LoRA tensors now minus then) to one vector.

A feature groups the tensors it reads into blocks. Each block is flattened, concatenated in sorted key order and divided
by its own L2 norm; the vector is the blocks one after another. Which tensors lie in which transformer layer is read from
the model's module tree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

_SMALLEST_NORM = 1e-12


@dataclass(frozen=True, slots=True)
class Block:
    """Tensors that are normalised together."""

    name: str
    tensors: tuple[str, ...]
    """PEFT parameter names, sorted."""


def _first_layer_b(layers: Mapping[str, int]) -> tuple[Block, ...]:
    first = min(layers.values(), default=None)
    names = tuple(sorted(name for name, layer in layers.items() if layer == first and ".lora_B." in name))
    return (Block(f"layer {first}", names),) if names else ()


def _per_module(layers: Mapping[str, int]) -> tuple[Block, ...]:
    return _group(layers, lambda name: re.sub(r"\.lora_[AB]\.weight$", "", name))


def _per_layer(layers: Mapping[str, int]) -> tuple[Block, ...]:
    return _group(layers, lambda name: f"layer {layers[name]}")


def _group(layers: Mapping[str, int], title_of: Callable[[str], str]) -> tuple[Block, ...]:
    """Blocks in order of layer and title."""
    groups: dict[tuple[int, str], list[str]] = {}
    for name in sorted(layers):
        groups.setdefault((layers[name], title_of(name)), []).append(name)
    return tuple(Block(title, tuple(names)) for (_, title), names in sorted(groups.items()))


FEATURES: dict[str, Callable[[Mapping[str, int]], tuple[Block, ...]]] = {
    "first_layer_b": _first_layer_b,
    "all_layers": _per_module,
    "per_layer": _per_layer,
    "module_cosines": _per_module,
}
"""Feature name -> the blocks it makes of PEFT parameter name -> layer index.

`first_layer_b` is the paper's (docs/method.md section 2): the B matrices of the first transformer layer in one block. The
others read A and B of every layer, so that poison hidden in later layers is seen: `all_layers` has a block per module,
`per_layer` a block per layer for a classifier of its own, `module_cosines` a block per module whose cosines to the
class means are classified.
"""


def feature_blocks(feature: str, layers: Mapping[str, int]) -> tuple[Block, ...]:
    """The blocks of `feature` in an adapter whose parameters lie in these layers.

    Raises ValueError for an unknown feature, or when there is no LoRA tensor for it.
    """
    if feature not in FEATURES:
        raise ValueError(f"unknown probe feature {feature!r}; known: {sorted(FEATURES)}")
    blocks = FEATURES[feature](layers)
    if not blocks:
        raise ValueError(
            f"the feature {feature} finds no LoRA tensor to read: the adapter has no module inside the transformer layers"
        )
    return blocks


def tensor_names(feature: str, layers: Mapping[str, int]) -> tuple[str, ...]:
    """Sorted names of the tensors that `feature` reads; raises as `feature_blocks` does."""
    return tuple(sorted(name for block in feature_blocks(feature, layers) for name in block.tensors))


def block_sizes(blocks: Sequence[Block], shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Number of values of each block; they sum to the feature's d."""
    return tuple(sum(int(np.prod(shapes[name])) for name in block.tensors) for block in blocks)


def extract(blocks: Sequence[Block], delta: Mapping[str, torch.Tensor]) -> np.ndarray:
    """The feature vector (d,) float32 of a delta that holds at least the blocks' tensors."""
    return np.concatenate([_unit_concatenation([delta[name] for name in block.tensors]) for block in blocks])


def _unit_concatenation(tensors: Sequence[torch.Tensor]) -> np.ndarray:
    """Flattened, concatenated and divided by the L2 norm; a norm below 1e-12 divides by 1 (docs/method.md section 2)."""
    flat = np.concatenate([tensor.reshape(-1).numpy().astype(np.float64) for tensor in tensors])
    norm = float(np.sqrt(np.add.reduce(flat * flat)))
    return (flat / (norm if norm >= _SMALLEST_NORM else 1.0)).astype(np.float32)


def layer_of_modules(model: nn.Module) -> dict[str, int]:
    """Map the name of each LoRA module in a transformer layer to the index of that layer, from 0.

    A LoRA module is one that has a child named `lora_B` (peft's layers). The layers are the first `ModuleList` in the tree
    that holds LoRA modules, whatever its name (`layers`, `h`, `blocks` ...), so no table of model families is needed.
    """
    targets = [name for name, module in model.named_modules() if hasattr(module, "lora_B")]
    for list_name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList):
            continue
        prefix = f"{list_name}." if list_name else ""
        inside = [name for name in targets if name.startswith(prefix)]
        if inside:
            return {name: int(name[len(prefix) :].split(".", 1)[0]) for name in inside}
    return {}
