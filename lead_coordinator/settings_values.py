"""How single settings are read.

Each parser takes a variable's text and answers its value, or raises a ValueError that says what is allowed
("must be …"); `Settings` puts the variable and its value before it.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, SecretStr, WrapValidator


def mask_url(url: str) -> str:
    """The URL with its password (in the authority or the query) replaced by `***`.

    Fit for a log or a terminal.
    """
    # Up to the last @: an unescaped #, / or @ in a password must not end the mask early.
    masked = re.sub(r"(?<=://)([^:/?#@]*):.*@", r"\1:***@", url)
    return re.sub(r"(?i)([?&](?:password|sslpassword)=)[^&#]*", r"\1***", masked)


def problem(text: str) -> ValueError:
    """What a parser raises; pydantic collects it."""
    return ValueError(text)


def whole_number(low: int, high: int) -> Any:
    allowed = f"must be a whole number from {low} to {high}"

    def check(value: object) -> int:
        text = str(value).strip()
        if not re.fullmatch(r"[+-]?\d{1,18}", text) or not low <= int(text) <= high:
            raise problem(allowed)
        return int(text)

    return BeforeValidator(check)


def money(value: object) -> Decimal:
    """US dollars; the upper bound is the one of the row `daily_budget_usd` in the database."""
    allowed = "must be an amount in US dollars from 0 to 1000000, such as 500 or 12.50"
    try:
        amount = Decimal(str(value).strip())
    except InvalidOperation:
        raise problem(allowed) from None
    if not amount.is_finite() or amount < 0 or amount > 1_000_000:
        raise problem(allowed)
    return amount


def truth(value: object) -> bool:
    text = str(value).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise problem("must be 1 or 0")


def timezone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ValueError, OSError, KeyError):  # KeyError: ZoneInfoNotFoundError
        raise problem("must be an IANA time zone, such as UTC or Europe/Berlin") from None
    return value


def web_address(value: str) -> str:
    try:
        parts = urlsplit(value)
        good = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and (parts.port is None or parts.port > 0)
        )
    except ValueError:
        good = False
    if not good:
        raise problem("must be a web address, such as https://example.org/")
    return value


def database_url(value: SecretStr) -> SecretStr:
    allowed = (
        "must be a PostgreSQL address, such as postgresql://user:password@host:5432/database"
        " (special characters in the password percent-encoded)"
    )
    try:
        parts = urlsplit(value.get_secret_value())
        good = (
            parts.scheme in ("postgresql", "postgres")
            and (parts.port is None or parts.port > 0)
            and not parts.fragment
        )
    except ValueError:
        good = False
    if not good:
        raise problem(allowed)
    return value


def one_of(*allowed: str) -> Any:
    def check(value: object, handler: Any) -> Any:
        if value not in allowed:
            raise problem(f"must be {' or '.join(allowed)}")
        return handler(value)

    return WrapValidator(check)


PostgresUrl = Annotated[SecretStr, AfterValidator(database_url)]
WebAddress = Annotated[str, AfterValidator(web_address)]
Hour = Annotated[int, whole_number(0, 23)]
EndHour = Annotated[int, whole_number(1, 24)]
Port = Annotated[int, whole_number(0, 65535)]
