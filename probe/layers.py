"""Which transformer layer a LoRA module belongs to, read from the module tree.

No table of model families: the layers are the first `ModuleList` in the tree that holds LoRA modules, whatever it is
called (`layers`, `h`, `blocks` ...).
"""

from __future__ import annotations

from torch import nn


def layer_of_modules(model: nn.Module) -> dict[str, int]:
    """Map each LoRA module's name to the index of its layer, from 0. Modules outside the layers are left out.

    A LoRA module is one that has a child named `lora_B` (peft's layers).
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
