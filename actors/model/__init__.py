"""The base model, its tokenizer, and the LoRA adapter on it."""
