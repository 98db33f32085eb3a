"""The records of the proof: made from a seed, each with a fate that its line alone decides."""

import json
import random
from pathlib import Path


def write_records(path: Path, count: int, *, refused: float = 1e-3, seed: int = 0) -> None:
    """JSON lines: one in twenty is to be dropped, a share of the others has no number as amount."""
    chance = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for key in range(count):
            amount = str(chance.randrange(10**6))
            if chance.random() < refused:
                amount = chance.choice(["", "12x", "n/a", "1e400", "٣٤x"])
            record = {
                "key": key,
                "kind": "drop" if chance.random() < 0.05 else "keep",
                "text": f"Record {key}: {chance.getrandbits(64):x}",
                "amount": amount,
            }
            file.write(json.dumps(record) + "\n")
