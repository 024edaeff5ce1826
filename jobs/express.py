"""Express as a Ray job: ray job submit --working-dir . -- python jobs/express.py --annotations DIR --videos DIR ..."""

import sys

from egoray.cli import main

if __name__ == "__main__":
    main(["express", *sys.argv[1:]])
