"""Predict as a Ray job: ray job submit --working-dir . -- python jobs/predict.py --model M --dataset D --split S --out P ..."""

import sys

from egoray.cli import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
