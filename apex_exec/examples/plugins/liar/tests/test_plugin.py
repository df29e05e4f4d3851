"""What it returns is not what its hook may."""

from plugin import lie


def test_its_widgets_are_no_list() -> None:
    assert not isinstance(lie({})["customWidgets"], list)
