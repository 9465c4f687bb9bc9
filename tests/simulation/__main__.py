"""Many runs of the simulation: `python -m tests.simulation SEEDS [FIRST]`; one seed is one run."""

import sys
import time
import traceback

from tests.simulation.world import play


def main() -> int:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    began, broken, events = time.monotonic(), [], 0
    for seed in range(first, first + seeds):
        try:
            events += sum(map(len, play(seed).broker.events))
        except AssertionError:
            broken.append(seed)
            sys.stderr.write(f"seed {seed}:\n{traceback.format_exc()}\n")
    seconds = time.monotonic() - began
    sys.stdout.write(
        f"{seeds} runs from seed {first} in {seconds:.0f} s, {events} records:"
        f" {len(broken)} broke a promise {broken[:20] or ''}\n"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
