"""What the README and docs/ print is what the program takes: every command parses, every setting, file and link exists."""

import os
import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from egoray import config
from egoray.cli import main
from egoray.train.recipes import RECIPES, Recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
SETTINGS = {
    "annotate": config.AnnotateConfig,
    "express": config.ExpressConfig,
    "build": config.BuildConfig,
    "predict": config.PredictConfig,
    "ground": config.PredictConfig,
    "evaluate": config.EvaluateConfig,
}
EGORAY = re.compile(r"(?:^|\s|-- )(?:\.venv/bin/)?egoray (?=[a-z])|(?:python|\S*/python) jobs/(?=[a-z])")


def lines(page):
    """Lines of a page's shell blocks, joined where they go on."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return "\n".join(blocks).replace("\\\n", " ").splitlines()


def printed(page):
    """The egoray commands that a page prints, as words."""
    for line in lines(page):
        line = line.split(" # ")[0]
        if found := EGORAY.search(line):
            text = line[found.end() :]
            if "jobs/" in found[0]:
                text = text.replace("pipeline.py ", "run ", 1).replace(".py ", " ", 1)
            yield shlex.split(re.split(r"[|>;]", re.sub(r"\[(--[^\]]*)\]", r"\1", text))[0])


def mentioned(page):
    """The egoray commands that a page's sentences name."""
    return re.findall(r"`egoray ([a-z][^`]*)`", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL))


@pytest.fixture(autouse=True)
def files_are_elsewhere(monkeypatch):
    """The files that a page names belong to its reader."""
    monkeypatch.setattr(click.Path, "convert", lambda self, value, param, ctx: value)


def parsed(words):
    """The command, and what it takes ``words`` as; "..." stands for what a page leaves out."""
    command, given = main.commands[words[0]], [word for word in words[1:] if word != "..."]
    return command, command.make_context(words[0], given, resilient_parsing="..." in words).params


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse_and_their_settings_exist(page):
    for words in printed(page):
        _, params = parsed(words)
        if words[0] in SETTINGS:
            if (file := params.get("config_file")) and "$" not in file:
                assert (ROOT / file).exists(), words
                file = str(ROOT / file)
            config.load(SETTINGS[words[0]], file or None, params.get("overrides", ()))
        if words[0] == "train" and params["recipe"] in RECIPES:
            file = params["config_file"] and str(ROOT / params["config_file"])
            config.load(Recipe, file, params["overrides"], defaults=RECIPES[params["recipe"]] | {"name": params["recipe"]})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_that_sentences_name_exist(page):
    for text in mentioned(page):
        command = main.commands[re.split(r"[\s.,(]", text)[0]]
        known = {flag for param in command.params for flag in param.opts} | {"--help"}
        assert set(re.findall(r"(?<=\s)--[a-z-]+", text)) <= known, text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_links_are_there(page):
    targets = set((ROOT / "Makefile").read_text().split(".PHONY:")[1].splitlines()[0].split())
    for line in lines(page):
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert set(words[1:]) <= targets, line
        for word in words:
            if re.match(r"(jobs|serve_configs|deploy|benchmarks)/[\w./-]+$", word):
                assert (ROOT / word).exists(), line
    for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text()):
        assert os.path.exists(page.parent / link), link


@pytest.mark.parametrize("name", sorted(SETTINGS.keys() - {"ground"}))
def test_settings_files_load(name):
    config.load(SETTINGS[name], str(ROOT / "jobs" / f"{name}.yaml"))


def test_settings_shown_are_the_real_ones():
    """Each page's YAML blocks are YAML."""
    for page in PAGES:
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            list(yaml.safe_load_all(block))


def test_the_search_finds_commands():
    assert sum(1 for page in PAGES for _ in printed(page)) > 30
