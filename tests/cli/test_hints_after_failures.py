"""The hint after a failure that a resume would repeat does not advise to resume."""

from typing import Any

import pytest

from magic_tui.client.outcome import RunFailedError


@pytest.mark.parametrize("repeats", [True, False])
@pytest.mark.parametrize("state", ["failed", "succeeded"])
def test_resume_is_advised_only_where_it_may_help(state: str, repeats: bool) -> None:
    job: dict[str, Any] = {"number": 1, "state": "failed", "exit_code": 1, "repeats": repeats}
    job["reason"] = "the loss is not finite at step 3; lower training.optimizer.learning_rate"
    error = RunFailedError({"id": "r1", "state": state, "steps": 3}, job)
    assert ("magic resume" in error.hint) is not repeats
    assert ("fix the reported cause first" in error.hint) is repeats
