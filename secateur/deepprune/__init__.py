"""Redundancy pruning: parallel traces, of which the redundant ones stop while they run.

In: a problem, an engine, a judge (judges/) and a rule (rule.py). Out: an answer, and what it cost (prune.py;
controller.py for many problems, pruner.py for many callers; problem_run.py is one problem while it runs). Who starts
and who goes on is decided by a policy (gathering.py, finishing.py), the same live and in replay.py. To change a rule,
change its policy; both follow. Traces one by one are judged by a scorer (scorer.py), for the rules of best_first.py.
"""
