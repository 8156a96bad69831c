"""Clients outside the cluster: keys, enrolment, signed requests, the gateway, and the participant's own side."""
