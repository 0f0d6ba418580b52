"""Estimated and true rounding errors of scores.

``python -m benchmarks.bench_rounding`` trains and replays every case in float32 and in
float64 and prints a line for each: the relative error of the scores, median over the queries.
"""

import torch

from tests.exactness.rounding_cases import CASES, estimated_and_true


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| training | estimated | true | estimated / true |\n|---|---|---|---|")
    for case in CASES:
        estimated, true = estimated_and_true(case)
        print(
            f"| {case.name} | {estimated:.1e} | {true:.1e} | {estimated / true:.2g} |", flush=True
        )


if __name__ == "__main__":
    main()
