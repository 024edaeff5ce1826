"""Build as a Ray job: ray job submit --working-dir . -- python jobs/build.py --annotations DIR --videos DIR --out DATASET ..."""

import sys

from egoray.cli import main

if __name__ == "__main__":
    main(["build", *sys.argv[1:]])
