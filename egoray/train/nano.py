"""``python -m egoray.train nano``: renders pictures and trains the nano networks, in any number of processes; the same command goes on.

``python -m egoray.train export`` writes a run's weights as safetensors.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import click


@click.group()
def main() -> None:
    """Train egoray's small networks on rendered worlds."""


@main.command()
@click.option("--out", "folder", type=click.Path(path_type=Path), required=True, help="Run folder: pictures/, one folder a network.")
@click.option("--only", type=click.Choice(["nano-detector", "nano-tracker"]), help="One network instead of both.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda; on cuda batches are larger.")
@click.option("--minutes", type=float, default=60.0, show_default=True, help="Training time of each network, all resumed parts together.")
@click.option("--workers", type=click.IntRange(min=0), default=0, show_default=True, help="Processes that render and that make batches.")
@click.option("--shards", type=click.IntRange(min=1), default=48, show_default=True, help="Shards of 512 training frames to render.")
@click.option("--seed", default=0, show_default=True, help="Of the first weights.")
def nano(folder: Path, only: str | None, device: str, minutes: float, workers: int, shards: int, seed: int) -> None:
    """Render what is missing and train; ends by itself, or saves and ends on SIGTERM. Run it again to go on.

    On a machine with one large GPU and 16 cores: --device cuda --minutes 22 --workers 14 --shards 600
    """
    from egoray.train.nano_recipes import RECIPES

    context = multiprocessing.get_context("spawn")
    pictures = folder / "pictures"
    renderers = [
        context.Process(target=_render, args=(pictures, shards, first, max(1, workers)), daemon=True) for first in range(max(1, workers))
    ]
    for process in renderers:
        process.start()
    _await_first(pictures, renderers)
    chosen = [only] if only else list(RECIPES)
    trainers = [context.Process(target=_train, args=(name, folder, device, minutes, workers // 3, seed)) for name in chosen]
    for process in trainers:
        process.start()

    def stop(*_: object) -> None:
        for process in trainers:
            process.terminate()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    for process in trainers:
        process.join()
    for process in renderers:
        process.terminate()
    if any(process.exitcode for process in trainers):
        raise SystemExit(1)


def _render(pictures: Path, shards: int, first: int, step: int) -> None:
    import cv2

    from egoray.train.pictures import write_shard

    cv2.setNumThreads(1)
    os.nice(10)
    # The held-out shards come first: a trial needs them, and few.
    work = [("test", number) for number in range(_TEST_SHARDS)] + [("train", number) for number in range(shards)]
    for textures, number in work[first::step]:
        target = pictures / textures
        target.mkdir(parents=True, exist_ok=True)
        write_shard(target, textures, number)


_TEST_SHARDS = 4


def _await_first(pictures: Path, renderers: list) -> None:
    """Wait until there is something to train on and all that is tried on."""
    while len(list(pictures.glob("test/*.npz"))) < _TEST_SHARDS or not list(pictures.glob("train/*.npz")):
        if not any(process.is_alive() for process in renderers):
            raise click.ClickException(f"no pictures could be rendered into {pictures}; see above")
        time.sleep(0.2)


def _train(name: str, folder: Path, device: str, minutes: float, loaders: int, seed: int) -> None:
    import cv2
    import torch

    from egoray.train.clock import Loop
    from egoray.train.nano_recipes import RECIPES, Setting

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True
    task, config = RECIPES[name](Setting(pictures=folder / "pictures", device=device, minutes=minutes, loaders=loaders, seed=seed))
    loop = Loop(task, config, folder / name)
    (folder / name / "pid").write_text(str(os.getpid()))
    torch.seed()
    loop.run()


@main.command()
@click.argument("weights", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
def export(weights: Path, target: Path) -> None:
    """Write WEIGHTS (a run's weights.pt) as TARGET (.safetensors) in half precision."""
    import torch
    from safetensors.torch import save_file

    model = torch.load(weights, map_location="cpu", weights_only=True)["model"]
    save_file({name: (t.half() if t.is_floating_point() else t).contiguous() for name, t in model.items()}, target)
    click.echo(f"{target}: {target.stat().st_size / 1e6:.2f} MB")
