"""A worker ignores variables of another job in the shell, and does not pass them on."""

from collections.abc import Callable
from typing import Any

import pytest

from engine.distributed.local_ranks import RENDEZVOUS, is_rank
from engine.runs.environment import (
    child_environment,
    environment_for_a_run,
    environment_of_a_run,
)

OF_ANOTHER = {
    "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "localhost", "MASTER_PORT": "29517", "NCCL_COMM_ID": "10.0.0.1:1",
    "SLURM_PROCID": "1", "OMPI_COMM_WORLD_RANK": "1", "PMI_RANK": "1",
    "ACCELERATE_USE_FSDP": "true",
}  # fmt: skip
STAYS = {"SLURM_CONF": "/etc/slurm.conf", "PATH": "/bin", "NCCL_DEBUG": "INFO"}
Start = Callable[..., dict[str, Any]]


def test_launcher_variables_are_not_inherited_or_stored() -> None:
    everything = {**OF_ANOTHER, **STAYS, "TORCHELASTIC_RUN_ID": "none"}
    started = child_environment(everything)
    assert set(started) - {"PYTHONPATH"} == set(STAYS)
    assert environment_of_a_run(everything) == {"NCCL_DEBUG": "INFO"}
    # What an earlier version stored, or another client sent.
    assert set(child_environment(environment_for_a_run(STAYS, everything))) == set(started)


def test_a_stored_environment_loads_no_code_and_holds_no_secret() -> None:
    ours = {"PATH": "/bin", "LD_LIBRARY_PATH": "/ours", "HF_ENDPOINT": "https://me:pw@host"}
    stored = {
        "PATH": "/evil", "PYTHONPATH": "/evil", "PYTHONSTARTUP": "/evil", "LD_PRELOAD": "/evil.so",
        "LD_LIBRARY_PATH": "/evil", "NCCL_NET_PLUGIN": "/evil.so", "CUDA_INJECTION64_PATH": "/evil",
        "OMP_TOOL_LIBRARIES": "/evil.so", "TORCH_EXTENSIONS_DIR": "/evil", "HF_PASSWORD": "p",
        "HF_HUB_TOKEN": "t", "HF_ENDPOINT": "https://you:pw@evil", "OMP_NUM_THREADS": "3",
    }  # fmt: skip
    assert environment_of_a_run(stored) == {"OMP_NUM_THREADS": "3"}
    assert environment_for_a_run(ours, stored) == {**ours, "OMP_NUM_THREADS": "3"}


@pytest.mark.parametrize("size", ["1", "2"])
def test_worker_ignores_variables_of_another_job(
    size: str, config: dict[str, Any], start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAGIC_COLLECTIVE_SECONDS", "1")
    for name, value in {**OF_ANOTHER, "WORLD_SIZE": size}.items():
        monkeypatch.setenv(name, value)
    if size == "1":
        monkeypatch.delenv("MASTER_ADDR")
    assert start(config)["ok"]


@pytest.mark.parametrize("starter", [RENDEZVOUS, "TORCHELASTIC_RUN_ID"])
def test_rank_variables_count_only_with_a_launcher(
    starter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not is_rank()
    monkeypatch.setenv(starter, "here")
    assert is_rank()
