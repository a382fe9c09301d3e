"""Reading a file of site profiles: YAML, bounded in size and depth, without aliases and duplicate keys."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from lead_coordinator.errors import InvalidInput
from lead_coordinator.pipelines.profile import SiteProfile

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_PROFILES = 1000


def read_profiles(file: Path) -> list[SiteProfile]:
    """The profiles of the file, in its order. Raises `InvalidInput`: file, field, value, what is allowed."""
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"file {file}: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise InvalidInput(f"file {file}: it is larger than {MAX_BYTES} bytes")
    try:
        return profiles(data)
    except InvalidInput as error:
        raise InvalidInput(f"file {file}: {error}") from None


def profiles(data: bytes) -> list[SiteProfile]:
    """The profiles in the text of a file."""
    try:
        check_structure(data)
        documents = [one for one in yaml.load_all(data, Loader=_Loader) if one is not None]
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise InvalidInput(_reason(error)) from None
    if not 1 <= len(documents) <= MAX_PROFILES:
        raise InvalidInput(f"{len(documents)} profiles found, 1 to {MAX_PROFILES} are needed")
    found = [_profile(document) for document in documents]
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(f"site {name} is in it {names.count(name)} times")
    return found


def check_structure(data: bytes) -> None:
    """Refuses what could make a small file a large one. Looks at one piece after the other and builds
    nothing."""
    depth = 0
    for event in yaml.parse(data, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent):
            raise InvalidInput(f"line {line}: an alias (*{event.anchor}) isn't allowed")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise InvalidInput(f"line {line}: nested deeper than {MAX_DEPTH}")


class _Loader(yaml.SafeLoader):
    """A SafeLoader that refuses a key which stands twice: YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise InvalidInput(f"line {key.start_mark.line + 1}: {key.value[:80]} stands there twice")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _profile(document: object) -> SiteProfile:
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise InvalidInput("a profile is a table of settings, such as name: main")
    if "name" not in document:
        raise InvalidInput("name is needed: which site the profile is for")
    return SiteProfile.read(document.pop("name"), document)


def _reason(error: Exception) -> str:
    if isinstance(error, InvalidInput):
        return str(error)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem or error.context}"
    return "it isn't YAML in UTF-8: " + str(error).splitlines()[0][:200]
