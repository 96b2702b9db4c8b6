"""The server goes away while it paints, and comes back: the page says so, and goes on."""

from .painting import add_references, finished, paint

NOT_SENT = "text=It was not sent. Press Try again when the server is back."
NO_ANSWER = "text=The server may have taken it or not."


def test_gone_and_back(visit, service, shoot):
    page = visit()
    page.fill("#prompt", "A sign that says 'BACK'")
    page.check("input[name=image_size][value=square]")
    page.fill("[aria-label='Steps, exact value']", "60")
    page.click("button[type=submit]")
    page.wait_for_selector("text=/Painting, step/")
    service.kill()
    page.wait_for_selector("text=The server does not answer.")
    page.wait_for_selector("text=Waiting for the server to come back")
    shoot(page, "22-server-gone")
    service.start(*service.same_addresses(), "--workers", "0", wait_for="page")
    page.wait_for_selector("text=Nobody can paint yet.")
    assert page.locator(".banner code").inner_text() == "glmimage worker"
    shoot(page, "23-no-worker")
    service.kill()
    service.start(*service.same_addresses(), wait_for="page")
    page.wait_for_selector(".finished img")
    page.wait_for_selector(".banner", state="detached")  # with the next look at the server


def test_an_answer_that_is_lost(visit):
    """The page does not say that it was not sent: the server paints it."""
    page, taken = visit(), []

    def lose(route):
        taken.append(route.fetch().json()["request_id"])
        route.abort()

    page.route("**/queue/fal-ai/glm-image", lose)
    paint(page)
    page.wait_for_selector(NO_ANSWER)
    assert page.locator(NOT_SENT).count() == 0
    assert len(taken) == 1
    page.unroute("**/queue/fal-ai/glm-image")
    page.get_by_role("button", name="Try again").click()
    finished(page)


def test_sent_while_it_is_gone(visit, service, photos, shoot):
    """Neither a request nor an upload goes on by itself; the button sends both."""
    page = visit()
    service.kill()
    paint(page)
    page.wait_for_selector(NO_ANSWER)
    add_references(page, photos)
    paint(page)
    page.wait_for_selector(f"article:has(.run-references) >> {NOT_SENT}")
    shoot(page, "32-not-sent")
    service.start(*service.same_addresses(), wait_for="page")
    page.wait_for_selector(".banner.bad", state="detached")
    page.get_by_role("button", name="Try again").click()
    finished(page)
    assert page.locator(".run-references img").count() == 2
    page.locator(".past").last.click()
    page.get_by_role("button", name="Try again").click()
    finished(page)
    assert page.locator(".run-references").count() == 0
