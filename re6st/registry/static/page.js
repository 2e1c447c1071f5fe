// The operators' page. The token stays in this tab (sessionStorage); everything shown is set as text, never as
// markup, so that no name of a node can become code.
"use strict";

const API = "/v1/operator";
const PAGE = 200;
const byId = (id) => document.getElementById(id);
let token = sessionStorage.getItem("token") || "";
let overview = null;
let current = "nodes";
let stream = null;
let drawn = 0;

// -- talking to the registry

class Problem extends Error {
  constructor(status, detail) { super(detail); this.status = status; }
}

const tags = new Map();  // entity tags of what was read last, by path

async function ask(method, path, body, extra = {}) {
  const headers = { ...extra, Authorization: `Bearer ${token}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (method === "POST") headers["Idempotency-Key"] = crypto.randomUUID();
  let response;
  try {
    response = await fetch(API + path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Problem(0, "The registry cannot be reached.");
  }
  const text = await response.text();
  const value = text ? JSON.parse(text) : null;
  if (!response.ok) throw new Problem(response.status, (value && value.detail) || response.statusText);
  if (method === "GET") tags.set(path, response.headers.get("ETag"));
  return value;
}

async function follow() {
  // Changes are told as server-sent events; read with fetch(), since EventSource sends no token.
  const mine = new AbortController();
  stream?.abort();
  stream = mine;
  while (stream === mine && token) {
    try {
      const response = await fetch(`${API}/events`, { headers: { Authorization: `Bearer ${token}` }, signal: mine.signal });
      if (response.status === 401) return logout("The token is not valid any more.");
      if (!response.ok) throw new Error(await response.text());
      if (lost) { lost = false; tell(""); soon(); }
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        if (value.includes("data: ")) soon();
      }
    } catch { /* the connection broke: try again */ }
    if (stream !== mine || !token) return;
    if (!lost) { lost = true; tell("The registry does not answer: what is shown may be old.", true); }
    await new Promise((resolve) => setTimeout(resolve, 3000));
  }
}

const PAUSE = 2000;    // milliseconds between two refreshes, however much happens
const REFRESH = 60000;  // nodes fall ill without an entry in the audit log
let lost = false;
let waiting = 0;
let refreshed = 0;
function soon() {
  if (waiting) return;
  waiting = setTimeout(async () => {
    waiting = 0;
    refreshed = Date.now();
    if (token && !document.hidden && !busy()) await show(current, true);
  }, Math.max(300, refreshed + PAUSE - Date.now()));
}
setInterval(soon, REFRESH);
document.addEventListener("visibilitychange", soon);

function busy() {
  // Neither take away what somebody typed or types, nor a link that is shown only once.
  const view = byId("view");
  if (byId("link")) return true;
  if (view.contains(document.activeElement) && document.activeElement.tagName !== "BUTTON") return true;
  return [...view.querySelectorAll("input:not([type=search])")].some((field) => field.value !== field.defaultValue)
    || [...view.querySelectorAll("select[name]")].some((field) =>
      !field.selectedOptions[0]?.defaultSelected && [...field.options].some((option) => option.defaultSelected));
}

// -- building the page

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function table(columns, rows) {
  const head = make("tr", {}, ...columns.map((column) => make("th", { scope: "col" }, column)));
  const body = rows.map((cells) => make("tr", {}, ...cells.map((cell, index) => {
    const actions = Array.isArray(cell);
    return make("td", { "data-label": columns[index], class: actions ? "actions" : null }, ...(actions ? cell : [cell]));
  })));
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
}

const when = (seconds) => (seconds === undefined || seconds === null ? "–" : new Date(seconds * 1000).toLocaleString());

const day = (seconds) => (seconds === undefined || seconds === null ? "–" : new Date(seconds * 1000).toLocaleDateString());

function ago(seconds) {
  if (seconds === undefined || seconds === null) return "never";
  const passed = Math.max(0, overview.time - seconds);
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) if (passed >= size) return `${Math.floor(passed / size)} ${unit} ago`;
  return "just now";
}

function tell(text, bad = false) {
  byId("message").textContent = text;
  byId("message").classList.toggle("bad", bad);
  clearTimeout(told);
  if (text && !bad) told = setTimeout(() => tell(""), 15000);
}
let told = 0;

function confirmed(question, label, lines = []) {
  const dialog = byId("confirmation");
  byId("question").textContent = question;
  byId("lines").replaceChildren(...lines.map((line) => make("li", {}, line)));
  byId("yes").textContent = label;
  dialog.showModal();
  byId("no").focus();
  return new Promise((resolve) => {
    byId("yes").onclick = () => { dialog.onclose = null; dialog.close(); resolve(true); };
    byId("no").onclick = () => dialog.close();
    dialog.onclose = () => resolve(false);
  });
}

async function attempt(action, done) {
  try {
    const result = await action();
    if (done) tell(done);
    return result;
  } catch (error) {
    if (error.status === 401) logout("The token is not valid: ask for another one.");
    else tell(error.message, true);
    return undefined;
  }
}

const may = (scope) => ["read", "write", "admin"].indexOf(overview.scope) >= ["read", "write", "admin"].indexOf(scope);

function values(form) {
  return Object.fromEntries([...new FormData(form)].map(([key, value]) => [key, value.trim()]).filter(([, value]) => value));
}

function submits(action) {
  return (event) => { event.preventDefault(); action(event.target); };
}

// -- views: each returns its elements

const filter = { search: "", state: "", group: "", trouble: "" };  // a state, or "unwell"; a kind of trouble
const TROUBLES = { certificate: "certificate", silent: "silent", clock: "wrong clock", alone: "no tunnel", parameters: "old parameters",
  software: "old version", reachability: "cannot be dialled" };
const count = new Intl.NumberFormat();

function health(troubles, choose) {
  // What an operator wants to see first: is anybody unwell, and of what.
  const summary = troubles.unwell ? `${count.format(troubles.unwell)} of ${count.format(overview.nodes.active)} nodes unwell`
    : overview.nodes.active ? "No node is unwell" : "No node yet";
  const kinds = new Map();
  for (const { kind, severity, nodes } of troubles.items) {
    if (nodes) kinds.set(kind, { severity: kinds.get(kind)?.severity || severity, nodes: nodes + (kinds.get(kind)?.nodes || 0) });
  }
  const chip = (label, severity, pressed, chosen) => make("button", { type: "button", class: `chip ${severity}`, "data-key": label,
    "aria-pressed": String(pressed), onclick: () => choose(pressed ? {} : chosen) }, label);
  return make("div", { id: "health", role: "group", "aria-label": "Health" },
    troubles.unwell ? chip(summary, "all", filter.state === "unwell" && !filter.trouble, { state: "unwell" })
      : make("span", { class: `chip ${overview.nodes.active ? "well" : "note"}` }, summary),
    ...[...kinds].map(([kind, { severity, nodes }]) => chip(`${TROUBLES[kind] || kind} ${count.format(nodes)}`, severity, filter.trouble === kind,
      { trouble: kind })));
}

function groupChoice(groups, chosen, attributes, every) {
  // Nothing to choose from while there is but one group.
  if (groups.length < 2) return null;
  const options = groups.map((group) => make("option", { value: group.name, selected: group.name === chosen }, `${group.name} (${group.nodes})`));
  return make("label", {}, "Group", make("select", attributes, every ? make("option", { value: "" }, every) : null, ...options));
}

async function nodes(again) {
  const place = make("div", { id: "nodes" });
  const [{ items: groups }, troubles] = await Promise.all([ask("GET", "/groups"), ask("GET", "/troubles")]);
  // Who has read on does not lose his place when something happens.
  const shown = again ? document.querySelectorAll("#nodes tbody tr").length : 0;
  if (!groups.some((group) => group.name === filter.group)) filter.group = "";
  const more = async (after) => {
    const query = new URLSearchParams({ limit: after ? PAGE : Math.min(1000, Math.max(PAGE, shown)) });
    if (filter.trouble) query.set("trouble", filter.trouble);
    if (filter.search) query.set("search", filter.search);
    if (filter.state === "unwell") query.set("unwell", "1");
    else if (filter.state) query.set("state", filter.state);
    if (filter.group) query.set("group", filter.group);
    if (after) query.set("after", after);
    const page = await ask("GET", `/nodes?${query}`);
    const rows = page.items.map(nodeRow);
    const columns = ["Node", "State", "Group and owner", "Last seen", "Tunnels", "Certificate until", "Version", "Actions"];
    place.querySelector("button.more")?.remove();
    if (after) place.querySelector("tbody").append(...table(columns, rows).querySelector("tbody").children);
    else place.replaceChildren(rows.length ? table(columns, rows) : make("p", { class: "quiet" }, "No node."));
    if (page.next) place.append(make("button", { class: "more", onclick: () => attempt(() => more(page.next)) }, "More"));
  };
  await more();
  const states = ["", "unwell", "active", "suspended", "expired", "released"].map((state) =>
    make("option", { value: state, selected: state === filter.state },
      state === "unwell" ? `unwell (${troubles.unwell})` : state ? `${state} (${overview.nodes[state]})` : "all states"));
  let typing = 0;
  const search = make("input", { type: "search", value: filter.search, placeholder: "name, owner or prefix", oninput: (event) => {
    filter.search = event.target.value.trim();
    clearTimeout(typing);
    typing = setTimeout(() => attempt(() => more()), 200);
  } });
  const select = make("select", { onchange: (event) => { filter.state = event.target.value; attempt(() => more()); } }, ...states);
  const choose = (chosen) => { Object.assign(filter, { state: "", trouble: "" }, chosen); show("nodes"); };
  return [health(troubles, choose), make("form", { onsubmit: submits(() => {}) }, make("label", {}, "Search", search), make("label", {}, "State", select),
    groupChoice(groups, filter.group, { id: "group", onchange: (event) => { filter.group = event.target.value; attempt(() => more()); } }, "all groups")), place];
}

function nodeRow(node) {
  const path = `/nodes/${encodeURIComponent(node.prefix)}`;
  const act = (label, method, place, done, question, body) => make("button", {
    type: "button", "aria-label": `${label} ${node.name}`, "data-key": `${place} ${node.prefix}`,
    onclick: async () => {
      if (question && !(await confirmed(question, label))) return;
      await attempt(() => ask(method, path + place, body), done);
      show(current);
    },
  }, label);
  const actions = [];
  if (may("write") && node.state !== "released") {
    if (node.state === "suspended") actions.push(act("Resume", "DELETE", "/suspension", `${node.name} may take part again.`));
    else actions.push(act("Suspend", "PUT", "/suspension", `${node.name} is suspended.`, `Keep ${node.name} out of the network until it is resumed?`));
    actions.push(act("Revoke", "POST", "/revocation", `${node.name} is revoked.`, `Revoke ${node.name}? All its tunnels are cut, and ${node.prefix} is given back.`));
  }
  const troubles = (node.troubles || []).map((trouble) => make("li", { class: trouble.severity }, trouble.text));
  const state = make("div", {}, make("span", { class: node.state }, node.state),
    troubles.length ? make("ul", { class: "troubles" }, ...troubles) : null);
  const prefixes = [node.prefix, ...(node.further_prefixes || [])].map((prefix) => make("div", { class: "code" }, prefix));
  const name = make("div", {}, make("div", { class: `name ${(node.troubles || [])[0]?.severity || "well"}` }, node.name), ...prefixes);
  const owned = make("div", {}, node.group, node.owner ? make("div", { class: "quiet" }, node.owner) : null);
  return [name, state, owned, node.state === "released" ? "–" : ago(node.seen),
    node.tunnels === undefined ? "–" : String(node.tunnels), day(node.expires), (node.software || "–").replace(/^re6st /, ""), actions];
}

async function map() {
  const mesh = await ask("GET", "/mesh");
  if (!mesh.nodes.length) return [make("p", { class: "quiet" }, "No node has reported within the last hours.")];
  const choose = (node) => { Object.assign(filter, { search: node.name, state: "", group: "", trouble: "" }); show("nodes"); };
  const ill = mesh.nodes.filter((node) => ["warning", "bad"].includes(node.severity)).length;
  const summary = `${mesh.nodes.length}${mesh.complete ? "" : ` of ${count.format(overview.nodes.active)}`} nodes, ${mesh.tunnels.length} tunnels` +
    (ill ? `, ${ill} nodes with trouble` : "");
  const key = [["well", "well"], ["note", "cannot be dialled"], ["warning", "warning"], ["bad", "trouble"]].map(([kind, text]) =>
    make("span", { class: `key ${kind}` }, text));
  return [make("p", { class: "legend" }, summary, make("span", { class: "keys" }, ...key)), Mesh.draw(mesh, choose),
    make("p", { class: "quiet" }, `${mesh.complete ? "As the nodes reported last." : "Those that reported last."} Thick lines are fast tunnels, dashed ones were reported by one end only.`)];
}

function qrCode(rows) {
  const quiet = 4;  // modules around the code, ISO/IEC 18004
  const size = rows.length + 2 * quiet;
  const path = rows.flatMap((row, y) => [...row].map((module, x) => (module === "1" ? `M${x + quiet} ${y + quiet}h1v1h-1z` : ""))).join("");
  const element = (tag, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const code = element("svg", { id: "qr", viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": "The link as a QR code" });
  code.append(element("rect", { width: size, height: size, fill: "#fff" }), element("path", { d: path, fill: "#000" }));
  return code;
}

function grouped(digits) {
  // Two halves of eight groups: what a person can compare with another screen.
  return make("code", { class: "key-digest" }, ...digits.match(/.{1,4}/g).map((group) => make("span", {}, group)));
}

async function requests() {
  const [page, policy, groups] = await Promise.all([ask("GET", "/requests?limit=200"), ask("GET", "/admission"), ask("GET", "/groups")]);
  const ways = [policy.requests ? "Nodes may ask, you approve." : null, policy.open ? `Enrolment is open (/${policy.open_prefix_length}).` : null,
    policy.mail ? `Join links are mailed to ${policy.mail_domains.join(", ")}.` : null].filter(Boolean);
  const cards = page.items.map((item) => {
    const decide = (verb, body, done) => attempt(() => ask("POST", `/requests/${item.id}/${verb}`, body), done).then(() => show(current));
    const doubts = item.suspicions || [];
    const form = make("form", { onsubmit: submits(async (target) => {
      const wish = values(target);
      const body = placement(wish);
      if (doubts.length && !(await confirmed(`${doubts.join("; ")}. Approve ${wish.name || "this node"} all the same?`, "Approve"))) return;
      if (wish.name && (doubts.length || wish.name !== item.name)) body.name = wish.name;
      decide("approval", body, `${wish.name || "The node"} may come in.`);
    }) },
    make("label", {}, "Name", make("input", { name: "name", maxlength: 63, value: item.name || "", placeholder: "the node chooses", autocapitalize: "none" })),
    ...placementFields(groups.items, policy.requests_group),
    make("button", { type: "submit" }, "Approve"),
    make("button", { type: "button", class: "danger", onclick: async () => {
      if (!(await confirmed(`Deny ${item.name || "this node"} from ${item.origin}?`, "Deny"))) return;
      decide("denial", {}, "The request is denied.");
    } }, "Deny"));
    return make("article", { class: "request", "data-request": item.id },
      make("h2", {}, item.name || "(no name)"), item.message ? make("p", {}, item.message) : null,
      make("p", { class: "quiet" }, `${item.origin}, ${ago(item.created)}; expires ${when(item.expires)}`),
      ...doubts.map((text) => make("p", { class: "warning" }, text)),
      make("p", { class: "quiet" }, "Its key, to be compared with what the machine shows:"), grouped(item.key),
      may("write") ? form : null);
  });
  return [make("p", { class: "quiet" }, ways.join(" ") || "Nobody may come in without a join link: re6st-registry admission set requests=on"),
    ...(cards.length ? cards : [make("p", { class: "quiet" }, "No request waits.")])];
}

function placementFields(groups, chosen) {
  return [groupChoice(groups, chosen, { name: "group" }),
    make("label", {}, "Owner", make("input", { name: "owner", maxlength: 254, placeholder: "such as an e-mail address", autocapitalize: "none" })),
    make("label", {}, "Prefix length", make("input", { name: "length", type: "number", min: 33, max: 120, placeholder: "as its group says" }))];
}

function placement(wish) {
  const chosen = {};
  if (wish.group) chosen.group = wish.group;
  if (wish.owner) chosen.owner = wish.owner;
  if (wish.length) chosen.prefix_length = Number(wish.length);
  return chosen;
}

function linkTable(items) {
  const rows = [...items].reverse().map((item) => [String(item.id), make("div", {}, item.name || "any"), make("div", {}, item.group || "–"), make("div", {}, item.owner || "–"), `/${item.prefix_length}`,
    make("span", { class: item.state }, item.state), `${item.uses} of ${item.maximum_uses}`, when(item.expires),
    may("write") && item.state === "open" ? [make("button", { type: "button", class: "danger", onclick: async () => {
      if (!(await confirmed(`Let nobody in with link ${item.id} any more?`, "Revoke"))) return;
      await attempt(() => ask("DELETE", `/tokens/${item.id}`), `Link ${item.id} is revoked.`);
      show(current);
    } }, "Revoke")] : []]);
  return rows.length ? table(["Link", "Name", "Group", "Owner", "Prefix", "State", "Used", "Valid until", "Actions"], rows)
    : make("p", { class: "quiet" }, "No join link yet.");
}

async function links() {
  const groups = await ask("GET", "/groups");
  const place = make("div");
  const list = async () => place.replaceChildren(linkTable((await ask("GET", "/tokens?limit=1000")).items));
  await list();
  const result = make("div", { id: "result" });
  const form = make("form", { id: "create", onsubmit: submits(async (target) => {
    const wish = values(target);
    const request = { lifetime: Number(wish.lifetime), uses: Number(wish.uses || 1), ...placement(wish) };
    if (wish.name) request.name = wish.name;
    const made = await attempt(() => ask("POST", "/links", request), "Send this link to the owner of the machine; it is shown only now.");
    if (!made) return;
    const text = make("code", { id: "link" }, made.link);
    result.replaceChildren(make("p", { class: "result" }, text), make("button", { type: "button",
      onclick: () => attempt(() => navigator.clipboard.writeText(made.link), "Copied.") }, "Copy"), qrCode(made.qr_code || []));
    await attempt(list);
  }) },
  make("label", {}, "Name", make("input", { name: "name", maxlength: 63, placeholder: "the node chooses", autocapitalize: "none" })),
  ...placementFields(groups.items, "default").filter(Boolean),
  make("label", {}, "Nodes", make("input", { name: "uses", type: "number", min: 1, max: 10000, value: 1 })),
  make("label", {}, "Valid for", make("select", { name: "lifetime" },
    make("option", { value: 3600 }, "1 hour"), make("option", { value: 86400, selected: true }, "1 day"), make("option", { value: 604800 }, "1 week"))),
  make("button", { type: "submit" }, "Create link"));
  return [may("write") ? form : null, result, place];
}

const TIMES = ["expires", "due"];  // of the details

async function audit() {
  const columns = ["Time", "Who", "From", "Action", "Subject", "Details"];
  const place = make("div");
  const more = async (before) => {
    const page = await ask("GET", `/audit?before=${before}&limit=${PAGE}`);
    const rows = page.items.map((entry) => [when(entry.time), `${entry.actor_kind} ${entry.actor}`, entry.origin, entry.action, make("div", {}, entry.subject),
      make("code", {}, Object.entries(entry.details).map(([key, value]) => `${key}=${TIMES.includes(key) ? when(value) : value}`).join(" "))]);
    place.querySelector("button.more")?.remove();
    if (place.querySelector("tbody")) place.querySelector("tbody").append(...table(columns, rows).querySelector("tbody").children);
    else place.append(table(columns, rows));
    if (page.next) place.append(make("button", { class: "more", onclick: () => attempt(() => more(page.next)) }, "More"));
  };
  await more(Number.MAX_SAFE_INTEGER);
  return [place];
}

const views = { nodes, map, requests, links, admission: Settings.admission, parameters: Settings.parameters, audit };

async function show(view, unasked = false) {
  current = view;
  const mine = ++drawn;
  await attempt(async () => {
    overview = await ask("GET", "/overview");
    const elements = await views[view](unasked);
    if (mine !== drawn || (unasked && busy())) return;
    const focused = document.activeElement?.dataset.key;
    byId("network").textContent = `${overview.network} · ${count.format(overview.nodes.active)} active`;
    byId("tabs").hidden = false;
    document.querySelector("[data-view=requests]").dataset.count = overview.requests ? String(overview.requests) : "";
    for (const tab of document.querySelectorAll("[data-view]")) {
      if (tab.dataset.view === view) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    }
    byId("view").replaceChildren(...elements.filter(Boolean));
    if (focused) byId("view").querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  });
}

// -- coming and going

function joinCommand() {
  // Who follows a join link comes here. It is shown as a command for root's shell, so nothing else may look like one.
  const link = /^#ca=[0-9a-f]{64}(&token=[\w-]{16,128}|&tls=public|&also(-public)?=[\w.:%-]{1,300})*$/;
  if (!link.test(location.hash)) return [];
  return [make("section", { class: "result", id: "join" }, make("p", {}, "This is a join link. On the machine that is to join, as root, run"),
    make("p", {}, make("code", {}, `re6st-node join '${location.origin}/${location.hash}'`)),
    make("p", { class: "quiet" }, "if you trust who gave it to you: it decides into which network the machine comes. What follows is for operators."))];
}

function login() {
  const form = make("form", { id: "login", onsubmit: submits(async (target) => {
    token = values(target).token || "";
    tell("");
    await show("nodes");
    if (!overview || !token) return;
    sessionStorage.setItem("token", token);
    follow();
  }) },
  make("label", {}, "Operator token", make("input", { name: "token", type: "password", autocomplete: "off", required: true, autofocus: true })),
  make("button", { type: "submit" }, "Log in"));
  byId("view").replaceChildren(...joinCommand(), form, make("p", { class: "quiet" }, "On the registry's host: re6st-registry operator-token create NAME --scope write"));
}

function logout(reason = "") {
  stream?.abort();
  stream = null;
  drawn++;
  token = "";
  overview = null;
  sessionStorage.removeItem("token");
  byId("tabs").hidden = true;
  byId("network").textContent = "";
  login();
  tell(reason, Boolean(reason));
}

for (const tab of document.querySelectorAll("[data-view]")) tab.addEventListener("click", () => { tell(""); show(tab.dataset.view); });
byId("logout").addEventListener("click", () => logout());
if (token) show("nodes").then(() => { if (token) follow(); });
else login();
