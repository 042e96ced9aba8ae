"""One round of GRPO with TRL. In: a schedule's config and the round. Out: checkpoints that can be trusted,
train.jsonl, training.json.

job.py checks and holds all that is known before a model is loaded, TRL's keys too; data.py writes the round's
prompts; callbacks.py and the room steps/ make a kill cost little; handover.py and adapters.py make each checkpoint a
plain model, and record.py says what trained it; rollout_server.py watches vLLM.
"""
