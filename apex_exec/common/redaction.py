"""Finding secrets in texts: each occurrence is replaced before a text is logged or answered.

Only exact occurrences are found; a secret that was encoded, cut or reversed is another text. Lines of a secret count
for themselves, since logs have one line at a time. The time for a text does not grow with the number of secrets.
"""

from __future__ import annotations

from collections.abc import Iterable

PLACE = "[secret]"
FEW = 8
"""Up to this number of secrets we look for one after another, which is faster."""
PREFIX_CHARS = 8
"""No secret is shorter (``catalogue.settings.SECRET_CHARS_MIN``); shorter lines of a secret are not looked for."""


class Redactor:
    """Looks for ``secrets``."""

    def __init__(self, secrets: Iterable[str]) -> None:
        texts = set(secrets)
        texts |= {line for text in texts for line in text.splitlines()}
        self._texts = sorted((text for text in texts if len(text) >= PREFIX_CHARS), key=len, reverse=True)
        self._by_prefix: dict[str, list[str]] = {}
        if len(self._texts) > FEW:
            for text in self._texts:  # the longest first
                self._by_prefix.setdefault(text[:PREFIX_CHARS], []).append(text)

    def redacted(self, text: str) -> str:
        """``text`` with ``[secret]`` in the place of every secret."""
        if not self._by_prefix:
            for secret in self._texts:
                if secret in text:
                    text = text.replace(secret, PLACE)
            return text
        parts: list[str] = []
        begin = at = 0
        end = len(text) - PREFIX_CHARS
        while at <= end:
            known = self._by_prefix.get(text[at : at + PREFIX_CHARS])
            found = next((one for one in known if text.startswith(one, at)), None) if known else None
            if found is None:
                at += 1
                continue
            parts += (text[begin:at], PLACE)
            begin = at = at + len(found)
        return "".join((*parts, text[begin:])) if parts else text
