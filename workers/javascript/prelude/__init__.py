"""What plugin code finds beside ECMAScript itself. ``FILES`` run in this order in every new engine, each of ``PARTS``
when one of its globals is first used.

Each file is one function expression ``(function (host, internals) { … })``. ``host`` holds the functions that Python
gives, ``internals`` is shared between the files and is invisible to plugins.
"""

FILES = ("core.js", "base.js")
PARTS = ("absent.js", "shared.js", "text.js", "url.js", "events.js", "structured_clone.js", "crypto.js", "fetch.js")
