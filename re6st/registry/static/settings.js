// What operators set: network parameters (now or at a chosen time), keys of the LANs, who may come in without a
// join link. Each change is previewed by the registry and sent with the entity tag of what was shown.
"use strict";

const Settings = (() => {
  const FIXED = ["version", "network", "babel_port", "authorities", "lan_keys"];
  const UNITS = { registry_urls: " (separated by commas)", hello_interval: " (seconds)", update_interval: " (seconds)", gossip_interval: " (seconds)" };
  const text = (value) => {
    if (typeof value === "boolean") return value ? "on" : "off";
    return Array.isArray(value) ? value.join(", ") : String(value);
  };
  const shown = (value) => (value === "" ? "(empty)" : value);
  const heading = (title, note) => [make("h2", {}, title), note ? make("p", { class: "quiet" }, note) : null];

  function changed(form, now) {
    // Readers have no fields that can change; what is left as it was is not sent.
    return Object.fromEntries([...new FormData(form)].filter(([key, value]) => key in now && value !== text(now[key])));
  }

  async function previewed(path, changes) {
    // The differences as lines for people; undefined for none or a mistake, which is told.
    if (!Object.keys(changes).length) return void tell("Nothing is changed.");
    const preview = await attempt(() => ask("POST", `${path}/preview`, { changes }));
    if (!preview) return undefined;
    if (!preview.differences.length) return void tell("Nothing is changed.");
    return preview.differences.map((item) => `${item.key}: ${shown(item.before)} → ${shown(item.after)}`);
  }

  // -- network parameters

  async function parameters() {
    const now = await ask("GET", "/parameters");
    const tag = tags.get("/parameters");
    const [history, plans, keys] = await Promise.all(
      ["/parameters/history?limit=20", "/parameters/plans", "/lan-keys"].map((path) => ask("GET", path)));
    return [make("p", {}, `Version ${now.version}`), parameterForm(now, tag), ...planned(now, plans.items), ...lanKeys(keys.items),
      ...heading("Versions"), versions(now, history.items)];
  }

  function parameterForm(now, tag) {
    const inputs = Object.keys(now).filter((key) => !FIXED.includes(key)).map((key) =>
      make("label", { class: Array.isArray(now[key]) ? "wide" : null }, `${key}${UNITS[key] || ""}`, make("input", { name: key, value: text(now[key]), readonly: !may("admin") })));
    const send = async (target) => {
      const changes = changed(target, now);
      const due = target.elements.due.value ? new Date(target.elements.due.value).getTime() / 1000 : 0;
      const lines = await previewed("/parameters", changes);
      if (!lines) return;
      const question = due ? `Change for all nodes on ${when(due)}:` : "Change for all nodes, now:";
      if (!(await confirmed(question, due ? "Plan" : "Change", lines))) return;
      const done = due
        ? await attempt(() => ask("POST", "/parameters/plans", { changes, due }), "The change waits for its time.")
        : await attempt(() => ask("PUT", "/parameters", { changes }, { "If-Match": tag }), "The new parameters spread through the network.");
      if (done) show(current);
    };
    return make("form", { id: "parameters", onsubmit: submits(send) }, ...inputs,
      may("admin") ? make("label", {}, "When (empty: now)", make("input", { name: "due", type: "datetime-local" })) : null,
      may("admin") ? make("button", { type: "submit" }, "Preview and change") : null);
  }

  function planned(now, plans) {
    if (!plans.length) return [];
    const rows = plans.map((plan) => [when(plan.due),
      make("ul", { class: "lines" }, ...Object.entries(plan.changes).map(([key, value]) => make("li", {}, `${key}: ${shown(text(now[key] ?? "?"))} → ${shown(value)}`))),
      may("admin") ? [make("button", { type: "button", class: "danger", onclick: async () => {
        if (!(await confirmed(`Leave everything as it is on ${when(plan.due)}?`, "Cancel the change"))) return;
        await attempt(() => ask("DELETE", `/parameters/plans/${plan.id}`), "The change will not happen.");
        show(current);
      } }, "Cancel")] : []]);
    return [...heading("Planned changes"), make("div", { id: "plans" }, table(["When", "Change", "Actions"], rows))];
  }

  function versions(now, history) {
    return table(["Version", "Since", "Actions"], history.map((item) => [String(item.parameters.version), when(item.created),
      may("admin") && item.parameters.version !== now.version ? [make("button", { type: "button", onclick: async () => {
        if (!(await confirmed(`Put the values of version ${item.parameters.version} in force again?`, "Restore"))) return;
        await attempt(() => ask("POST", "/parameters/undo", { version: item.parameters.version }), "The earlier values are in force again.");
        show(current);
      } }, "Restore")] : []]));
  }

  function lanKeys(keys) {
    const pending = keys.some((key) => key.since > overview.time);
    const rows = keys.map((key) => [make("code", {}, key.digest.slice(0, 16)),
      key.since > overview.time ? make("span", { class: "warning" }, `comes into force on ${when(key.since)}`)
        : make("span", {}, pending ? `in force since ${when(key.since)}, until the next one` : `in force since ${when(key.since)}`)]);
    const form = make("form", { id: "rotate", onsubmit: submits(async (target) => {
      const delay = Number(target.elements.delay.value);
      const question = keys.length ? "Make a new key for the LANs? " + (delay
        ? `All nodes change to it on ${when(overview.time + delay)}; one that does not hear of it until then has no neighbours in LANs until it does.`
        : "Nodes have no neighbours in LANs until they hear of it.") : "Make the first key for the LANs?";
      if (!(await confirmed(question, "Rotate"))) return;
      await attempt(() => ask("POST", "/lan-keys", { delay }), "The new key is on its way to all nodes.");
      show(current);
    }) },
    make("label", {}, "In force after", make("select", { name: "delay" }, ...[["0", "no time (a leak)"], ["600", "10 minutes"],
      ["3600", "1 hour"], ["86400", "1 day"]].map(([value, label]) => make("option", { value, selected: value === "3600" }, label)))),
    make("button", { type: "submit", class: "danger" }, "Rotate the key"));
    return [...heading("Keys of the LANs", "Nodes that are neighbours in a LAN without a tunnel know each other by it. Shown is the beginning of its SHA-256."),
      make("div", { id: "lan-keys" }, rows.length ? table(["Key", "State"], rows) : make("p", { class: "quiet" }, "There is no key yet.")),
      may("admin") && !pending ? form : null];
  }

  // -- who may come in

  const WAYS = [
    ["By approval", "Machines ask, you approve.", { requests: "Machines may ask", requests_pending: "Requests that may wait",
      requests_per_address: "From one address a day", requests_days: "Days until a request expires", requests_group: "Group" }],
    ["Open", "Whoever asks is let in at once.", { open: "Enrolment is open", open_prefix_length: "Prefix length", open_nodes: "Nodes in all",
      open_per_hour: "Nodes an hour", open_per_address: "From one address a day", open_group: "Group" }],
    ["By mail", "Whoever reads mail at these domains gets join links.", { mail: "Links are mailed", mail_domains: "Domains (* for any)",
      mail_nodes: "Nodes of one mailbox", mail_prefix_length: "Prefix length", mail_per_hour: "Mails an hour", mail_per_mailbox: "To one mailbox a day",
      mail_per_address: "Asked from one address a day", mail_server: "Mail server (HOST:PORT)", mail_security: "Encryption", mail_user: "User",
      mail_sender: "Sender", mail_group: "Group" }],
  ];

  function field(key, label, value, choicesOf) {
    const choices = typeof value === "boolean" ? ["off", "on"] : choicesOf[key];
    if (choices) {
      return make("label", {}, label, make("select", { name: key, disabled: !may("admin") },
        ...[...new Set([...choices, text(value)])].map((choice) => make("option", { value: choice, selected: choice === text(value) }, choice))));
    }
    return make("label", {}, label, make("input", { name: key, value: text(value), readonly: !may("admin"), autocapitalize: "none",
      type: typeof value === "number" ? "number" : "text", min: typeof value === "number" ? 1 : null }));
  }

  async function admission() {
    const [now, groups] = await Promise.all([ask("GET", "/admission"), ask("GET", "/groups")]);
    const tag = tags.get("/admission");
    const names = groups.items.map((group) => group.name);
    const choices = { mail_security: ["starttls", "tls", "none"], requests_group: names, open_group: names, mail_group: names };
    const known = WAYS.flatMap(([, , fields]) => Object.keys(fields));
    const others = Object.fromEntries(Object.keys(now).filter((key) => !known.includes(key)).map((key) => [key, key]));
    const ways = Object.keys(others).length ? [...WAYS, ["Others", "", others]] : WAYS;
    const send = async (target) => {
      const changes = changed(target, now);
      const lines = await previewed("/admission", changes);
      if (!lines || !(await confirmed("Change who may come in:", "Change", lines))) return;
      if (await attempt(() => ask("PUT", "/admission", { changes }, { "If-Match": tag }), "This is in force now.")) show(current);
    };
    return [make("p", { class: "quiet" }, "Ways to come in without a join link of yours. An address is an IPv4 address or an IPv6 /64."),
      make("form", { id: "admission", onsubmit: submits(send) }, ...ways.map(([title, note, fields]) =>
        make("fieldset", {}, make("legend", {}, title), make("p", { class: "quiet" }, note),
          ...Object.entries(fields).filter(([key]) => key in now).map(([key, label]) => field(key, label, now[key], choices)))),
      may("admin") ? make("button", { type: "submit" }, "Preview and change") : null)];
  }

  return { admission, parameters };
})();
