"""Who counts, and how much? Admission, levels, the round gate, aggregation rules. Pure: state in, state out."""
