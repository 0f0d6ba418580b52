"""Stands in for ``engine.worker`` where texts are read and their losses computed.

``FAKE_LOSSES`` may say: refuse. Its requests are appended to the file ``FAKE_LOSSES_LOG``.
"""

import json
import os
import sys
from pathlib import Path


def main() -> int:
    verb, options = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    with Path(os.environ["FAKE_LOSSES_LOG"]).open("a") as log:
        log.write(json.dumps([verb, options]) + "\n")
    if os.environ.get("FAKE_LOSSES") == "refuse":
        return answer(False, message="the text is too short\x1b[2J", exit_code=2)
    if verb == "texts":
        source = json.loads(options["--source"])
        rows = [json.loads(line) for line in Path(source["path"]).read_text().splitlines()]
        text = source.get("completion_column") or source.get("text_column") or "text"
        prompt = source.get("prompt_column")
        prompts = None if prompt is None else [row[prompt] for row in rows]
        return answer(
            True, documents=len(rows) + 7, texts=[row[text] for row in rows], prompts=prompts
        )
    request = json.loads(options["--request"])
    return answer(True, run="r", queries=[losses_of(text) for text in request["texts"]])


def losses_of(text: str) -> dict[str, object]:
    """A token a word of no tokenizer: the third is the hardest."""
    ids = [90_000 + place for place in range(max(4, len(text.split())))]
    losses = [None, 1.0, 8.25, *[0.5] * (len(ids) - 3)]
    tokens = [{"id": i, "loss": loss} for i, loss in zip(ids, losses, strict=True)]
    return {"text": text, "loss": 2.5, "tokens": tokens}


def answer(ok: bool, **facts: object) -> int:
    print(json.dumps({"ok": ok, **facts}))
    return int(str(facts.get("exit_code", 0)))


if __name__ == "__main__":
    sys.exit(main())
