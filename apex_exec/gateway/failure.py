"""How an API call fails: with one of the API's codes, and one line for the plugin's author."""

from __future__ import annotations

from workers.wire import API_CODES


class ApiFailure(Exception):
    """The answer to an API call that did not succeed."""

    def __init__(self, code: str, message: str, retry_after_ms: int = 0) -> None:
        assert code in API_CODES, code
        super().__init__(message)
        self.code = code
        self.message = message[:500]
        self.retry_after_ms = retry_after_ms
