"""A whole pipeline as a Ray job: ray job submit --working-dir . -- python jobs/pipeline.py jobs/pipeline.yaml --out DIR"""

import sys

from egoray.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
