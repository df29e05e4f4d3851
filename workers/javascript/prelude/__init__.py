"""What plugin code finds beside ECMAScript itself: JavaScript files, run in this order in every new engine.

Each file is one function expression ``(function (host, internals) { … })``. ``host`` holds the functions that Python
gives, ``internals`` is shared between the files and is invisible to plugins.
"""

FILES = ("core.js",)
