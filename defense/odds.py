"""When a ratio of likelihoods says something. No torch here."""

MENTION = 3.0
"""Odds below which evidence is "not worth more than a bare mention" (Kass and Raftery, "Bayes Factors", JASA 90, 1995, section
3.2)."""
