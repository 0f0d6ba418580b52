"""The cost model: what is measured of a training, what it will cost, and what follows from that.

- Measured: ``step_times``, ``disk_speed``, ``memory_probe`` and ``process_memory``, collected by
  ``training_profile``. The values are those of ``measured``.
- Decided: ``query_passes`` (queries in one replay), then ``checkpointing_choice``.
- Predicted: ``peak_memory``, and ``attribution_cost`` for queries added to a finished run.

``measured``, ``query_passes``, ``checkpointing_choice``, ``peak_memory`` and ``attribution_cost``
import no torch.
"""
