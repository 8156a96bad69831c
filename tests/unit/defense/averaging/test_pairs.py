"""defense/averaging/pairs.py: which parameters are a module's factors, and which stay frozen."""

import pytest

from defense.averaging.pairs import Pair, complete_pairs, frozen_names, lora_pairs

Q, V = "base_model.model.layers.10.q_proj", "base_model.model.layers.9.v_proj"
NAMES = [f"{module}.lora_{factor}.weight" for module in (Q, V) for factor in "BA"]


def test_factors_are_found_by_their_peft_names():
    assert lora_pairs(NAMES) == [
        Pair(a=f"{Q}.lora_A.weight", b=f"{Q}.lora_B.weight"),
        Pair(a=f"{V}.lora_A.weight", b=f"{V}.lora_B.weight"),
    ]


@pytest.mark.parametrize("odd", ["m.lora_A.weight", "m.lora_B.weight", "m.lora_magnitude_vector.weight"])
def test_a_parameter_without_its_partner_is_named(odd):
    with pytest.raises(ValueError, match=r"aggregation\.averaging=svd needs pairs of lora_A and lora_B; m\.lora_"):
        lora_pairs([*NAMES, odd])


def test_complete_pairs_leave_out_what_has_no_partner():
    odd = ["m.lora_A.weight", "n.lora_B.weight", "o.lora_magnitude_vector.weight"]
    assert complete_pairs([*odd, *NAMES]) == lora_pairs(NAMES)


def test_every_a_is_frozen_and_no_b():
    assert frozen_names(NAMES) == {f"{Q}.lora_A.weight", f"{V}.lora_A.weight"}
