"""Redundancy pruning: parallel traces, of which the redundant ones stop while they run."""
