"""What the benchmarks share: times in turn, and the memory of a process of its own."""

import subprocess
import sys
import time


def best_times(tasks: dict, repeats: int) -> dict:
    """Shortest wall time of each task in seconds, over turns in which each runs once."""
    best = dict.fromkeys(tasks, float("inf"))
    for _ in range(repeats):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def peak(script: str, *arguments: str) -> float:
    """What a script prints when it runs in a process of its own: its peak memory, in MiB."""
    command = [sys.executable, script, *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
