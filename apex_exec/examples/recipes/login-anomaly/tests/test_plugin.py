"""What the report promises: the first login is usual, a new country or device is reported once."""

from typing import Any

from plugin import SESSION, plugin
from workers.fake import FakePlatform


def platform(country: str, device: str, storage: dict[tuple[str, str], Any] | None = None) -> FakePlatform:
    """A platform with one session in its table."""
    return FakePlatform(plugin, rows={SESSION: [{"country": country, "device": device}]}, storage=storage)


def log_in(where: FakePlatform) -> list[Any]:
    """What one login emits."""
    where.call("onAuthSuccess", {"sessionId": "s1"})
    return [params["payload"] for method, params in where.effects if method == "emit"]


def test_the_first_login_is_remembered_and_not_reported() -> None:
    where = platform("DE", "laptop")
    assert log_in(where) == [] and log_in(where) == []
    assert where.storage[where.user_id, "seen"] == {"country": ["DE"], "device": ["laptop"]}


def test_a_new_country_is_reported_once() -> None:
    first = platform("DE", "laptop")
    log_in(first)
    later = platform("BR", "laptop", first.storage)
    assert log_in(later) == [{"sessionId": "s1", "reasons": ["new country"]}]
    assert len(log_in(later)) == 1


async def test_a_session_that_is_not_there_is_a_warning() -> None:
    where = FakePlatform(plugin)
    await where.call_async("onAuthSuccess", {"sessionId": "s1"})
    assert not where.effects and not where.storage


def test_users_have_a_memory_of_their_own() -> None:
    for seed in range(10):
        where = platform("DE", "laptop")
        where.run_together([("onAuthSuccess", {"sessionId": f"s{n}"}) for n in range(5)], seed=seed)
        assert not where.effects and len(where.storage) == 5
