"""Chat templates in the shapes of real ones, each with the tokens that it needs."""

from __future__ import annotations

from typing import Any

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As Qwen2 and SmolLM2 have it: a response ends with another token than the text does."""

THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As Qwen3: thoughts stand before the last response, and not before those in the history."""

NO_SYSTEM = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""As Gemma 2."""

BRACKETS = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
"""As Mistral: it takes no note of a prompt for the answer, and a response begins with a space."""

DATED = (
    "{{ bos_token }}{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ date_string }}<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""As Llama 3.1: it prints the date."""

ENDS = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""As Phi 3."""

PLAIN = "{% for m in messages %}### {{ m['role'] }}:\n{{ m['content'] }}\n### End\n{% endfor %}"
"""As templates of base models that people write: a response ends with text."""

SHAPES: dict[str, tuple[str, list[str]]] = {
    "chatml": (CHATML, ["<|im_start|>", "<|im_end|>"]),
    "thinking": (THINKING, ["<|im_start|>", "<|im_end|>"]),
    "no system": (NO_SYSTEM, ["<start_of_turn>", "<end_of_turn>"]),
    "brackets": (BRACKETS, []),
    "dated": (DATED, ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
    "ends": (ENDS, ["<|user|>", "<|assistant|>", "<|end|>"]),
    "plain": (PLAIN, []),
}
"""Name -> the template and its special tokens."""


def with_shape(tokenizer: Any, name: str) -> Any:
    """Give a tokenizer a template of this shape with its tokens; text ends with `<eos>`, and begins with `<bos>`."""
    template, tokens = SHAPES[name]
    tokenizer.add_special_tokens({"eos_token": "<eos>", "bos_token": "<bos>"})
    tokenizer.add_tokens(tokens, special_tokens=True)
    tokenizer.chat_template = template
    return tokenizer
