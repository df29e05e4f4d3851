"""Masks what identifies people in data that other plugins have fetched: e-mail addresses, card and account numbers.

A number is masked only if its check digits are right, so order numbers and telephone numbers stay."""

import re
from typing import Any

from workers import HookContext, Plugin

plugin = Plugin(id="pii-masker", version="0.1.0", permissions=[])

EMAIL = re.compile(r"\b([\w.+-])[\w.+-]{0,63}@((?:[\w-]{1,63}\.){1,8}[a-z]{2,24})\b", re.I)
CARD = re.compile(r"\b\d(?:[ -]?\d){12,18}\b")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")


@plugin.hook("onDataFetch")
def mask(context: HookContext, params: dict[str, Any]) -> dict[str, Any]:
    """Passes on ``data`` with every text in it masked. Its priority puts this plugin at the end of the chain."""
    return {"transformedData": _masked(params.get("data"), context.settings["keep"])}


def _masked(value: Any, keep: int) -> Any:
    if isinstance(value, str):
        return _text(value, keep)
    if isinstance(value, list):
        return [_masked(item, keep) for item in value]
    if isinstance(value, dict):
        return {key: _masked(item, keep) for key, item in value.items()}
    return value


def _text(text: str, keep: int) -> str:
    text = EMAIL.sub(r"\1***@\2", text)
    text = CARD.sub(lambda found: _number(found[0], keep) if _is_card(found[0]) else found[0], text)
    return IBAN.sub(lambda found: _number(found[0], keep) if _is_iban(found[0]) else found[0], text)


def _number(text: str, keep: int) -> str:
    plain = re.sub(r"[ -]", "", text)
    return "*" * (len(plain) - keep) + (plain[-keep:] if keep else "")


def _is_card(text: str) -> bool:
    """Whether the check digit is right (Luhn)."""
    digits = [int(one) for one in text if one.isdigit()][::-1]
    return sum(one if at % 2 == 0 else sum(divmod(one * 2, 10)) for at, one in enumerate(digits)) % 10 == 0


def _is_iban(text: str) -> bool:
    """Whether the check digits are right (ISO 7064, MOD 97-10)."""
    plain = text.replace(" ", "")
    return int("".join(str(int(one, 36)) for one in plain[4:] + plain[:4])) % 97 == 1
