"""Train as a Ray job: ray job submit --working-dir . -- python jobs/train.py --recipe R --data D --out O ..."""

import sys

from egoray.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
