"""``python -m egoray.train``; the commands are in `egoray.train.nano`, where processes that are started can find them."""

from egoray.train.nano import main

if __name__ == "__main__":
    main()
