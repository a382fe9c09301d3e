"""The ledger as the documents describe it: every amount is free, held or spent, and a hold stays with the
budget day on which it was made (docs/DIAGRAMS.md, "The way of the money").
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal

ZERO = Decimal(0)
CENT = Decimal("0.01")

# Budget day, scope (total, workflow, provider, tenant), and whose account of that scope it is.
Key = tuple[date, str, str]


@dataclass(slots=True)
class Account:
    """US dollars of one budget day."""

    held: Decimal = ZERO
    spent: Decimal = ZERO


@dataclass
class Ledger:
    """Every account that was ever used."""

    accounts: dict[Key, Account] = field(default_factory=lambda: defaultdict(Account))

    def committed(self, day: date, scope: str, key: str) -> Decimal:
        """What is held or spent, US dollars."""
        account = self.accounts.get((day, scope, key), Account())
        return account.held + account.spent

    def fits(self, day: date, scope: str, key: str, amount: Decimal, limit: Decimal | None) -> bool:
        """Whether a hold keeps within the hard limit; without one everything does."""
        return limit is None or self.committed(day, scope, key) + amount <= limit

    def hold(self, day: date, scope: str, key: str, amount: Decimal) -> None:
        self.accounts[day, scope, key].held += amount

    def settle(self, day: date, scope: str, key: str, held: Decimal, spent: Decimal = ZERO) -> None:
        """Gives up a hold, and books what was really spent of it."""
        account = self.accounts[day, scope, key]
        account.held -= held
        account.spent += spent

    def used(self) -> dict[Key, tuple[Decimal, Decimal]]:
        """Held and spent of every account that isn't empty."""
        return {
            key: (account.held, account.spent)
            for key, account in self.accounts.items()
            if account.held or account.spent
        }
