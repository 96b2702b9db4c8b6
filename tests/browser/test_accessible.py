"""No serious finding of axe-core in any view or state, in light and in dark colours."""

import pytest

from .conftest import DESKTOP, PHONE
from .painting import SLOW, add_references, ask, finished, paint


@pytest.fixture
def check(axe, shoot):
    """Return a function that looks at a page as it is, in both colours."""

    def look(page, name):
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            shoot(page, f"{name}-{scheme}")
            assert axe(page) == [], (name, scheme)

    return look


def test_views(visit, check, photos):
    page = visit()
    check(page, "18-welcome")
    add_references(page, photos)
    paint(page)
    finished(page)
    page.click("text=The same call as code")
    check(page, "19-done")
    page.click("text=Operations")
    page.wait_for_selector("section[aria-label=Workers]")
    check(page, "20-operations")
    page.get_by_role("button", name="API key").click()
    page.wait_for_selector("dialog[open]")
    check(page, "21-key")


def test_states_of_a_request(visit, service, check):
    page = visit()
    with service.paused():
        paint(page, steps=SLOW)
        page.wait_for_selector("text=Next in the queue")
        check(page, "24-queued")
    page.wait_for_selector("text=/Painting, step/")
    with service.paused():
        check(page, "25-painting")
    finished(page)
    page.click(".finished")
    page.wait_for_selector("dialog.lightbox[open]")
    shown = page.locator(".lightbox img").bounding_box()
    assert abs(2 * shown["x"] + shown["width"] - DESKTOP["width"]) < 2  # in the middle
    check(page, "26-lightbox")
    page.keyboard.press("Escape")
    paint(page, prompt="a nude woman")
    page.wait_for_selector("text=This prompt was refused")
    check(page, "27-failed")


def test_invalid_and_offline(visit, check):
    page = visit()
    ask(page, prompt="", steps=5)
    page.check("input[value=custom]")
    page.fill("[aria-label='width in pixels']", "700")
    page.fill("#seed", "many")
    page.click("button[type=submit]")
    page.wait_for_selector("text=Describe the picture first.")
    assert page.locator(".fault").count() == 4
    check(page, "28-invalid")
    page.route("**/health/ready", lambda route: route.abort())
    page.wait_for_selector("text=The server does not answer.")
    check(page, "29-offline")


def test_phone(visit, check):
    page = visit(viewport=PHONE, has_touch=True, is_mobile=True)
    check(page, "30-phone-welcome")
    paint(page, num_images=2)
    finished(page, 2)
    check(page, "31-phone-done")
