"""A browser's window of a given width and colour scheme, and what sticks out of it."""

from __future__ import annotations

from typing import Any

# Elements that stick out of the window, but for those within a box that scrolls and is itself inside.
_OVERFLOWING = """
const inside = e => { for (let p = e.parentElement; p; p = p.parentElement)
  if (getComputedStyle(p).overflowX == 'auto') return true; return false; };
return [...document.querySelector(arguments[0]).querySelectorAll('*')].filter(e => !inside(e)
  && (e.getBoundingClientRect().right > innerWidth + 0.5 || e.getBoundingClientRect().left < -0.5))
  .map(e => e.tagName + ' ' + e.className + ' ' + e.textContent.slice(0, 40));
"""


def set_window(browser: Any, width: int, scheme: str = "light") -> None:
    """Give the window a width, that of a phone below 600, and the reader's colour scheme: "light" or "dark"."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )


def overflowing(browser: Any, root: str = "body") -> list[str]:
    """Return the elements below ``root`` that stick out of the window, as tag, class and text."""
    return list(browser.execute_script(_OVERFLOWING, root))
