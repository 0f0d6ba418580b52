"""What the README says can be done, done."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    code = code.replace('"sample_configs', f'"{ROOT}/sample_configs')
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code, names)
    scores = names["scores"]
    assert scores.weights.shape == (1, 4)  # type: ignore[attr-defined]
    assert (scores.weights != 0).all()  # type: ignore[attr-defined]


def test_a_task_of_one_s_own(tmp_path: Path) -> None:
    import numpy as np
    import yaml

    from engine.worker.main import main

    task, _ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "my_task.py").write_text(f"import engine, torch\nimport numpy as np\n\n{task}")
    np.save(tmp_path / "heights.npy", np.random.default_rng(0).normal(size=(6, 3)))
    source = {"path": str(tmp_path / "heights.npy")}
    config = {
        "task": "my_task.py:Heights",
        "model": {"path": "linear", "dtype": "float64"},
        "data": source,
        "training": {"batch_size": 3},
        "queries": dict(source),
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    runs = str(tmp_path / "runs")
    assert main(["run", "--config", str(tmp_path / "run.yaml"), "--runs", runs, "--id", "r"]) == 0


def test_file_tree_names_every_module() -> None:
    (tree,) = re.findall(r"## What is where\n\n```\n(.*?)```", README, re.DOTALL)
    named = set(re.findall(r"[\w.]+\.py", tree))
    for package in ("engine", "magic_tui"):
        for file in (ROOT / package).rglob("*.py"):
            if file.name != "__init__.py" and file != ROOT / "magic_tui" / "__main__.py":
                assert file.name in named, f"{file.relative_to(ROOT)} is not in the README"


def test_config_example_is_valid(tmp_path: Path) -> None:
    from engine.runs.read_config import read_config

    texts, images = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "run.yaml").write_text(texts)
    assert read_config(tmp_path / "run.yaml").training.epochs == 2
    (tmp_path / "run.yaml").write_text(images)
    assert read_config(tmp_path / "run.yaml").model.path == "resnet9"


@pytest.mark.parametrize("sample", sorted(p.name for p in (ROOT / "sample_configs").glob("*.yaml")))
def test_sample_configs_are_valid(sample: str) -> None:
    from engine.runs.read_config import read_config

    assert read_config(ROOT / "sample_configs" / sample).data.path
