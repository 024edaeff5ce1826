"""A recipe as it will be run, and what it will take: resolved from its name, a file and settings, without starting anything."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from egoray.config import load
from egoray.core import paths
from egoray.errors import ConfigError, FormatError, ModelError
from egoray.formats import rvos
from egoray.train.recipes import RECIPES, Recipe
from egoray.train.run import build_task, read_mix
from egoray.train.samples import EGOMASK, SOURCES


def read_recipe(name: str, config_file: str | None, overrides: Sequence[str], data: Sequence[str], *, limit: int | None = None) -> Recipe:
    """The recipe of a name or of a YAML file, with the folders given.

    Args:
        name: a key of `RECIPES`, or the path of a file that holds a whole recipe.
        config_file, overrides: see `egoray.config.load`.
        data: training sets.
        limit: steps at most.

    Raises:
        ConfigError: if the recipe is unknown, a setting is wrong, or a folder holds no training set.
    """
    if name in RECIPES:
        recipe = load(Recipe, config_file, overrides, defaults=RECIPES[name] | {"name": name})
    elif os.path.isfile(name):
        recipe = load(Recipe, name, overrides)
    else:
        raise ConfigError(f"--recipe {name}: unknown; known are {', '.join(RECIPES)}, or give a YAML file")
    found: dict[str, str] = {}
    for path in data:
        source = _source(path)
        if source in found:
            raise ConfigError(f"--data {path}: a second {source}; one folder a set")
        found[source] = paths.absolute(path)
    recipe = recipe.with_data(found)
    if limit is not None:
        recipe = recipe.model_copy(update={"steps": limit, "epochs": None})
    return recipe


def _source(path: str) -> str:
    try:
        source = rvos.benchmark_of(path)
    except FormatError as error:
        raise ConfigError(f"--data {path}: {error}") from error
    if source is None:
        return EGOMASK
    if source not in SOURCES:
        raise ConfigError(f"--data {path}: is {source}, which has nothing to train on")
    return source


def forecast(recipe: Recipe) -> dict[str, Any]:
    """What the run would take: data mix, steps, parameters trained and frozen, memory of a worker without activations.

    Parameters are counted on the real network, so its checkpoint must be here; where it is not, they are left out and ``model`` says why.

    Raises:
        ConfigError, FormatError: if the data cannot be used.
    """
    _, order, counts = read_mix(recipe)
    pace = recipe.pace(order.epoch)
    rates = {name: part.rate if part.rate is not None else part.repeats * counts[name] for name, part in recipe.data.items()}
    plan: dict[str, Any] = {
        "clips": counts,
        "mix_%": {name: round(100 * rate / sum(rates.values()), 1) for name, rate in rates.items()},
        "samples_an_epoch": order.epoch,
        "steps": pace.steps,
        "samples": pace.steps * pace.batch,
        "share_of_a_worker": {str(n): _shares(pace.batch, n) for n in range(recipe.workers[0], recipe.workers[1] + 1)},
    }
    try:
        with tempfile.TemporaryDirectory() as folder:
            task = build_task(recipe, "cpu", Path(folder))
    except ModelError as error:
        return plan | {"model": f"cannot be counted: {error}"}
    trained = sum(p.numel() for p in task.module.parameters() if p.requires_grad)
    frozen = [(p.numel(), p.element_size()) for p in task.module.parameters() if not p.requires_grad]
    held = sum(count * size for count, size in frozen)
    one, most = held + 16 * trained, recipe.workers[1]  # float32 weights, gradients and AdamW's two moments
    memory = {"1": one / 1e9, str(most): (one / most if recipe.parallel == "fsdp2" else one) / 1e9}
    return plan | {
        "parameters_trained": trained,
        "parameters_frozen": sum(count for count, _ in frozen),
        "memory_gb_without_activations": {workers: round(value, 3) for workers, value in memory.items()},
    }


def _shares(batch: int, workers: int) -> str:
    shares = [(batch - rank + workers - 1) // workers for rank in range(workers)]
    return " + ".join(map(str, shares))
