# SPDX-License-Identifier: Apache-2.0
"""What tests in a browser share."""

import json

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


def assert_fair(page) -> None:
    """axe-core has no serious finding; the context must not have the page's own policy."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    bad = [one for one in found if one["impact"] in ("serious", "critical")]
    assert not bad, json.dumps(bad, indent=1)[:3000]
