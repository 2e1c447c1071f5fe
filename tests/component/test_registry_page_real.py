"""The operators' page in a real Chromium: what is seen, what can be done, dark and light, on a phone."""

import asyncio
import base64
import contextlib
import hashlib
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from selenium import webdriver
from selenium.common.exceptions import (
    ElementNotInteractableException,
    JavascriptException,
    StaleElementReferenceException,
)
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait
from test_registry_real import Node, running

import re6st
from re6st.identity import (
    REGISTRY_NAME,
    build_request,
    generate_key,
    parse_node_certificate,
    public_key_digest,
)
from re6st.messages import AdmissionRequest, AdmissionState, NodeReport, TunnelReport
from re6st.registry.client import JoinLink, RegistryClient
from re6st.registry.operator_api import events
from re6st.registry.operators import Scope

CODE_IN_A_NAME = "<img src=x onerror=alert(1)>"


class Browser:
    """Chromium, as a person uses it."""

    def __init__(self, registry, profile):
        certificate = x509.load_pem_x509_certificate(registry.state.server.read_bytes())
        key = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        pin = base64.b64encode(hashlib.sha256(key).digest()).decode()
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for argument in (
            "--headless=new",
            "--no-sandbox",  # root in a container has no user namespace to sandbox with
            "--disable-dev-shm-usage",
            "--disable-gpu",
            f"--user-data-dir={profile}",
            f"--host-resolver-rules=MAP {REGISTRY_NAME} 127.0.0.1, MAP * ~NOTFOUND",
            f"--ignore-certificate-errors-spki-list={pin}",
            "--window-size=1200,900",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(executable_path="/usr/bin/chromedriver")
        self.driver = webdriver.Chrome(options=options, service=service)
        port = registry.server.addresses[0].port
        self.url = f"https://{REGISTRY_NAME}:{port}/"

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def wait(self, condition):
        # The page draws itself anew when something happens: what was found may be gone.
        ignored = [StaleElementReferenceException, ElementNotInteractableException]
        return WebDriverWait(self.driver, 90, 0.05, ignored).until(lambda _: condition())

    def find(self, selector):
        return self.wait(lambda: next(iter(self.all(selector)), None))

    def read(self, selector, look):
        """Return what ``look`` says of the element, also when the page replaces it meanwhile."""
        return self.wait(lambda: (look(self.find(selector)),))[0]

    def sees(self, text, selector="body"):
        self.wait(lambda: any(text in element.text for element in self.all(selector)))

    def sees_not(self, text, selector="body"):
        self.wait(lambda: all(text not in element.text for element in self.all(selector)))

    def click(self, label, within="body"):
        def press():
            for button in self.all(f"{within} button"):
                if button.text == label and button.is_displayed():
                    button.click()
                    return True
            return False

        self.wait(press)

    def fill(self, selector, text):
        def write():
            field = self.find(selector)
            field.clear()
            field.send_keys(text)
            return True

        self.wait(write)

    def login(self, token):
        self.fill("#login input", token)
        self.click("Log in")

    def errors(self):
        return [entry for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


WATCH_MESSAGE = """
    window.changes = 0;
    new MutationObserver(() => changes++).observe(document.getElementById("message"), { childList: true });
"""
COUNT_STREAMS = (
    "return performance.getEntriesByType('resource').filter((e) => e.name.endsWith('/events')).length"
)


@pytest.fixture
async def registry(tmp_path):
    async with running(tmp_path / "registry") as registry:
        registry.service.change_parameters({"registry_urls": registry.url})
        yield registry


@pytest.fixture
async def browser(registry, tmp_path):
    browser = await asyncio.to_thread(Browser, registry, tmp_path / "profile")
    yield browser
    await asyncio.to_thread(browser.driver.quit)


async def admit(registry, directory, link, name, **record):
    key = generate_key()
    client = RegistryClient([registry.url], [registry.authority.certificate])
    enrolment = await client.enrol(JoinLink.parse(link).token, build_request(key, name))
    node = Node(directory, registry, key, enrolment.certificate)
    await node.client.publish(node.record(**record))


async def test_an_operators_day(registry, browser, tmp_path):
    admin = registry.service.create_operator_token("alice", Scope.ADMIN)
    registry.service.create_group("house")
    await admit(registry, tmp_path / "1", str(registry.link()), "attic", software=CODE_IN_A_NAME)
    link = str(registry.link(group="house", owner="anna@example.org"))
    await admit(registry, tmp_path / "2", link, "cellar")
    run = asyncio.to_thread

    def come_in():
        browser.driver.get(browser.url)
        browser.login("wrong")
        browser.sees("The token is not valid")
        assert not browser.all("#tabs:not([hidden])")
        browser.errors()  # Chromium reports the refusal
        browser.login(admin)
        browser.sees("attic", "#nodes")
        browser.sees(CODE_IN_A_NAME, "#nodes")
        browser.sees("2001:db8:42::/48 · 2 active", "header")
        browser.fill("input[type=search]", "CELL")
        browser.sees_not("attic", "#nodes")
        browser.sees("cellar", "#nodes")
        browser.fill("input[type=search]", "ANNA@")
        browser.sees("anna@example.org", "#nodes")
        browser.sees_not("attic", "#nodes")
        browser.read("#group", lambda select: Select(select).select_by_value("default"))
        browser.sees("No node", "#nodes")
        browser.click("Join links")
        browser.fill("#create input[name=name]", "garage")
        browser.fill("#create input[name=owner]", "bert")
        browser.read("#create select[name=group]", lambda select: Select(select).select_by_value("house"))
        browser.click("Create link")
        assert browser.read("#qr", lambda code: code.size["width"]) > 100
        return browser.read("#link", lambda link: link.text)

    async with asyncio.timeout(120):
        text = await run(come_in)
        assert JoinLink.parse(text).fingerprint == registry.service.fingerprint
        await run(browser.click, "Nodes")
        await run(browser.read, "#group", lambda select: Select(select).select_by_value(""))
        await run(browser.fill, "input[type=search]", "tic")
        await run(browser.sees, "attic", "#nodes")
        await run(browser.click, "Audit log")
        await run(browser.sees, "token alice")
        # What happens is seen without doing anything.
        await admit(registry, tmp_path / "3", text, "")
        await run(browser.sees, "garage", "#view tbody")
        node = registry.service.member("garage").node
        assert (node.group, node.owner) == ("house", "bert")

        def act():
            browser.click("Nodes")
            browser.fill("input[type=search]", " ")
            browser.read("select", lambda select: Select(select).select_by_value("active"))
            browser.find("tbody tr:nth-child(3)")
            browser.click("Revoke", "tbody tr:nth-child(2)")
            browser.sees("Revoke cellar?", "#confirmation")
            browser.click("Cancel", "#confirmation")
            assert registry.service.member("cellar").node.released is None
            browser.click("Revoke", "tbody tr:nth-child(2)")
            browser.click("Revoke", "#confirmation")
            browser.sees("cellar is revoked")
            browser.sees_not("cellar", "#nodes")
            assert registry.service.member("cellar").node.released is not None
            browser.click("Parameters")
            browser.fill("input[name=hello_interval]", "100")
            browser.click("Preview and change")
            browser.sees("hello_interval=100", "#message")
            browser.fill("input[name=hello_interval]", "2")
            browser.click("Preview and change")
            before = registry.service.current_parameters().hello_interval
            browser.sees(f"hello_interval: {before} → 2.0", "#confirmation")
            browser.click("Change", "#confirmation")
            browser.sees("Version 3", "#view")
            assert registry.service.current_parameters().hello_interval == 2.0
            refusals = browser.errors()
            assert all("400" in entry["message"] for entry in refusals), refusals

        await run(act)


async def test_who_is_unwell_and_why(registry, browser, tmp_path):
    admin = registry.service.create_operator_token("alice", Scope.ADMIN)
    link = str(registry.link(uses=3))
    callers = {}
    for name in ("attic", "cellar", "garage"):
        await admit(registry, tmp_path / name, link, name)
        node = registry.service.member(name).node
        callers[name] = node

    def report(name, peers, **changes):
        values = {
            "time": time.time(),
            "uptime": 500,
            "software": f"re6st {re6st.__version__}",
            "reachability": "public",
            "routes": 2,
            "peers": 2,
            "parameters_version": registry.service.current_parameters().version,
            "revocations_version": 1,
        }
        tunnels = tuple(
            TunnelReport(peer=str(callers[peer].prefix), outgoing=True, established="direct", age=9)
            for peer in peers
        )
        registry.service.report(callers[name], NodeReport(**values | changes, tunnels=tunnels))

    report("attic", ["cellar", "garage"])
    report("cellar", ["garage"], time=time.time() - 3600, reachability="outgoing only", reason="no UPnP")
    report("garage", ["attic"], software="re6st 0.0.1")

    def look():
        browser.driver.get(browser.url)
        browser.login(admin)
        browser.sees("its clock is 60 minutes behind", "#nodes .bad")
        browser.sees("re6st 0.0.1, the registry", "#nodes .warning")
        browser.sees("others cannot dial it: no UPnP", "#nodes .note")
        browser.sees("2 of 3 nodes unwell", "#health")
        browser.click("old version 1", "#health")
        browser.sees_not("cellar", "#nodes")
        browser.sees("garage", "#nodes")
        browser.click("old version 1", "#health")
        browser.sees("cellar", "#nodes")
        browser.read("select", lambda select: Select(select).select_by_value("unwell"))
        browser.sees_not("attic", "#nodes")
        browser.sees("garage", "#nodes")
        browser.click("Map")
        browser.sees("3 nodes, 4 tunnels, 2 nodes with trouble")
        assert len(browser.all("#map line")) == 4
        # The worst are drawn last, above the others.
        assert [node.get_attribute("class") for node in browser.all("#map g")] == [
            "node well",
            "node warning",
            "node bad",
        ]
        browser.read("#map g.bad circle", lambda node: node.click())
        browser.sees("cellar", "#nodes")
        browser.sees_not("garage", "#nodes")
        assert browser.errors() == []

    async with asyncio.timeout(120):
        await asyncio.to_thread(look)


async def test_requests_are_approved_and_denied_on_a_phone(registry, browser):
    admin = registry.service.create_operator_token("alice", Scope.WRITE)
    registry.service.change_policy({"requests": "on"})
    registry.service.reserve("garage", prefix_length=72)
    client = registry.anonymous()
    keys = [generate_key() for _ in range(3)]
    messages = [
        AdmissionRequest(token=f"{number}" * 43, request=build_request(key, name), message=CODE_IN_A_NAME)
        for number, (key, name) in enumerate(zip(keys, ("attic", "cellar", "garage"), strict=True))
    ]
    for message in messages:
        await client.ask_admission(message)

    def decide():
        screen = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        browser.driver.get(browser.url)
        browser.login(admin)
        tab = "[data-view=requests]"
        browser.wait(lambda: browser.find(tab).get_attribute("data-count") == "3")
        browser.click("Requests")
        browser.sees(CODE_IN_A_NAME, ".request")
        digest = public_key_digest(keys[0].public_key()).hex()
        browser.wait(
            lambda: digest in [element.text.replace("\n", "") for element in browser.all(".key-digest")]
        )
        browser.wait(
            lambda: browser.driver.execute_script("return document.documentElement.scrollWidth") <= 360
        )
        browser.fill("[data-request='1'] input[name=length]", "80")
        browser.click("Approve", "[data-request='1']")
        browser.sees("attic may come in", "#message")
        browser.wait(lambda: not browser.all("[data-request='1']"))
        browser.click("Deny", "[data-request='2']")
        browser.sees("Deny cellar from 127.0.0.1?", "#confirmation")
        browser.click("Deny", "#confirmation")
        browser.wait(lambda: not browser.all("[data-request='2']"))
        browser.click("Approve", "[data-request='3']")
        browser.sees("garage has a reserved prefix", "#confirmation")
        browser.click("Approve", "#confirmation")
        browser.sees("No request waits.")
        assert browser.errors() == []

    async with asyncio.timeout(120):
        waiting = asyncio.create_task(client.ask_admission(messages[0], 60))
        await asyncio.to_thread(decide)
        await waiting
        answer = await client.ask_admission(messages[0])
        assert (answer.state, answer.name) == (AdmissionState.APPROVED, "attic")
        assert (await client.ask_admission(messages[1])).state is AdmissionState.DENIED
        assert (await client.ask_admission(messages[2])).name == "garage"
        enrolment = await client.enrol(messages[0].token, messages[0].request)
        assert parse_node_certificate(enrolment.certificate).prefix.prefixlen == 80


async def test_it_fits_the_person(registry, browser, tmp_path, monkeypatch):
    await admit(registry, tmp_path / "1", str(registry.link()), "attic" + "-long" * 11)
    reader = registry.service.create_operator_token("bob", Scope.READ)

    def look():
        browser.driver.get(browser.url)
        browser.login(reader)
        browser.sees("attic", "#nodes")
        # Who may only look is offered nothing else.
        assert "Revoke" not in browser.read("#nodes", lambda nodes: nodes.text)
        ground = "return getComputedStyle(document.body).backgroundColor"
        shown = {}
        for scheme in ("light", "dark"):
            media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
            shown[scheme] = browser.driver.execute_script(ground)
        assert shown == {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 23, 28)"}
        screen = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        for tab in ("Map", "Requests", "Join links", "Admission", "Parameters", "Audit log", "Nodes"):
            browser.click(tab)
            browser.find("button[data-view][aria-current]")
            browser.wait(
                lambda: browser.driver.execute_script("return document.documentElement.scrollWidth") <= 360
            )
        assert not browser.read("thead", lambda head: head.is_displayed())
        # A new tab of the same browser is not logged in, a reload is.
        with monkeypatch.context() as patch:
            patch.setattr(events, "MAXIMUM_STREAMS", 0)
            browser.driver.refresh()
            browser.sees("attic", "#nodes")
            browser.sees("what is shown may be old", "#message")
            # It stays while the registry does not let it listen, however often it tries.
            browser.driver.execute_script(WATCH_MESSAGE)
            asked = browser.driver.execute_script(COUNT_STREAMS)
            browser.wait(lambda: browser.driver.execute_script(COUNT_STREAMS) >= asked + 2)
            assert browser.driver.execute_script("return changes") == 0
        browser.sees_not("what is shown may be old", "#message")
        browser.errors()  # Chromium reports the refusals
        registry.service.revoke_operator_token("bob")
        browser.sees("The token is not valid", "#message")
        assert browser.driver.execute_script("return sessionStorage.length") == 0
        assert browser.driver.execute_script("return document.cookie") == ""
        with contextlib.suppress(StopIteration):
            entry = next(entry for entry in browser.errors() if "401" not in entry["message"])
            raise AssertionError(entry)

    async with asyncio.timeout(120):
        await asyncio.to_thread(look)


async def test_settings_are_previewed_planned_and_rotated(registry, browser):
    admin = registry.service.create_operator_token("alice", Scope.ADMIN)
    due = time.time() + 86400

    def choose(selector, text):
        browser.read(selector, lambda select: Select(select).select_by_visible_text(text))

    def let_people_in():
        browser.driver.get(browser.url)
        browser.login(admin)
        browser.sees("No node.")
        browser.click("Admission")
        choose("select[name=requests]", "on")
        browser.fill("input[name=requests_pending]", "50")
        browser.click("Preview and change")
        browser.sees("requests: off → on\nrequests_pending: 200 → 50", "#confirmation")
        # Somebody else is faster, with something else.
        registry.service.change_policy({"open_nodes": "7"})
        browser.click("Change", "#confirmation")
        browser.sees("somebody else has changed who may come in", "#message")
        assert not registry.service.policy().requests
        browser.click("Admission")
        browser.wait(lambda: browser.find("input[name=open_nodes]").get_attribute("value") == "7")
        choose("select[name=requests]", "on")
        browser.click("Preview and change")
        browser.click("Change", "#confirmation")
        browser.sees("This is in force now.", "#message")
        assert registry.service.policy().requests
        browser.errors()  # Chromium reports the conflict

    def plan():
        browser.click("Parameters")
        browser.fill("input[name=hello_interval]", "2")
        local = time.strftime("%Y-%m-%dT%H:%M", time.localtime(due))
        browser.find("input[name=due]")
        browser.driver.execute_script("document.querySelector('input[name=due]').value = arguments[0]", local)
        browser.click("Preview and change")
        browser.sees("hello_interval: 4.0 → 2.0", "#confirmation")
        browser.click("Plan", "#confirmation")
        browser.sees("hello_interval: 4 → 2", "#plans")
        [waiting] = registry.service.plans()
        assert abs(waiting.due - due) < 61
        assert registry.service.current_parameters().hello_interval == 4.0
        browser.click("Cancel", "#plans")
        browser.click("Cancel the change", "#confirmation")
        browser.wait(lambda: not browser.all("#plans"))
        assert registry.service.plans() == []

    def rotate():
        old = registry.service.current_parameters().lan_keys[0].digest.hex()
        browser.sees(old[:16], "#lan-keys")
        choose("#rotate select", "10 minutes")
        browser.click("Rotate the key")
        browser.sees("All nodes change to it on", "#confirmation")
        browser.click("Cancel", "#confirmation")
        assert len(registry.service.current_parameters().lan_keys) == 1
        browser.click("Rotate the key")
        browser.click("Rotate", "#confirmation")
        browser.sees("comes into force on", "#lan-keys")
        browser.wait(lambda: not browser.all("#rotate"))
        assert len(registry.service.current_parameters().lan_keys) == 2
        assert browser.errors() == []

    def use():
        let_people_in()
        plan()
        rotate()

    async with asyncio.timeout(180):
        await asyncio.to_thread(use)
    actions = {row.action: (row.actor_kind, row.actor) for row in registry.service.audit()}
    for action in ("admission.set", "parameters.planned", "parameters.plan-cancelled", "lan-key.rotated"):
        assert actions[action] == ("token", "alice")


async def test_a_person_asks_for_a_link_by_mail(registry, browser):
    policy = {
        "mail": "on",
        "mail_server": "127.0.0.1:9",
        "mail_security": "none",
        "mail_domains": "example.org",
    }
    page = browser.url + "invitation"

    def ask(mailbox):
        browser.driver.get(page)
        browser.fill("input[name=email]", mailbox)
        browser.click("Send me a link")
        return browser.read("#answer", lambda answer: answer.text)

    def use():
        browser.driver.get(page)
        browser.sees("sends no join links by mail", "#answer")
        registry.service.change_policy(policy | {"mail_sender": "re6st@example.org", "mail_per_address": "2"})
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        screen = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        known = ask("anna@example.org")
        assert "If this address gets join links" in known
        assert ask("eve@other.example") == known
        assert "Too many join links" in ask("bea@example.org")
        assert {row.mailbox for row in registry.service.mails()} == {"anna@example.org", "eve@other.example"}
        # Who clicks on the link in the mail sees what to do, and no command that a stranger made up.
        link = str(registry.link())
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
        browser.driver.get(browser.url + "#" + link.partition("#")[2])
        browser.sees(f"re6st-node join '{browser.url}#{link.partition('#')[2]}'", "#join")
        browser.driver.get("about:blank")
        browser.driver.get(browser.url + "#" + link.partition("#")[2] + "';reboot'")
        browser.find("#login")
        assert not browser.all("#join")
        # What a browser lets pass may be no address all the same.
        assert "no e-mail address" in ask("anna@localhost")
        refusals = browser.errors()
        assert all(entry["message"].split("status of ")[1][:3] in ("404", "429", "400") for entry in refusals)

    async with asyncio.timeout(120):
        await asyncio.to_thread(use)


async def test_nothing_from_outside_is_allowed(registry, browser):
    def attack():
        browser.driver.get(browser.url)
        browser.find("#login")
        script = (
            "const script = document.createElement('script'); script.textContent = 'window.evil = 1';"
            " document.head.append(script)"
        )
        with contextlib.suppress(JavascriptException):
            browser.driver.execute_script(script)
        assert browser.driver.execute_script("return window.evil") is None
        done = browser.driver.execute_async_script(
            "fetch('https://example.org/').then(() => arguments[0]('sent'), () => arguments[0]('refused'))"
        )
        assert done == "refused"
        assert any("Content Security Policy" in entry["message"] for entry in browser.errors())

    async with asyncio.timeout(120):
        await asyncio.to_thread(attack)
