"""Working days: Monday to Friday without holidays. dateutil, in ``vendor/``, knows when Easter is."""

from datetime import date, timedelta
from typing import Any

from dateutil.easter import easter
from dateutil.rrule import DAILY, FR, MO, TH, TU, WE, rrule
from workers import HookContext, Plugin

plugin = Plugin(id="workdays", version="0.1.0", permissions=[])

DAYS_MAX = 10_000
WEEKDAYS = (MO, TU, WE, TH, FR)


@plugin.hook("onActionExecute")
def act(context: HookContext, params: dict[str, Any]) -> dict[str, Any]:
    """Answers "workdays.add" {"from", "days"} and "workdays.count" {"from", "to"}; leaves all other actions."""
    given = params["context"]
    try:
        if params["action"] == "workdays.add":
            result: Any = {"date": _add(context, date.fromisoformat(given["from"]), int(given["days"])).isoformat()}
        elif params["action"] == "workdays.count":
            result = {"days": _count(context, date.fromisoformat(given["from"]), date.fromisoformat(given["to"]))}
        else:
            result = None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    return {"result": result, "metadata": {}}


def _add(context: HookContext, start: date, days: int) -> date:
    if not 0 <= days <= DAYS_MAX:
        raise ValueError(f"days is 0 to {DAYS_MAX}")
    if days == 0:
        return start
    left = days
    for day in rrule(DAILY, byweekday=WEEKDAYS, dtstart=start + timedelta(days=1)):
        left -= not _is_holiday(context, day.date())
        if left == 0:
            return day.date()
    raise ValueError("the calendar ends before that")


def _count(context: HookContext, start: date, end: date) -> int:
    """Working days from the day after ``start`` to ``end``."""
    if (end - start).days > DAYS_MAX:
        raise ValueError(f"at most {DAYS_MAX} days")
    days = rrule(DAILY, byweekday=WEEKDAYS, dtstart=start + timedelta(days=1), until=end)
    return sum(not _is_holiday(context, day.date()) for day in days)


def _is_holiday(context: HookContext, day: date) -> bool:
    if day.strftime("%m-%d") in context.settings["holidays"]:
        return True
    return context.settings["easter"] and (day - easter(day.year)).days in (-2, 1)
