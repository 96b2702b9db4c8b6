"""Tab, Enter, Space, arrows and Escape alone: no mouse, and no focus set by the test."""

from .painting import PROMPT, finished


def tab_to(page, selector, key="Tab"):
    """Press Tab until what is asked for has the focus."""
    for _ in range(60):
        page.keyboard.press(key)
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
    raise AssertionError(f"{selector} is not reached by {key}")


def test_paint_cancel_and_look(visit):
    page = visit()
    tab_to(page, "#prompt")
    page.keyboard.type(PROMPT)
    tab_to(page, "input[name=image_size]")
    page.keyboard.press("ArrowRight")
    assert page.locator("input[name=image_size]:checked").get_attribute("value") == "square"
    tab_to(page, "[aria-label='Steps, exact value']")
    page.keyboard.press("Control+A")
    page.keyboard.type("40")
    tab_to(page, "button[type=submit]")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=/Painting, step/")
    tab_to(page, ".run-head button")  # Cancel
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Nothing is charged.")

    tab_to(page, "#steps", "Shift+Tab")
    page.keyboard.press("Home")
    tab_to(page, "button[type=submit]")
    page.keyboard.press("Enter")
    finished(page)
    tab_to(page, ".finished")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog.lightbox[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    assert page.evaluate("document.activeElement.matches('.finished')")
