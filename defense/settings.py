"""What the settings classes of this package share. No torch here: the command line reads them."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic_core import PydanticKnownError


class Settings(BaseModel):
    """Base of every settings class: unknown keys are errors, numbers are finite, and values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def one_of(names: Collection[str]) -> AfterValidator:
    """A check that a text is one of these names, with the error that pydantic gives for a Literal of them."""

    def check(name: str) -> str:
        if name not in names:
            *others, last = (repr(known) for known in names)
            raise PydanticKnownError("literal_error", {"expected": f"{', '.join(others)} or {last}"})
        return name

    return AfterValidator(check)
