"""Annotate as a Ray job: ray job submit --working-dir . -- python jobs/annotate.py --tracks F --videos DIR --out DIR ..."""

import sys

from egoray.cli import main

if __name__ == "__main__":
    main(["annotate", *sys.argv[1:]])
