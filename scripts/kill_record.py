"""Kill two ranks at random moments of their saves, and print a row of a table for each kill.

Usage: python scripts/kill_record.py [--kills 50] [--seed 1]
"""

import argparse
import tempfile
from pathlib import Path

from egrc_mega.testing.random_kills import random_kills


def main() -> None:
    """As many kills of synchronous saves, then of asynchronous ones; ends with an error where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print("| save | seed | kill | rank | folder of steps just before | resumed from | bits |")
    print("|---|---|---|---|---|---|---|")
    for way in ("synchronous", "asynchronous"):
        with tempfile.TemporaryDirectory() as room:
            kills = random_kills(
                Path(room), seed=arguments.seed, count=arguments.kills, asynchronous=way == "asynchronous"
            )
            for number, kill in enumerate(kills, 1):
                row = (way, arguments.seed, number, kill.victims, kill.moment, kill.resumed or "the start", "equal")
                print(f"| {' | '.join(map(str, row))} |", flush=True)
        print(f"the {way} run came through with equal bits", flush=True)


if __name__ == "__main__":
    main()
