"""Finding super weights: probe → spikes → search → null → ablation → verify → record; run.py goes from end to end.

May be imported from every room above (lottery, watch, …). Imports from models, data, runtime, config and errors only.
"""
