"""PyTorch as its own examples have it: nn.Embedding, nn.LSTM, nn.Linear, Adam, the state carried from batch to batch.

Adam is the fused one, the fastest there is on a CPU; the batches are tensors before the clock starts, and lie time
first, as nn.LSTM likes them best.
"""

from __future__ import annotations

import time

import torch
from torch import nn

from tests.bench.trainer.sides.lap import FIRST_STEPS, GRAD_CLIP, LEARNING_RATE, WARM_STEPS, places, serve, task

TASK = task()

State = tuple[torch.Tensor, torch.Tensor]


class Network(nn.Module):  # type: ignore[misc]  # PyTorch need not be installed where mypy runs
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TASK.vocab_size, TASK.rnn_size)
        self.lstm = nn.LSTM(TASK.rnn_size, TASK.rnn_size, TASK.num_layers)
        self.output = nn.Linear(TASK.rnn_size, TASK.vocab_size)

    def forward(self, ids: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        outputs, state = self.lstm(self.embedding(ids), state)
        return self.output(outputs), state


def main() -> None:
    torch.set_num_threads(TASK.threads)
    torch.manual_seed(1)
    inputs, targets = (torch.from_numpy(ids).long().transpose(1, 2).contiguous() for ids in TASK.load())
    network = Network()
    adam = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, fused=True)
    zeros = torch.zeros(TASK.num_layers, TASK.batch_size, TASK.rnn_size)
    state = zeros, zeros.clone()
    place = places(len(inputs))

    def step() -> torch.Tensor:
        nonlocal state
        at = next(place)
        adam.zero_grad(set_to_none=True)
        logits, (h, c) = network(inputs[at], state)
        state = h.detach(), c.detach()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets[at].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), GRAD_CLIP)
        adam.step()
        return loss

    def lap(steps: int) -> float:
        for _ in range(WARM_STEPS):
            step()
        begun = time.perf_counter()
        for _ in range(steps):
            loss = step()
        loss.item()
        return time.perf_counter() - begun

    lap(FIRST_STEPS)
    serve(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads", lap)


if __name__ == "__main__":
    main()
