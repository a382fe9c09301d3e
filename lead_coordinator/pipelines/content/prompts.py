"""The prompt templates of `prompts/`: loaded once, versioned by their content, filled in a sandbox.

A template file holds the system part, the line `=== user ===`, and the user part. Its version is `name@` and
the first eight digits of the SHA-256 of the file, so an article can be traced to the exact words that made
it.

What a brief says is data. It goes into a prompt only as a JSON block between tags, with `<`, `>` and `&`
written as JSON escapes: no text inside can close the tag, and the system part declares the block untrusted.
jinja2 never sees brief text as a template, only as a value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lead_coordinator.providers.base import Message

PROMPT_NAMES = ("outline", "draft", "edit_and_check", "revise", "update")
_SEPARATOR = "\n=== user ===\n"


@dataclass(frozen=True)
class Prompt:
    """One template: `name`, its `version` (`name@sha8`), the system and the user part as written."""

    name: str
    version: str
    system: str
    user: str

    def messages(self, **values: Any) -> tuple[Message, ...]:
        """Fill the template. A value that the template names and the caller doesn't give is an error."""
        environment = _environment()
        return (
            Message("system", environment.from_string(self.system).render(**values).strip()),
            Message("user", environment.from_string(self.user).render(**values).strip()),
        )


@cache
def load_prompt(name: str) -> Prompt:
    """The template `prompts/<name>.md`; ValueError if there is none of that name or it has no user part."""
    if name not in PROMPT_NAMES:
        raise ValueError(f"prompt {name!r}: there are only {', '.join(PROMPT_NAMES)}")
    text = resources.files(__package__).joinpath("prompts", f"{name}.md").read_text(encoding="utf-8")
    system, separator, user = text.partition(_SEPARATOR)
    if not separator:
        raise ValueError(f"prompt {name!r}: the line '=== user ===' is missing")
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Prompt(name=name, version=f"{name}@{digest}", system=system, user=user)


def prompt_versions() -> dict[str, str]:
    """The version of every prompt in use, by step."""
    return {name: load_prompt(name).version for name in PROMPT_NAMES}


def instructions() -> str:
    """The system parts of all prompts: no article may repeat them."""
    return "\n\n".join(load_prompt(name).system for name in PROMPT_NAMES)


def data_block(value: Mapping[str, Any]) -> str:
    """`value` as JSON for a prompt, unable to close the tag that surrounds it.

    Inside JSON strings (the only place where `<`, `>`, `&` can stand) the escapes mean the same characters,
    so a reader of JSON gets the text back unchanged.
    """
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    # Autoescaping is for HTML; a prompt is plain text.
    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
