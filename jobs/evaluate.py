"""Evaluate as a Ray job: ray job submit --working-dir . -- python jobs/evaluate.py --dataset D --split S --predictions P --out DIR ..."""

import sys

from egoray.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
