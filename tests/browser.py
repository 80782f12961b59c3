"""The browser that looks at the page: `python -m tests.browser` prints where it is, as make wants to know."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

# Debian's names, Google's, and where macOS keeps them.
NAMES = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
ADVICE = (
    "The tests of the page need Chromium or Google Chrome: install the package chromium of your system or, "
    "where there is none (Ubuntu, macOS), Google Chrome from https://www.google.com/chrome, then try again."
)
# Root may not use the sandbox, and a test needs no letters home.
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def browser_path(names: Iterable[str] = NAMES) -> str:
    """Where the first of them is. Raises LookupError, which says what to do."""
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        raise LookupError(ADVICE)
    return path


if __name__ == "__main__":
    try:
        print(browser_path())
    except LookupError as nowhere:
        raise SystemExit(str(nowhere)) from None
