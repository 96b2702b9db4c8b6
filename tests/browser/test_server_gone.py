"""The server goes away while it paints, and comes back: the page says so, and goes on."""


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
    service.start(*service.same_addresses(), wait_for="page")
    page.wait_for_selector("text=Nobody can paint yet.")
    shoot(page, "23-no-worker")
    page.wait_for_selector(".finished img")
    page.wait_for_selector(".banner", state="detached")  # with the next look at the server
