"""Prints docs/verdicts/proofs.md."""

import sys

from relay.diagnose.decide.proofs import page

if __name__ == "__main__":
    sys.stdout.write(page())
