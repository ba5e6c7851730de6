"""The trainer's fast path against plain automatic differentiation: one start, the same steps, both losses.

Not a racing side: started with a JSON list of cases and a file of text, it writes for each the largest difference.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.bench.trainer.sides.lap import GRAD_CLIP, LEARNING_RATE
from trainer import data, devices


def main() -> None:
    cases: list[dict[str, Any]] = json.loads(sys.argv[1])
    text = Path(sys.argv[2]).read_text()
    vocabulary = data.vocabulary(text)
    ids = data.encode(text, vocabulary)
    tf = devices.import_tensorflow()
    used = devices.use_devices(tf, max(case["batch_size"] for case in cases), 1)
    from trainer import model as network

    def losses(case: dict[str, Any], way: str) -> list[float]:
        hyper = network.Hyperparameters(
            cell="lstm",
            rnn_size=case["rnn_size"],
            num_layers=case["num_layers"],
            batch_size=case["batch_size"],
            grad_clip=GRAD_CLIP,
            input_keep_prob=case["keep_prob"],
            output_keep_prob=case["keep_prob"],
            seed=1,
        )
        batches = data.make_batches(ids, case["batch_size"], case["seq_length"])
        shards = devices.shards_for(case["batch_size"], case["rnn_size"])
        model = network.Model(network.new_weights(len(vocabulary), hyper), hyper, shards=shards, jit=used.jit, way=way)
        return [
            float(model.train_step(batches.inputs[at], batches.targets[at], rate=LEARNING_RATE, step=at + 1))
            for at in range(case["steps"])
        ]

    found = []
    for case in cases:
        fast, plain = losses(case, "fast"), losses(case, "plain")
        difference = max(abs(one - other) for one, other in zip(fast, plain, strict=True))
        found.append({**case, "difference": difference, "first_loss": fast[0], "last_loss": fast[-1]})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
