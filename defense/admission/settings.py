"""Settings of admission. No torch here."""

from __future__ import annotations

from pydantic import PositiveFloat

from defense.settings import Settings


class AdmissionConfig(Settings):
    """Bounds that an update must keep to be considered at all."""

    max_norm: PositiveFloat | None = None
    """Largest L2 norm of a client's delta. None: `norm_factor` x learning rate x steps x sqrt(number of values)."""
    norm_factor: PositiveFloat = 4.0
    """AdamW moves a value by about the learning rate per step, so an honest delta stays near factor 1."""
    value_factor: PositiveFloat | None = 2.02
    """No value of a delta may have moved further than this times what AdamW can do in so many steps, whatever the gradients
    (`adamw_reach`); an honest client cannot exceed factor 1, nor 2 when it trains at twice the rate that it was asked for.
    Bounds both factors, so it stops scaled updates and most that are ruinous in A and B alone. None: no such bound, for
    clients with another optimizer."""
    product_factor: PositiveFloat | None = 3.0
    """No module's B A may have moved further, in the Frobenius norm, than this times what a round moves it by where the values'
    signs are independent (`defense/admission/products.py`): factors that stay within their bounds can conspire to move it up to
    sqrt(rank) times as far, at the asked rate. So 3 refuses no gradients of AdamW up to rank 9. Honest clients of the embedded
    world stay below 0.54 in ten rounds, 0.92 at twice the rate (seeds 0 to 5, IID or not, A frozen or not); signs agree the more
    the fewer the steps, and with a single one it is 1.2 and 2.4. None: no such bound, for clients with another optimizer."""
