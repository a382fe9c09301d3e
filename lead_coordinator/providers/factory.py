"""Providers and a gateway from the settings.

Which SDK is imported depends on the settings: with only one key, only that service's. Without a key both are,
and talk to the sandbox whose address `up` has put into GEMINI_BASE_URL and OPENAI_BASE_URL.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lead_coordinator.database.connection import AsyncDatabase
from lead_coordinator.database.executions import Lease
from lead_coordinator.errors import SettingsError
from lead_coordinator.providers.base import Provider
from lead_coordinator.providers.gateway import Gateway, GatewayPolicy
from lead_coordinator.settings import Settings

# The sandbox takes any key; this one says in its log who called.
SANDBOX_KEY = "sandbox-key"


def build_providers(settings: Settings) -> dict[str, Provider]:
    """The providers that the settings name, by name. Imports their SDKs (about a second); opens no
    connection.

    Raises `SettingsError` where the sandbox is to be used and its address isn't known.
    """
    sandbox = settings.use_sandbox
    providers: dict[str, Provider] = {}
    if sandbox or settings.gemini_api_key:
        from lead_coordinator.providers.gemini import GeminiProvider

        key = (
            SANDBOX_KEY
            if sandbox or not settings.gemini_api_key
            else settings.gemini_api_key.get_secret_value()
        )
        base_url = (
            _sandbox_url("GEMINI_BASE_URL", settings.gemini_base_url) if sandbox else settings.gemini_base_url
        )
        providers["gemini"] = GeminiProvider(key, settings.gemini_model, base_url)
    if sandbox or settings.openai_api_key:
        from lead_coordinator.providers.openai import OpenAIProvider

        key = (
            SANDBOX_KEY
            if sandbox or not settings.openai_api_key
            else settings.openai_api_key.get_secret_value()
        )
        base_url = (
            _sandbox_url("OPENAI_BASE_URL", settings.openai_base_url) if sandbox else settings.openai_base_url
        )
        providers["openai"] = OpenAIProvider(key, settings.openai_model, base_url)
    return providers


@asynccontextmanager
async def open_gateway(
    db: AsyncDatabase, lease: Lease, settings: Settings, policy: GatewayPolicy | None = None
) -> AsyncIterator[Gateway]:
    """A warm gateway for one run; closed at the end. Raises `SettingsError`, `UnknownPrice`."""
    gateway = Gateway(db, lease, build_providers(settings), policy)
    try:
        await gateway.warm()
        yield gateway
    finally:
        await gateway.aclose()


def _sandbox_url(variable: str, url: str | None) -> str:
    if url is None:
        raise SettingsError(
            f"{variable} isn't set, and without a key the sandbox provider is used: start it with "
            "`lead-coordinator up`, or name its address."
        )
    return url
