"""Providers and a gateway from the settings.

Which SDK is imported depends on the settings: with only one key, only that service's. Without a key both are,
and talk to the sandbox whose address `up` has put into GEMINI_BASE_URL and OPENAI_BASE_URL.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from pydantic import SecretStr

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

        key, url = _access(sandbox, settings.gemini_api_key, settings.gemini_base_url, "GEMINI_BASE_URL")
        providers["gemini"] = GeminiProvider(key, settings.gemini_model, url)
    if sandbox or settings.openai_api_key:
        from lead_coordinator.providers.openai import OpenAIProvider

        key, url = _access(sandbox, settings.openai_api_key, settings.openai_base_url, "OPENAI_BASE_URL")
        providers["openai"] = OpenAIProvider(key, settings.openai_model, url)
    return providers


@asynccontextmanager
async def open_gateway(
    db: AsyncDatabase,
    lease: Lease,
    settings: Settings,
    policy: GatewayPolicy | None = None,
    providers: Mapping[str, Provider] | None = None,
) -> AsyncIterator[Gateway]:
    """A warm gateway for one run; closed at the end. Raises `SettingsError`, `UnknownPrice`.

    `providers`: built before the lease began; a busy machine takes many seconds to import their SDKs.
    """
    gateway = Gateway(db, lease, providers or build_providers(settings), policy)
    try:
        await gateway.warm()
        yield gateway
    finally:
        await gateway.aclose()


def _access(sandbox: bool, key: SecretStr | None, url: str | None, variable: str) -> tuple[str, str | None]:
    """Key and address to use; no address means the service's own."""
    if not sandbox and key is not None:
        return key.get_secret_value(), url
    if url is None:
        raise SettingsError(
            f"{variable} isn't set, and without a key the sandbox provider is used: start it with "
            "`lead-coordinator up`, or name its address."
        )
    return SANDBOX_KEY, url
