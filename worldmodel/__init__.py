"""Learns a model of a robot and its world from logs alone."""
