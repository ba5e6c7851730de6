"""Search for good values with Optuna (pip install optuna): it names the next values by what earlier runs have found.

    python examples/search_with_optuna.py box "python train.py --lr {lr} --units {units}"

Each trial is an ordinary run, with its values as parameters; four go on at a time. The command reports `val_loss`.
"""

from __future__ import annotations

import sys

import optuna

from remoterun import Client, Job

ROUNDS, AT_ONCE, METRIC = 5, 4, "val_loss"


def best_of(job: Job) -> float | None:
    """The least value that a run has reported; None for one that failed, or reported none."""
    progress = job.progress if job.wait() == 0 else None
    return next((each.best for each in progress.series if each.name == METRIC), None) if progress else None


def main(machine: str, command: str) -> None:
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler(seed=1))
    with Client() as client:
        for _ in range(ROUNDS):
            going: list[tuple[optuna.Trial, Job]] = []
            for trial in (study.ask() for _ in range(AT_ONCE)):
                values = {
                    "lr": f"{trial.suggest_float('lr', 1e-4, 1e-1, log=True):.3g}",
                    "units": str(trial.suggest_int("units", 16, 256)),
                }
                env = {f"REMOTERUN_PARAM_{name}": value for name, value in values.items()}
                job = client.run(command.format(**values), machine, env=env, labels=["search"])
                going.append((trial, job))
            for trial, job in going:
                found = best_of(job)
                study.tell(trial, found, state=None if found is not None else optuna.trial.TrialState.FAIL)
                print(f"run {job.number}: {trial.params} {METRIC} {found}")
    print(f"best: {study.best_params} {METRIC} {study.best_value:.3g}")


if __name__ == "__main__":
    main(*sys.argv[1:])
