"""The cost model: what is measured, what a run will cost, and what is decided from that.

Measured: ``step_times``, ``disk_speed``, ``memory_probe`` and ``process_memory``, collected by
``training_profile``. Costs: ``measured`` (their values), ``memory`` and ``attribution_cost``.
Decided: ``query_passes`` and ``checkpointing_choice``.
"""
